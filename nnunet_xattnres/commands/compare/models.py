"""The models of a comparison: trainers on plans, with their repeats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.plans import REPEAT
from nnunet_xattnres.nnunet.results import Dice, Run


@dataclass(frozen=True)
class Model:
    """A trainer on plans, with its repeats.

    Attributes:
        name: what tables call it.
        runs: one for each repeat; the first is the one without a ``_repN`` in the name of its plans, if that is there.
    """

    name: str
    runs: Sequence[Run] = field(default_factory=tuple)

    @property
    def dice(self) -> Dice:
        """The mean over the repeats, for what all of them have; NaN in some repeats only counts in the others."""
        runs = [run.dice for run in self.runs]
        return {
            case: {k: mean_of([run[case][k] for run in runs]) for k in dice if all(k in run[case] for run in runs)}
            for case, dice in runs[0].items()
            if all(case in run for run in runs)
        }


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are not NaN, as nnU-Net takes it; NaN if there is none."""
    there = [value for value in values if not math.isnan(value)]
    return mean(there) if there else math.nan


def find_models(
    results: Path, configuration: str, trainers: Sequence[str], plans: Sequence[str]
) -> list[tuple[str, list[Path]]]:
    """The model folders of every trainer on every plans for which there are some, with a name for each group.

    Args:
        results: a data set's folder in nnUNet_results.
        configuration: ``3d_fullres``, for example.
        trainers, plans: their names; ``_repN`` at the end of a folder's plans makes it a repeat.

    Raises:
        UserError: for a trainer or plans without any folder.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for folder in sorted(f for f in results.glob(f"*__{configuration}") if f.name.count("__") == 2):
        trainer, folder_plans, _ = folder.name.split("__")
        found.setdefault((trainer, REPEAT.sub("", folder_plans)), []).append(folder)
    chosen = [(t, p) for t in trainers for p in plans if (t, p) in found]
    for what, names, position in (("trainer", trainers, 0), ("plans", plans, 1)):
        for name in names:
            if not any(key[position] == name for key in chosen):
                there = ", ".join(sorted(folder.name for folders in found.values() for folder in folders)) or "nothing"
                raise UserError(
                    f"{results} has no results of the {what} {name!r} for {configuration}; there is: {there}"
                )
    return [(_name(key, chosen), found[key]) for key in chosen]


def _name(key: tuple[str, str], all_keys: Sequence[tuple[str, str]]) -> str:
    trainer, plans = key
    if len({p for _, p in all_keys}) == 1:
        return trainer
    return plans if len({t for t, _ in all_keys}) == 1 else f"{trainer}, {plans}"
