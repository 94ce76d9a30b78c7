"""What nnU-Net has left of a training: the Dice of every case, and what the training was."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.nnunet.checkpoints import read_checkpoint
from nnunet_xattnres.nnunet.plans import resolved

Dice = dict[str, dict[str, float]]  # case -> label -> Dice; NaN where neither mask has the label


@dataclass(frozen=True)
class Fold:
    """One training of one fold.

    Attributes:
        dice: of the validation cases.
        n_training_cases: as nnU-Net's log says; None if it does not.
        epochs, iterations: the length of the training, and of an epoch; None if unknown.
        epoch_seconds: the mean duration of an epoch; None if unknown.
        gpu_memory: the peak in MiB, where it was logged.
        parameters: of the network.
    """

    dice: Dice
    n_training_cases: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    epoch_seconds: float | None = None
    gpu_memory: float | None = None
    parameters: int | None = None


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
        return {case: dice for fold in self.folds.values() for case, dice in fold.dice.items()}


def folds_of(folder: Path) -> list[str]:
    """The folds of a model folder that have been validated."""
    return sorted(p.parent.parent.name.removeprefix("fold_") for p in folder.glob("fold_*/validation/summary.json"))


def read_run(folder: Path, folds: Sequence[str]) -> Run:
    """The results of a model folder.

    Raises:
        UserError: for a fold without results, and for files that cannot be read.
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
        labels: as in a dataset.json.
    """
    return {str(tuple(value)) if isinstance(value, list) else str(value): name for name, value in labels.items()}


def _read_fold(folder: Path) -> Fold:
    logs = sorted(folder.glob("training_log_*.txt"))
    log = "".join(file.read_text(encoding="utf-8", errors="replace") for file in logs)
    debug = read_json(folder / "debug.json") if (folder / "debug.json").is_file() else {}
    checkpoint = folder / "checkpoint_final.pth"
    content = read_checkpoint(checkpoint) if checkpoint.is_file() else {}
    weights = {value.data_ptr(): value.numel() for value in content.get("network_weights", {}).values()}
    seconds = [float(text) for text in re.findall(r"Epoch time: ([\d.]+) s", log)]
    last_epoch = _last_number(r": Epoch (\d+)", log)
    return Fold(
        dice=read_dice(folder / "validation" / "summary.json"),
        n_training_cases=_last_number(r"This split has (\d+) training", log),
        epochs=content.get("current_epoch", None if last_epoch is None else last_epoch + 1),
        iterations=int(debug["num_iterations_per_epoch"]) if "num_iterations_per_epoch" in debug else None,
        epoch_seconds=mean(seconds) if seconds else None,
        gpu_memory=_last_number(r"Peak GPU memory: (\d+) MiB", log),
        parameters=sum(weights.values()) or _logged_parameters(log),
    )


def _logged_parameters(log: str) -> int | None:
    """What our trainers write: of this network, or of the plain one and the reads."""
    whole = _last_number(r"Parameters: .*this network ([\d,]+) \(", log)
    plain, reads = (_last_number(pattern, log) for pattern in (r"plain network ([\d,]+),", r"reads ([\d,]+) \("))
    return whole if whole is not None or plain is None or reads is None else plain + reads


def _last_number(pattern: str, text: str) -> int | None:
    found = re.findall(pattern, text)
    return int(found[-1].replace(",", "")) if found else None
