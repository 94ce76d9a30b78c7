"""Peak memory of one network: in a process of its own on the CPU, from the allocator's count on a GPU."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from benchmarks.cost.configurations import Configuration
from benchmarks.cost.contestants import PHASES, Contestant, make_input
from nnunet_xattnres.common import measure

Memory = dict[str, int]  # bytes: "peak", and "baseline" from before there was this network


def resident_memory(configuration: Configuration, mode: str, kind: str) -> dict[str, Memory | None]:
    """What a new process needs on the CPU for the steps of each phase; None where the system does not tell."""

    def of(phase: str) -> Memory | None:
        return measure.resident_memory(_step, configuration, mode, kind, phase, warm_up=_warm_up)

    with ThreadPoolExecutor() as pool:  # side by side, as nothing is timed
        return dict(zip(PHASES, pool.map(of, PHASES), strict=True))


def allocated_memory(contestant: Contestant, phase: str, baseline: int) -> Memory:
    """Of steps of a warm network on the GPU beyond ``baseline``, which holds what the networks before this one keep."""
    return {"peak": measure.allocated_memory(partial(contestant.run, phase)), "baseline": baseline}


def _step(configuration: Configuration, mode: str, kind: str, phase: str) -> measure.Step:
    x = make_input(configuration, "cpu")
    return partial(Contestant(configuration, mode, kind, x, compiled=False).run, phase)


def _warm_up(configuration: Configuration, mode: str, kind: str, phase: str) -> None:
    d = len(configuration.patch)
    tiny = Configuration("tiny", 1, (8,) * d, (2, 4, 4), ((2,) * d,) * 2)
    for _ in range(2):
        _step(tiny, mode, kind, phase)()
