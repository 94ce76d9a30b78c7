"""The models of a comparison: trainers on plans, with their repeats."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
