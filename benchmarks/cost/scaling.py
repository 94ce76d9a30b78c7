"""How the time of the reads grows with voxels, sources and stages."""

from collections.abc import Sequence
from math import log, prod
from statistics import linear_regression, median, pstdev
from time import perf_counter
from typing import Any

import torch
from torch import nn

from benchmarks.cost.configurations import Configuration
from benchmarks.cost.contestants import Contestant, choose, make_input
from nnunet_xattnres.ops.shapes import ReadShape
from nnunet_xattnres.reads.history_read import HistoryRead

REPEATS = 5


def measure_scaling(device: str) -> list[dict[str, Any]]:
    """Seconds of forward and backward as one quantity grows, the others fixed."""
    n = {"cpu": 32, "cuda": 64}[device]  # a GPU takes as long for less
    sizes = [(n, n, n), (n, n, 2 * n), (n, 2 * n, 2 * n), (2 * n,) * 3]
    sources, stages = (2, 4, 6, 8, 10), (3, 4, 5, 6)
    return [
        growth("voxels", [prod(size) for size in sizes], [_read_seconds(6, size, device) for size in sizes]),
        growth("sources", sources, [_read_seconds(k, (n, n, n), device) for k in sources]),
        growth("stages", stages, [_extra_seconds(k, (2 * n,) * 3, device) for k in stages]),
    ]


def growth(what: str, values: Sequence[float], seconds: Sequence[float]) -> dict[str, Any]:
    """The measurements, and the factor on the time for twice the quantity."""
    return {
        "quantity": what,
        "values": list(values),
        "seconds": list(seconds),
        "doubling": doubling(values, seconds),
    }


def doubling(values: Sequence[float], seconds: Sequence[float]) -> float | None:
    """The factor on the time for twice the quantity, from a line through the logarithms.

    None where the measurements determine none: a time is not positive, as the reads' share was smaller than the noise,
    the times do not grow, or they scatter around the line more than they grow along it.
    """
    if min(seconds) <= 0:
        return None
    x, y = [log(v) for v in values], [log(s) for s in seconds]
    slope = linear_regression(x, y).slope
    along = [slope * a for a in x]
    around = [b - a for a, b in zip(along, y, strict=True)]
    return 2**slope if slope > 0 and pstdev(along) > pstdev(around) else None


def _read_seconds(n_sources: int, size: tuple[int, ...], device: str) -> float:
    """Of one read whose first source is at the target's size and the others at half of it, 32 channels each."""
    torch.manual_seed(0)
    read = HistoryRead([32] * n_sources, 32, nn.Conv3d, direct=[0]).to(device)
    halves = tuple(n // 2 for n in size)
    pool = [torch.randn(1, 32, *(halves if k else size), device=device, requires_grad=True) for k in range(n_sources)]
    gradient = torch.randn(1, 32, *size, device=device)
    choose(lambda: [ReadShape.of(pool, [0], 32, None, gradient)], gradient.device)
    times = []
    for _ in range(REPEATS + 1):
        start = perf_counter()
        read(pool, size).backward(gradient)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return median(times[1:])  # the first warms up


def _extra_seconds(n_stages: int, patch: tuple[int, ...], device: str) -> float:
    """What the reads add to a training step of a narrow network."""
    configuration = Configuration(
        f"{n_stages} stages", 1, patch, tuple(min(8 * 2**s, 80) for s in range(n_stages)), ((2, 2, 2),) * (n_stages - 1)
    )
    x = make_input(configuration, device)
    plain, fast = (Contestant(configuration, "add", kind, x, compiled=False) for kind in ("plain", "fast"))
    pairs = [(plain.seconds("training"), fast.seconds("training")) for _ in range(REPEATS + 1)]
    return median(b - a for a, b in pairs[1:])
