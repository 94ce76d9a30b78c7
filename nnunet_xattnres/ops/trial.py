"""A path is tried: it proves itself on a small read, then it runs the real one, whose sums are compared (ours).

It runs in a process of its own, for what an illegal access leaves behind on CUDA cannot be caught.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.common.failures import attempt, first_line, is_poisoned
from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.shapes import ReadShape

TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 6e-3, "bfloat16": 5e-2}  # of each tensor's largest number
_EPS = 1e-6
_REPEATS = 5
Path = tuple[Callable[..., None], Callable[..., None]]


def trials(items: Sequence[dict[str, Any]], *, device: str, table: str, timed: bool) -> Iterator[dict[str, Any]]:
    """What became of each item: ``status`` ok, wrong, or a failure; where the device is refused, all are "not tried".

    With ok come the seconds of ``forward`` and ``backward``, and the ``sums`` of all that they wrote of the real read.

    Args:
        items: a ``path`` and a ``shape``, as ``dataclasses.asdict`` has it.
        device: on which.
        table: ``module:name`` of the paths, forward and backward by name.
        timed: whether to time the path on the real read.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # in what is compared with
    try:
        if torch.device(device).type == "cuda":
            torch.cuda.set_device(device)  # whose streams and events are the current ones
        torch.zeros(1, device=device)
    except Exception as error:  # a GPU that takes one process only, the training: it would refuse each of many others
        why = f"no other process can use {device}: {first_line(error)}"
        yield from ({"status": "not tried", "why": why} for _ in items)
        return
    module, name = table.split(":")
    paths = getattr(importlib.import_module(module), name)
    for item in items:
        shape = ReadShape.from_json(item["shape"])
        result = attempt(_try, paths[item["path"]], shape, torch.device(device), timed)
        yield result
        if result["status"] == "out of memory":
            torch.cuda.empty_cache()  # what torch keeps of it, kernels and libraries cannot have
        if is_poisoned(result):
            return


def _try(path: Path, shape: ReadShape, device: torch.device, timed: bool) -> dict[str, Any]:
    errors = _errors(path, shape.small(), device)
    worst = max(errors, key=lambda name: errors[name])
    found = {"status": "ok", "worst": worst, "error": errors[worst]}
    if errors[worst] > TOLERANCES[shape.dtype]:
        return {**found, "status": "wrong", "why": f"{worst} is off by {errors[worst]:.1e}"}
    run = _Run(path, shape, device)
    for phase, step in {"forward": run.forward, "backward": run.backward}.items():
        if timed:
            found[phase] = _seconds(step, device)
        else:
            step()
    sums = {name: _sums(x) for name, x in run.written().items()}
    for name, numbers in sums.items():
        if not all(map(isfinite, numbers)):
            return {"status": "wrong", "why": f"of the real read {name} is not finite"}
    return {**found, "sums": sums}


def compared(results: Mapping[str, dict[str, Any]], dtype: str) -> dict[str, dict[str, Any]]:
    """The results of a read's candidates, without the sums; wrong is one whose sums most of the others do not have.

    A small read is one tile, and its indices are small: neither is so of a real one, for which the reference has no
    memory. So the candidates, which are different code, have to agree there. Of two that do not, the last one counts as
    right: it has the smallest tiles.
    """
    sums = {path: result["sums"] for path, result in results.items() if "sums" in result}

    def errors(path: str, other: str) -> dict[str, float]:
        pairs = {name: (torch.tensor(x), torch.tensor(sums[other][name])) for name, x in sums[path].items()}
        return {name: error_of(found, expected) for name, (found, expected) in pairs.items()}

    def n_agreeing(path: str) -> int:
        return sum(max(errors(other, path).values()) <= TOLERANCES[dtype] for other in sums)

    right = max(reversed(sums), key=n_agreeing, default="")
    checked = {path: {k: v for k, v in result.items() if k != "sums"} for path, result in results.items()}
    for path in sums:
        name, error = max(errors(path, right).items(), key=lambda pair: pair[1])
        if error > TOLERANCES[dtype]:
            why = f"of the real read {name} is off by {error:.1e} from that of {right}"
            checked[path] = {"status": "wrong", "why": why}
    return checked


def _sums(x: Tensor) -> list[float]:
    """Of each plane of each sample one sum, its numbers weighted at random; by channels, for there is little memory."""
    maps = x if x.ndim >= 4 else x.reshape(1, 1, len(x), -1)  # a parameter has a row in the place of a plane
    generator = torch.Generator(x.device).manual_seed(0)
    total = torch.zeros((), device=x.device)
    for channel in maps.unbind(1):
        wide = channel.to(torch.promote_types(x.dtype, torch.float32))
        weights = torch.randn(wide.shape[2:], generator=generator, device=x.device, dtype=wide.dtype)
        total = total + (wide * weights).flatten(2).sum(2)
    return total.flatten().tolist()  # (B, planes)


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
    wanted = [out.detach(), log_sum.unsqueeze(1), *expected]
    return {name: error_of(x, y) for (name, x), y in zip(run.written().items(), wanted, strict=True)}


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

    def written(self) -> dict[str, Tensor]:
        """All that the path has written, by name: maps (B, channels, *spatial), and the gradients of the parameters."""
        found = {"the read": self.out[:, self.shape.before :], "the log-sum": self.log_sum.unsqueeze(1)}
        found |= {f"the gradient of source {k}": d for k, d in enumerate(self.d_pool)}
        given = [d for d in self.d_projections if d is not None]
        found |= {f"the gradient of a projection ({k})": d for k, d in enumerate(given)}
        return {**found, "the gradient of the query": self.d_query}


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
