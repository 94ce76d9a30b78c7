"""What nnU-Net has left of a training: the Dice of every case, and what the training was."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.common.order import by_number
from nnunet_xattnres.nnunet.outline import Outline, read_outline
from nnunet_xattnres.nnunet.plans import resolved
from nnunet_xattnres.nnunet.training_log import Epoch, TrainingLog, read_log

Values = dict[str, dict[str, float]]  # case -> label -> value; NaN where there is none
Dice = Values  # NaN where neither mask has the label
OfCase = TypeVar("OfCase")


@dataclass(frozen=True)
class Fold:
    """One training of one fold.

    Attributes:
        dice: of the validation cases.
        n_training_cases: as nnU-Net's log says; None if it does not.
        epochs, iterations: the length of the training, and of an epoch; None if unknown.
        epoch_seconds: the mean duration of an epoch; None if unknown.
        gpu_memory: the peak in MiB, where it was logged.
        parameters: of the network; None if unknown.
        curve: the epochs by their numbers, where there is a log.
        gaps: which files could not be read and which numbers are not known, in words; empty if all is known.
        measured: what was measured of the validation cases beside the Dice, by the name of the measure.
    """

    dice: Dice
    n_training_cases: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    epoch_seconds: float | None = None
    gpu_memory: float | None = None
    parameters: int | None = None
    curve: Mapping[int, Epoch] = field(default_factory=dict)
    gaps: str = ""
    measured: Mapping[str, Values] = field(default_factory=dict)

    def values(self, measure: str) -> Values:
        """The Dice (``"dice"``), or what was measured beside it."""
        return self.dice if measure == "dice" else self.measured[measure]


@dataclass(frozen=True)
class Run:
    """The folds of one model folder, TRAINER__PLANS__CONFIGURATION."""

    folder: Path
    folds: Mapping[str, Fold]
    labels: Mapping[str, Any]
    regions: Any
    configuration: Mapping[str, Any]

    @property
    def dice(self) -> Dice:
        return self.values("dice")

    def values(self, measure: str) -> Values:
        """Of all folds together, as ``Fold.values``.

        Raises:
            UserError: for a case of two folds.
        """
        return of_all_folds(self.folder, {name: fold.values(measure) for name, fold in self.folds.items()})


def of_all_folds(folder: Path, folds: Mapping[str, Mapping[str, OfCase]]) -> dict[str, OfCase]:
    """What is known of the cases of each fold, as one.

    Args:
        folder: of the model, for the message.

    Raises:
        UserError: for a case of two folds, of which only one could count.
    """
    found: dict[str, OfCase] = {}
    fold_of: dict[str, str] = {}
    for fold, cases in folds.items():
        for case, of_case in cases.items():
            if case in found:
                raise UserError(
                    f"{folder}: {case} was validated in fold {fold_of[case]} and in fold {fold}: name folds with -f "
                    f"that have no case in common"
                )
            found[case], fold_of[case] = of_case, fold
    return found


def folds_of(folder: Path) -> list[str]:
    """The folds of a model folder that have been validated."""
    found = folder.glob("fold_*/validation/summary.json")
    return sorted((path.parent.parent.name.removeprefix("fold_") for path in found), key=by_number)


def read_run(folder: Path, folds: Sequence[str]) -> Run:
    """The results of a model folder, with nothing run that is in its files.

    Raises:
        UserError: for a fold without results, and for JSON files that cannot be read. Without a checkpoint, a log or a
            debug.json, or with a damaged one, some numbers are not known.
    """
    missing = sorted(set(folds) - set(folds_of(folder)))
    if missing:
        trainer, plans, configuration = folder.name.split("__")
        raise UserError(
            f"{folder} has no validation/summary.json for fold {', '.join(missing)}. Train it, or validate what is "
            f"trained: `nnUNetv2_train DATASET {configuration} {missing[0]} -tr {trainer} -p {plans} --val`"
        )
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    name = folder.name.rpartition("__")[2]
    return Run(
        folder=folder,
        folds={fold: _read_fold(folder / f"fold_{fold}") for fold in folds},
        labels=dataset.get("labels", {}),
        regions=dataset.get("regions_class_order"),
        configuration=resolved(plans, name),
    )


def read_dice(summary: Path) -> Dice:
    """The Dice of every case, from a summary.json of nnU-Net's.

    Raises:
        UserError: when the file is missing or is none.
    """
    dice: Dice = {}
    try:
        for entry in read_json(summary)["metric_per_case"]:
            metrics = {label: values["Dice"] for label, values in entry["metrics"].items()}
            case = Path(entry["prediction_file"].replace("\\", "/")).name
            dice[case] = {label: math.nan if value is None else float(value) for label, value in metrics.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{summary} is no summary.json of nnU-Net's: {type(error).__name__}: {error}") from None
    if not dice:
        raise UserError(f"{summary} has no cases")
    return dict(sorted(dice.items()))


def label_names(labels: Mapping[str, Any]) -> dict[str, str]:
    """The names of the keys of a summary.json: ``"1"``, or ``"(1, 2)"`` for a region.

    Args:
        labels: as in a dataset.json. A list of one number is a region only beside longer ones, as in nnU-Net.
    """
    lists = {name: value for name, value in labels.items() if isinstance(value, list)}
    regions = any(len(value) > 1 for value in lists.values())
    keys = {name: tuple(value) if regions else value[0] for name, value in lists.items() if value}
    return {str(keys.get(name, value)): name for name, value in labels.items()}


_CHECKPOINT = "checkpoint_final.pth"
_NUMBERS = {
    "parameters": "the number of parameters",
    "epochs": "the number of epochs",
    "iterations": "the iterations of an epoch",
    "n_training_cases": "the number of training cases",
    "epoch_seconds": "the seconds of an epoch",
    "curve": "the learning curve",
}
Read = TypeVar("Read")


def _read_fold(folder: Path) -> Fold:
    causes: list[str] = []
    log = _attempt(lambda: read_log(folder), causes) or TrainingLog({}, None, None, None)
    outline = _attempt(lambda: read_outline(folder / _CHECKPOINT), causes) or Outline(None, None)
    curve, ended = log.epochs, len(log.epochs) and max(log.epochs) + 1
    if ended and outline.epochs is not None and ended != outline.epochs:
        causes.append(
            f"the log ends after {ended} epochs, {_CHECKPOINT} after {outline.epochs}: the log's epochs are left out"
        )
        curve = {}
    seconds = [epoch.seconds for epoch in curve.values() if not math.isnan(epoch.seconds)]
    numbers: dict[str, Any] = {
        "parameters": outline.parameters or log.parameters,
        "epochs": outline.epochs or ended or None,
        "iterations": _attempt(lambda: _iterations(folder / "debug.json"), causes),
        "n_training_cases": log.n_training_cases,
        "epoch_seconds": mean(seconds) if seconds else None,
        "curve": curve,
    }
    unknown = [words for name, words in _NUMBERS.items() if not numbers[name]]
    dice = read_dice(folder / "validation" / "summary.json")
    return Fold(dice=dice, gpu_memory=log.gpu_memory, gaps=_gaps(causes, unknown), **numbers)


def _attempt(read: Callable[[], Read], causes: list[str]) -> Read | None:
    """What ``read`` returns; where it cannot, None, with why it cannot among ``causes``."""
    try:
        return read()
    except UserError as error:
        causes.append(str(error))
        return None


def _iterations(debug: Path) -> int:
    try:
        return int(read_json(debug)["num_iterations_per_epoch"])
    except (UserError, KeyError, TypeError, ValueError):
        raise UserError(f"{debug.name} is missing or does not say the iterations of an epoch") from None


def _gaps(causes: Sequence[str], unknown: Sequence[str]) -> str:
    if not unknown:
        return f"{'; '.join(causes)}; the other files say all that is needed" if causes else ""
    reason = f" ({'; '.join(causes)})" if causes else ""
    return f"not known: {', '.join(unknown)}{reason}"
