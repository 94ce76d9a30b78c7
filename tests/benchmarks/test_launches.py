"""The budget: launches and bytes of the reads of a training step on a GPU. It may shrink; it must not creep up."""

import pytest
import torch

from benchmarks.cost import launches
from benchmarks.cost.configurations import Configuration
from benchmarks.cost.launches import Count, Counter, count, total
from nnunet_xattnres.ops import fused
from nnunet_xattnres.ops.tiles import _TILE_ELSEWHERE

SMALL = Configuration("small", 1, (16, 16), (2, 4, 4), ((2, 2), (2, 2)))


def within(counts, at_most_launches, at_most_gigabytes):
    found = total(counts)
    assert found.launches <= at_most_launches
    assert found.torch_bytes <= at_most_gigabytes * 1e9


def test_the_standard_network_by_tiles():
    within(count(), 3_937, 171)


@pytest.mark.skipif(not fused.available(), reason="Triton is not installed")
@pytest.mark.parametrize(("channels", "at_most_launches", "at_most_gigabytes"), [(64, 1_202, 21.4), (128, 992, 12.5)])
def test_the_standard_network_by_the_kernels(channels, at_most_launches, at_most_gigabytes):
    counts = count(fused_channels=channels)
    within(counts, at_most_launches, at_most_gigabytes)
    assert total(counts).triton > 0


@pytest.fixture
def widened(monkeypatch):
    """How many numbers each call makes float32 that were half."""
    found, original = [], launches._bytes_of_call

    def spy(func, name, args, kwargs, out):
        given = args[1] if name == "copy_" else args[0]
        if name in ("copy_", "_to_copy") and (given.dtype, out.dtype) == (torch.float16, torch.float32):
            found.append(out.numel())
        return original(func, name, args, kwargs, out)

    monkeypatch.setattr(launches, "_bytes_of_call", spy)
    return found


def test_by_tiles_no_more_is_widened_than_a_tile(widened):
    count(SMALL)
    assert widened  # the spy sees it
    widened.clear()
    count()
    assert max(widened) <= _TILE_ELSEWHERE < 2 * 32 * 128**3  # the largest map


@pytest.mark.skipif(not fused.available(), reason="Triton is not installed")
def test_around_the_kernels_nothing_is_widened(widened):
    count(fused_channels=320)
    assert widened == []


def test_every_read_is_counted_forward_and_backward():
    parts = {part for part, _ in count(SMALL)}
    assert parts == {"e3", "d1", "d2", launches.RESIZES, launches.SUMS}
    assert {phase for part, phase in count(SMALL) if part == "d2"} == {"forward", "backward"}


def test_what_counts():
    counter = Counter()
    x, y = torch.empty(4, 6, device="meta", dtype=torch.half), torch.empty(6, device="meta", dtype=torch.half)
    with counter:
        x.t().unsqueeze(0).expand(5, -1, -1)
        torch.empty_like(x)
        torch.ones(3)  # on the CPU: made once and kept
    assert counter.counts == {}
    with counter:
        torch.mul(x, y.expand(4, 6), out=torch.empty_like(x))  # what is expanded stands in memory once
        x.copy_(y)
        x.add_(y)
    sizes = [48 + 12 + 48, 12 + 48, 48 + 12 + 48]
    assert counter.counts == {("", "forward"): Count(3, sum(sizes))}
