"""The models of a comparison: trainers on plans, with their repeats."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from nnunet_xattnres.common.numbers import mean_of
from nnunet_xattnres.nnunet.results import Run, Values


@dataclass(frozen=True)
class Model:
    """A trainer on plans, with its repeats.

    Attributes:
        name: what tables call it.
        runs: one for each repeat; the first is the one without a ``_repN`` in the name of its plans, if that is there.
    """

    name: str
    runs: Sequence[Run] = field(default_factory=tuple)

    def values(self, measure: str) -> Values:
        """The mean over the repeats, for what all of them have; NaN in some repeats only counts in the others.

        Args:
            measure: as ``Fold.values`` takes it.
        """
        runs = [run.values(measure) for run in self.runs]
        return {
            case: {k: mean_of([run[case][k] for run in runs]) for k in values if all(k in run[case] for run in runs)}
            for case, values in runs[0].items()
            if all(case in run for run in runs)
        }


def costs(model: Model) -> dict[str, Any]:
    """Parameters, mean seconds of an epoch, and peak GPU memory in MiB; None for what is not known."""
    folds = [fold for run in model.runs for fold in run.folds.values()]

    def known(name: str) -> list[float]:
        return [getattr(fold, name) for fold in folds if getattr(fold, name) is not None]

    seconds, memory, parameters = known("epoch_seconds"), known("gpu_memory"), known("parameters")
    return {
        "parameters": int(max(parameters)) if parameters else None,
        "epoch_seconds": mean(seconds) if seconds else None,
        "gpu_memory": max(memory) if memory else None,
    }
