"""Where the time of the reads goes: the operators that torch's profiler sees inside them, in a training step."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.cost.configurations import CONFIGURATIONS, Configuration
from benchmarks.cost.contestants import Contestant, make_input

OPERATORS = ("history_read", "history_read_backward", "resize", "resize_backward")
PROFILED = ("hippocampus 3d_fullres, batch 2", "2D, 7 stages, 256^2, batch 4")
SHOWN = 8
CALLS = "calls, Python and allocation"  # what is left of a read when its operators are taken away


def profile_reads() -> list[dict[str, Any]]:
    """The share of each operator in the time of the reads, of one training step on the CPU."""
    return [_profile(c) for c in CONFIGURATIONS if c.name in PROFILED]


def _profile(configuration: Configuration) -> dict[str, Any]:
    contestant = Contestant(configuration, "add", "fast", make_input(configuration, "cpu"), compiled=False)
    contestant.run("training")
    with profile(activities=[ProfilerActivity.CPU]) as found:
        contestant.run("training")
    return {"configuration": configuration.name, **summarise(found.events())}


def summarise(events: Any) -> dict[str, Any]:
    """Microseconds of the step and of the reads, and the reads' by operator."""
    inside: Counter[str] = Counter()
    step = reads = 0.0
    for event in events:
        is_read, is_inside = _is_read(event), any(map(_is_read, _parents(event)))
        if event.cpu_parent is None:
            step += event.cpu_time_total
        if is_read and not is_inside:
            reads += event.cpu_time_total
        if is_read or is_inside:
            inside[CALLS if is_read else event.name] += event.self_cpu_time_total
    shown = dict(inside.most_common(SHOWN))
    shown["others"] = sum(inside.values()) - sum(shown.values())
    return {"step": step, "reads": reads, "operators": shown}


def _is_read(event: Any) -> bool:
    return event.name in {f"nnunet_xattnres::{name}" for name in OPERATORS}


def _parents(event: Any) -> Iterator[Any]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event
