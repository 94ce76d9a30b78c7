"""The specification against a naive float64 oracle, and the properties that the method states."""

import math

import pytest
import torch
from helpers.reads import AUTOCAST_DTYPES
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.ops.reference import history_read

POOLS = {  # channels and spatial sizes of the sources, channels and size of the target
    "2d down and up": ([(3, (8, 12)), (4, (4, 6)), (6, (2, 3))], 4, (4, 6)),
    "3d anisotropic": ([(2, (4, 8, 8)), (3, (4, 4, 4)), (5, (2, 2, 2))], 3, (4, 4, 4)),
    "odd sizes": ([(2, (7, 5)), (3, (3, 4)), (2, (1, 1))], 3, (5, 3)),
    "one source": ([(2, (4, 4))], 3, (8, 8)),
}


def make_read(name, *, direct=None):
    """pool, projections, pseudo-query, key scale, size, all float64 and away from their starting values."""
    torch.manual_seed(0)
    sources, channels, size = POOLS[name]
    pool = [torch.randn(2, c, *s, dtype=torch.float64) for c, s in sources]
    projections = [
        None if k == direct else torch.randn(channels, c, dtype=torch.float64) for k, (c, _) in enumerate(sources)
    ]
    query, scale = torch.randn(channels, dtype=torch.float64), torch.rand(channels, dtype=torch.float64) + 0.5
    return pool, projections, query, scale, size


def project(h, projection):
    return h if projection is None else torch.einsum("ij,bj...->bi...", projection, h)


def oracle(pool, projections, query, scale, size, eps=1e-6):
    """Resize first, then a loop over samples, sources and positions, straight from the formulas."""
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    aligned = [
        project(F.interpolate(h, size=size, mode=mode, align_corners=False), P) for h, P in zip(pool, projections)
    ]
    read = torch.zeros_like(aligned[0])
    weights = torch.zeros(len(read), len(pool), *size, dtype=torch.float64)
    for b in range(len(read)):
        for x in torch.cartesian_prod(*map(torch.arange, size)).tolist():
            here = (b, slice(None), *x)
            scores = []
            for v in aligned:
                rms = math.sqrt((v[here] ** 2).mean().item() + eps)
                scores.append(torch.dot(query, scale * v[here] / rms).item())
            total = sum(math.exp(s) for s in scores)
            for k, s in enumerate(scores):
                weights[(b, k, *x)] = math.exp(s) / total
                read[here] += math.exp(s) / total * aligned[k][here].detach()
    return read, weights


@pytest.mark.parametrize("name", POOLS)
def test_equals_the_oracle(name):
    args = make_read(name)
    read, weights = history_read(*args, return_weights=True)
    expected_read, expected_weights = oracle(*args)
    torch.testing.assert_close(read, expected_read, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-12)


def test_projecting_first_equals_resizing_first():
    pool, projections, *_, size = make_read("3d anisotropic")
    for h, projection in zip(pool, projections):
        first = F.interpolate(project(h, projection), size=size, mode="trilinear", align_corners=False)
        last = project(F.interpolate(h, size=size, mode="trilinear", align_corners=False), projection)
        torch.testing.assert_close(first, last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["2d down and up", "3d anisotropic"])
def test_gradcheck(name):
    pool, projections, query, scale, size = make_read(name, direct=1 if name.startswith("2d") else None)
    learned = [P.requires_grad_() for P in projections if P is not None]
    maps = [t[:1].detach().requires_grad_() for t in pool]
    inputs = [*maps, query.requires_grad_(), scale.requires_grad_(), *learned]

    def read(*tensors):
        maps, (q, g), learned = tensors[: len(pool)], tensors[len(pool) : len(pool) + 2], list(tensors[len(pool) + 2 :])
        weights = [None if P is None else learned.pop(0) for P in projections]
        return history_read(maps, weights, q, g, size, return_weights=True)

    assert torch.autograd.gradcheck(read, inputs)


def test_a_zero_query_reads_the_plain_mean():
    pool, projections, query, scale, size = make_read("3d anisotropic")
    read, weights = history_read(pool, projections, torch.zeros_like(query), scale, size, return_weights=True)
    aligned = [history_read([h], [P], query, scale, size) for h, P in zip(pool, projections)]
    torch.testing.assert_close(read, torch.stack(aligned).mean(0), rtol=0, atol=1e-12)
    assert torch.equal(weights, torch.full_like(weights, 1 / 3))


def test_weights_sum_to_one_and_depend_on_the_position():
    *args, size = make_read("2d down and up")
    _, weights = history_read(*args, size, return_weights=True)
    assert weights.shape == (2, 3, *size)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, *size, dtype=torch.float64))
    assert weights.std(dim=(2, 3)).min() > 1e-3


def test_scores_do_not_depend_on_the_scale_of_a_map():
    pool, projections, query, scale, size = make_read("2d down and up")
    _, before = history_read(pool, projections, query, scale, size, eps=0, return_weights=True)
    pool[0] = pool[0] * 1e3
    _, after = history_read(pool, projections, query, scale, size, eps=0, return_weights=True)
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_maps_are_scored_in_float32(dtype):
    pool = [torch.full((1, 4, 2, 2), 300.0, dtype=dtype), torch.ones(1, 4, 2, 2, dtype=dtype)]  # 300^2 > float16's max
    read, weights = history_read(pool, [None] * 2, torch.ones(4), torch.ones(4), (2, 2), return_weights=True)
    assert read.dtype == dtype and weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5))
    torch.testing.assert_close(read, torch.full_like(read, 150.5))


@pytest.mark.parametrize("dtype", AUTOCAST_DTYPES)
def test_norm_scores_and_softmax_are_in_float32_under_autocast(dtype):
    """Not so the projection, which autocast takes as it takes any 1x1 convolution."""
    torch.manual_seed(0)
    pool = [torch.randn(2, 4, 3, 5) for _ in range(3)]
    args = pool, [None] * 3, torch.randn(4), torch.randn(4), (3, 5)
    expected = history_read(*args, return_weights=True)
    with torch.autocast("cpu", dtype=dtype):
        found = history_read(*args, return_weights=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_low_precision_maps_with_float32_parameters_and_no_autocast():
    pool, projections, query, scale, size = make_read("2d down and up")
    expected = history_read(pool, projections, query, scale, size)
    read = history_read([h.bfloat16() for h in pool], [P.float() for P in projections], query, scale, size)
    assert read.dtype == torch.bfloat16
    torch.testing.assert_close(read.double(), expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_skip_and_below():
    *args, size = make_read("2d down and up", direct=1)
    read, below = history_read(*args, size), torch.randn(2, 5, *size, dtype=torch.float64)
    both = history_read(*args, size, skip=1, below=below)
    torch.testing.assert_close(both, torch.cat((below, args[0][1] + read), dim=1))
