"""A path is tried: it proves itself on a small read, then it is timed on the real one (ours).

It runs in a process of its own, for what an illegal access leaves behind on CUDA cannot be caught.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.common.failures import attempt, is_poisoned
from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.shapes import ReadShape

TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 6e-3, "bfloat16": 5e-2}  # of each tensor's largest number
_EPS = 1e-6
_REPEATS = 5
Path = tuple[Callable[..., None], Callable[..., None]]


def trials(items: Sequence[dict[str, Any]], *, device: str, table: str, timed: bool) -> Iterator[dict[str, Any]]:
    """What became of each item: ``status`` ok (with the seconds of ``forward`` and ``backward``), wrong, or a failure.

    Args:
        items: a ``path`` and a ``shape``, as ``dataclasses.asdict`` has it.
        device: on which.
        table: ``module:name`` of the paths, forward and backward by name.
        timed: whether to time the path on the real shape.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # in what is compared with
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)  # whose streams and events are the current ones
    module, name = table.split(":")
    paths = getattr(importlib.import_module(module), name)
    for item in items:
        shape = ReadShape.from_json(item["shape"])
        result = attempt(_try, paths[item["path"]], shape, torch.device(device), timed)
        yield result
        if is_poisoned(result):
            return


def _try(path: Path, shape: ReadShape, device: torch.device, timed: bool) -> dict[str, Any]:
    errors = _errors(path, shape.small(), device)
    worst = max(errors, key=lambda name: errors[name])
    found = {"status": "ok", "worst": worst, "error": errors[worst]}
    if errors[worst] > TOLERANCES[shape.dtype]:
        return {**found, "status": "wrong", "why": f"{worst} is off by {errors[worst]:.1e}"}
    if timed:
        run = _Run(path, shape, device)
        found |= {"forward": _seconds(run.forward, device), "backward": _seconds(run.backward, device)}
    return found


def _errors(path: Path, shape: ReadShape, device: torch.device) -> dict[str, float]:
    """Of the read, of what its forward hands on to the backward of any path, and of every gradient.

    They are on the scale of each one's largest number in the reference.
    """
    run = _Run(path, shape, device)
    run.forward()
    run.backward()
    dtype = run.query.dtype
    pool = [h.to(dtype).requires_grad_() for h in run.pool]
    projections = [p if p is None else p.clone().requires_grad_() for p in run.projections]
    query = run.query.clone().requires_grad_()
    ones = torch.ones_like(query)
    out: Any = reference.history_read(pool, projections, query, ones, shape.size, skip=shape.skip, eps=_EPS)
    given = [p for p in projections if p is not None]
    expected = torch.autograd.grad(out, [*pool, *given, query], run.grad[:, shape.before :].to(dtype))
    with torch.no_grad():
        log_sum = reference.log_sum(pool, projections, query, ones, shape.size, eps=_EPS)
    names = ["the read", "the log-sum", *(f"the gradient of source {k}" for k in range(len(pool)))]
    names += [f"the gradient of a projection ({k})" for k in range(len(given))] + ["the gradient of the query"]
    found = [run.out[:, shape.before :], run.log_sum, *run.d_pool]
    found += [*(d for d in run.d_projections if d is not None), run.d_query]
    return {name: error_of(a, b) for name, a, b in zip(names, found, [out.detach(), log_sum, *expected], strict=True)}


class _Run:
    """One path on one read, with all that it writes."""

    def __init__(self, path: Path, shape: ReadShape, device: torch.device) -> None:
        self.path, self.shape = path, shape
        operands = shape.tensors(device)
        self.pool, self.projections, self.query = operands["pool"], operands["projections"], operands["query"]
        self.grad: Tensor = operands["grad"]
        self.out = torch.full_like(self.grad, float("nan"))  # what is not written must not look right
        self.log_sum = self.query.new_full((shape.batch, *shape.size), float("nan"))
        self.d_pool = [torch.full_like(h, float("nan")) for h in self.pool]
        self.d_projections = [p if p is None else torch.full_like(p, float("nan")) for p in self.projections]
        self.d_query = torch.full_like(self.query, float("nan"))

    def forward(self) -> None:
        options: dict[str, Any] = {"skip": self.shape.skip, "eps": _EPS, "out": self.out, "log_sum": self.log_sum}
        self.path[0](self.pool, self.projections, self.query, list(self.shape.size), **options)

    def backward(self) -> None:
        written = {"d_pool": self.d_pool, "d_projections": self.d_projections, "d_query": self.d_query}
        options: dict[str, Any] = {"skip": self.shape.skip, "eps": _EPS}
        self.path[1](self.grad, self.log_sum, self.pool, self.projections, self.query, **options, **written)


def error_of(found: Tensor, expected: Tensor) -> float:
    """The largest error on the scale of the largest expected number; infinite where a number is not finite."""
    if not found.isfinite().all():
        return float("inf")
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-3)).item()


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """The median of some runs, by CUDA's events where there are any."""
    step()
    if device.type != "cuda":
        durations = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            step()
            durations.append(time.perf_counter() - start)
        return median(durations)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(_REPEATS + 1)]
    for mark in marks[:-1]:
        mark.record()
        step()
    marks[-1].record()
    torch.cuda.synchronize(device)
    return median(a.elapsed_time(b) / 1e3 for a, b in pairwise(marks))
