"""Seconds and memory of networks beside nnU-Net's own, in alternation."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from benchmarks.cost.configurations import Configuration
from benchmarks.gpu.plans import build
from nnunet_xattnres.common import measure
from nnunet_xattnres.common.failures import attempt, is_poisoned

PHASES = ("inference", "training")  # inference first, as long as there is no momentum
_WARM_UP = 3  # compiles, tries out the algorithms of convolutions
_RECOMPILE_LIMITS = ("recompile_limit", "cache_size_limit")  # its name, since and before torch 2.6
_NETWORKS = 64  # graphs of one forward: each network has two


class Warm:
    """A network that has run, and the memory that it needs beyond what was there before it."""

    def __init__(self, configuration: Configuration, kind: str, x: Tensor, backend: str | None) -> None:
        before = torch.cuda.memory_allocated() if x.is_cuda else 0
        start = time.perf_counter()
        contestant = measure.Contestant(
            build(configuration, kind), x, backend is not None, backend=backend or "inductor"
        )
        self.steps: dict[str, measure.Step] = {
            "inference": partial(contestant.infer, compiled=backend is not None),
            "training": contestant.train,
        }
        self.memory: dict[str, int | None] = {}
        for phase in PHASES:
            for _ in range(_WARM_UP):
                self.steps[phase]()
            self.memory[phase] = measure.allocated_memory(self.steps[phase]) - before if x.is_cuda else None
        self.first_steps = time.perf_counter() - start


def time_kinds(
    items: Sequence[dict[str, Any]],
    *,
    configuration: Configuration,
    backend: str | None,
    device: str,
    pairs: int,
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """What became of each item, a kind of network: medians, ratios over the plain network's steps, memory.

    The plain network stays, for every other one alternates with it. Of the others one at a time is on the device.

    Args:
        items: the kinds.
        configuration: of the networks.
        backend: of torch.compile; None to compile nothing.
        device: cuda or cpu.
        pairs: measurements at least, of each network and phase.
        seconds: go on measuring for so long, of each network and phase.
    """
    torch.backends.cudnn.benchmark = True  # as nnU-Net
    if backend is not None:
        _allow_many_graphs()
    torch.manual_seed(0)
    x = torch.randn(configuration.batch, 1, *configuration.patch, device=device)
    kept: list[Warm] = []
    plain_failed = attempt(lambda: kept.append(Warm(configuration, "plain", x, backend)) or {})
    for item in items:
        plain = kept[0] if kept else None
        if item["kind"] == "plain":
            result = plain_failed if plain is None else attempt(_summary, plain, plain, pairs, seconds)
        else:
            result = attempt(_of_kind, configuration, item["kind"], x, backend, plain, pairs, seconds)
        yield result
        if is_poisoned(result):
            return
        _clean_up(x)


def _of_kind(
    configuration: Configuration,
    kind: str,
    x: Tensor,
    backend: str | None,
    plain: Warm | None,
    pairs: int,
    seconds: float,
) -> dict[str, Any]:
    return _summary(Warm(configuration, kind, x, backend), plain, pairs, seconds)


def _summary(warm: Warm, plain: Warm | None, pairs: int, seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {"status": "ok", "first_steps": warm.first_steps}
    for phase in PHASES:
        own, of_plain = _alternate(warm.steps[phase], plain and plain.steps[phase], pairs, seconds)
        memory, plain_memory = warm.memory[phase], plain and plain.memory[phase]
        result[phase] = {
            "seconds": median(own),
            "plain_seconds": median(of_plain) if of_plain else None,
            "ratio": median(a / b for a, b in zip(own, of_plain, strict=True)) if of_plain else None,
            "all": [own, of_plain],
            "memory": memory,
            "memory_ratio": memory / plain_memory if memory and plain_memory else None,
        }
    return result


def _alternate(
    own: measure.Step, plain: measure.Step | None, pairs: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Durations; each pair begins where the one before ended, so what slows the machine down slows both down."""
    durations: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + seconds
    _once(plain, own)  # what the other phase has left behind is no part of it
    while len(durations[0]) < pairs or time.monotonic() < end:
        if plain is not None:
            durations[1].append(measure.seconds_of(plain))
        durations[0].append(measure.seconds_of(own))
    return durations


def _once(*steps: Callable[[], object] | None) -> None:
    for step in steps:
        if step is not None:
            step()


def _allow_many_graphs() -> None:
    """Or torch.compile gives up after a few networks of one class, without a word."""
    config = torch._dynamo.config
    for name in _RECOMPILE_LIMITS:
        if hasattr(config, name):
            setattr(config, name, _NETWORKS)


def _clean_up(x: Tensor) -> None:
    gc.collect()
    if x.is_cuda:
        torch.cuda.empty_cache()
