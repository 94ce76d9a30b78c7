"""What nnU-Net has left of a training: the Dice of every case, and what the training was."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from nnunet_xattnres.checkpoints import read_checkpoint
from nnunet_xattnres.errors import UserError
from nnunet_xattnres.plans import REPEAT

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


def resolved(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of plans with what it inherits."""
    configuration = plans.get("configurations", {}).get(name, {})
    parent = configuration.get("inherits_from")
    return {**(resolved(plans, parent) if parent else {}), **configuration}


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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


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
