"""Try the paths of a network's reads on this GPU, and choose (ours)."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import distributed as dist

from nnunet_xattnres.common.children import results as results_of_children
from nnunet_xattnres.common.failures import is_poisoned
from nnunet_xattnres.ops import fused
from nnunet_xattnres.ops.choice import FUSED_CHANNELS
from nnunet_xattnres.ops.chosen import (
    CANDIDATES,
    PASSING,
    Choice,
    Results,
    decide_or_fall_back,
    load,
    machine,
    remember,
    save,
)
from nnunet_xattnres.ops.shapes import ReadShape
from nnunet_xattnres.ops.tiles import small_tiles_differ
from nnunet_xattnres.ops.trial import compared

TABLE = "nnunet_xattnres.ops.operator:PATHS"
LIMIT = 60.0  # seconds for one path of one read, compiling its kernels included
BUDGET = 400.0  # for all; other processes of a training wait for this one meanwhile, and NCCL gives up after 600
_TRIED = {"ok", "wrong", "failed", "out of memory", "crashed", "too slow"}  # what is worth keeping


@dataclass(frozen=True)
class Found:
    """What was chosen for a read, and why.

    Attributes:
        shape: of the read.
        choice: the paths that it takes.
        results: of each candidate, what became of it; empty where the choice of a checkpoint is kept.
        source: "tried", "cache" or "checkpoint".
    """

    shape: ReadShape
    choice: Choice
    results: Results
    source: str

    def __str__(self) -> str:
        text = f"{self.shape}: forward {self.choice.forward}, backward {self.choice.backward} ({self.source})"
        failures = [
            f"{name} {r['status']}: {r.get('why', '')}" for name, r in self.results.items() if r["status"] != "ok"
        ]
        if len(failures) == len(self.results) > 0:
            text += "; none has proved itself, so plain torch is the last resort"
        return "; ".join([text, *failures])


def choose_paths(
    shapes: Sequence[ReadShape],
    device: torch.device,
    log: Callable[[str], object],
    *,
    stored: Sequence[Mapping[str, Any]] = (),
    candidates: Sequence[str] = CANDIDATES,
    table: str = TABLE,
    limit: float = LIMIT,
    budget: float = BUDGET,
) -> list[Found]:
    """Choose a path for every read, and remember it for the operator; under DDP all ranks call it, and agree.

    A candidate is used only after it has proved itself here: in a child process, for an illegal access poisons a CUDA
    context, and a hang would stop a training. The proof is against the reference, on a small read; on the real one the
    candidates have to agree. Of those that have proved themselves, the fastest is taken; with deterministic algorithms
    the first in the fixed order, and nothing is timed. Where none has, the last resort is plain torch: ``tiled``,
    whatever became of it, unless it is wrong.

    Args:
        shapes: of the reads; under DDP every rank tries those of all, for their batches may differ.
        device: where they will run.
        log: takes one line a read.
        stored: the choices of a checkpoint, kept where they were made on such a machine: ``as_json``.
        candidates: the fixed order.
        table: ``module:name`` of the paths.
        limit: seconds for one path of one read.
        budget: seconds for all.

    Raises:
        UserError: when no path has proved itself, and ``tiled`` computes something else than the reference.
    """
    device = torch.empty(0, device=device).device  # with its index, as the maps have it
    here = machine(device)
    shapes = list(dict.fromkeys(shape for of_rank in _gathered(list(shapes)) for shape in of_rank))
    kept = _kept(stored, here)
    everywhere = dict(zip(shapes, _everywhere([shape in kept for shape in shapes]), strict=True))
    found = [Found(shape, kept[shape], {}, "checkpoint") for shape in shapes if everywhere[shape]]
    rest = [shape for shape in shapes if not everywhere[shape]]
    if stored and rest:
        elsewhere = next((s["machine"] for s in stored if s["machine"] != here), None)
        why = "do not have them" if elsewhere is None else f"were made on {elsewhere}"
        log(f"The paths of {len(rest)} of {len(shapes)} reads are chosen anew: those of the checkpoint {why}")
    if rest:
        found += _chosen_anew(
            rest, device, here, log=log, candidates=candidates, table=table, limit=limit, budget=budget
        )
    for one in found:
        remember(device, one.shape, one.choice, one.results)
        log(f"Read {one}")
    return found


def _chosen_anew(
    shapes: Sequence[ReadShape],
    device: torch.device,
    here: str,
    *,
    log: Callable[[str], object],
    candidates: Sequence[str],
    table: str,
    limit: float,
    budget: float,
) -> list[Found]:
    """By what the cache knows, and by trying the rest."""
    timed = not torch.are_deterministic_algorithms_enabled()
    possible = _possible(candidates, shapes, device)
    known = {shape: load(here, shape) or {} for shape in possible}
    before = {
        shape: {path: known[shape][path] for path in paths}
        for shape, paths in possible.items()
        if set(paths) <= known[shape].keys()
    }
    cached = {shape: results for shape, results in before.items() if _complete(results, timed)}
    missing = {shape: paths for shape, paths in possible.items() if shape not in cached}
    tried = {
        shape: {path: _tried_or_known(result, before.get(shape, {}).get(path)) for path, result in results.items()}
        for shape, results in _try(missing, device, table, timed, limit, budget).items()
    }
    cached |= {shape: results for shape, results in tried.items() if results == before.get(shape)}
    tried |= cached
    everywhere = _everywhere([shape in cached for shape in shapes])
    ranks = _gathered((here, [tried[shape] for shape in shapes]))
    if [where for where, _ in ranks].index(here) == _rank():  # the first of those on such a machine
        of_machine = _agreed(shapes, [of_rank for where, of_rank in ranks if where == here])
        _save(here, {shape: of_machine[shape] for shape, k in zip(shapes, everywhere, strict=True) if not k}, log)
    found = []
    for shape, results in _agreed(shapes, [of_rank for _, of_rank in ranks]).items():
        choice = decide_or_fall_back(results, device, timed=timed)
        found.append(Found(shape, choice, results, "cache" if shape in cached else "tried"))
    return found


def as_json(found: Sequence[Found], device: torch.device) -> list[dict[str, Any]]:
    """The choices for a checkpoint, ``stored`` of ``choose_paths``: those that another try would not change."""
    timed = not torch.are_deterministic_algorithms_enabled()
    final = [
        one
        for one in found
        if one.source == "checkpoint" or (_complete(one.results, timed) and _all_tried(one.results, besides=PASSING))
    ]
    return [{"machine": machine(device), "shape": asdict(one.shape), **asdict(one.choice)} for one in final]


def _kept(stored: Sequence[Mapping[str, Any]], here: str) -> dict[ReadShape, Choice]:
    same = [s for s in stored if s["machine"] == here]
    return {ReadShape.from_json(s["shape"]): Choice(s["forward"], s["backward"]) for s in same}


def _complete(results: Results, timed: bool) -> bool:
    """Whether there is something to choose from, and no other result is to be expected of another try.

    What has failed may have done so for want of a compiler or of room on the disk, unless it spoiled the device.
    """
    proved = [r for r in results.values() if r["status"] == "ok"]
    failed = any(r["status"] == "failed" and not is_poisoned(r) for r in results.values())
    return bool(proved) and not failed and not (timed and any("forward" not in r for r in proved))


def _tried_or_known(result: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    """What was known before is better than what there was no time for."""
    return result if known is None or result["status"] in _TRIED else known


def _all_tried(results: Results, besides: Collection[str] = ()) -> bool:
    return {result["status"] for result in results.values()} <= _TRIED - set(besides)


def _try(
    possible: Mapping[ReadShape, Sequence[str]],
    device: torch.device,
    table: str,
    timed: bool,
    limit: float,
    budget: float,
) -> dict[ReadShape, Results]:
    pairs = [(shape, path) for shape, paths in possible.items() for path in paths]
    items = [{"path": path, "shape": asdict(shape)} for shape, path in pairs]
    arguments = {"device": str(device), "table": table, "timed": timed}
    found = []
    try:
        for result in results_of_children(
            "nnunet_xattnres.ops.trial:trials", items, arguments, limit=limit, deadline=time.monotonic() + budget
        ):
            found.append(result)
    except Exception as error:  # raised, it would leave the other ranks waiting for what this one says
        why = f"{type(error).__name__}: {error}"
        found += [{"status": "not tried", "why": why} for _ in pairs[len(found) :]]
    tried: dict[ReadShape, Results] = {shape: {} for shape in possible}
    for (shape, path), result in zip(pairs, found, strict=True):
        tried[shape][path] = result
    return {shape: compared(results, shape.dtype) for shape, results in tried.items()}


def _possible(
    candidates: Sequence[str], shapes: Sequence[ReadShape], device: torch.device
) -> dict[ReadShape, list[str]]:
    """What to try of each read on all ranks: the kernels where they fit, small tiles where they are others."""

    def possible(path: str, shape: ReadShape) -> bool:
        if path == "fused":
            return fused.available() and shape.channels <= FUSED_CHANNELS
        return path != "tiled-small" or "tiled" not in candidates or small_tiles_differ(shape, device)

    ranks = _gathered([[path for path in candidates if possible(path, shape)] for shape in shapes])
    of_shapes = zip(shapes, zip(*ranks, strict=True), strict=True)
    return {shape: [path for path in first if all(path in o for o in others)] for shape, (first, *others) in of_shapes}


def _save(here: str, found: Mapping[ReadShape, Results], log: Callable[[str], object]) -> None:
    for shape, results in found.items():
        if _all_tried(results):
            try:
                save(here, shape, results)
            except (OSError, RuntimeError) as error:  # no reason not to train
                log(f"What was tried of the reads is not kept for the next time: {error}")
                return


def _agreed(shapes: Sequence[ReadShape], ranks: Sequence[Sequence[Results]]) -> dict[ReadShape, Results]:
    """Of some ranks: what failed for one has failed, and the slowest one's time counts."""
    return {shape: _merged(of_ranks) for shape, *of_ranks in zip(shapes, *ranks, strict=True)}


def _merged(of_ranks: Sequence[Results]) -> Results:
    merged = {}
    for name in of_ranks[0]:
        ranks = [results[name] for results in of_ranks]
        bad = max((r for r in ranks if r["status"] != "ok"), key=lambda r: r["status"] == "wrong", default=None)
        timed = [phase for phase in ("forward", "backward") if all(phase in r for r in ranks)]
        merged[name] = bad or {"status": "ok", **{phase: max(r[phase] for r in ranks) for phase in timed}}
    return merged


def _everywhere(values: list[bool]) -> list[bool]:
    return [all(of_ranks) for of_ranks in zip(*_gathered(values), strict=True)]


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _gathered(value: Any) -> list[Any]:
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
