"""What is kept of the finished trainings of a study: two files that can be committed."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from filelock import FileLock

from benchmarks.study.description import Study, Training
from benchmarks.study.folders import Folders, training_command
from benchmarks.study.read_scale import read_scale
from benchmarks.study.starts import machine_of, starts_of
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json, replacing, write_text
from nnunet_xattnres.nnunet.checkpoints import read_checkpoint
from nnunet_xattnres.nnunet.plans import resolved
from nnunet_xattnres.nnunet.results import Dice, label_names, read_run
from nnunet_xattnres.training.routing_log import TABLE

_ROUTING = ("epoch", "read", "source", "mean_weight")
_DICE = ("training", "case", "label", "dice")


@dataclass(frozen=True)
class Record:
    """A finished training.

    Attributes:
        dice: of every validation case, by the names of the labels.
        facts: the rest, as a line of the JSON file has it: ``settings``, ``command``, ``machine`` (that which wrote the
            record), ``starts`` (where it began and went on; lacking in the first studies), ``parameters``,
            ``training_cases``; ``plan``, what nnU-Net planned by the raw data (lacking in the first studies);
            ``read_scale``, as that function says it; and ``curve``: for every epoch the seconds
            until its end and the Dice of each label, as nnU-Net estimates it on patches of the validation cases, or
            None for a label that is in none of them.
        routing: rows of epoch, read, source and mean weight; none for a network without reads.
    """

    training: Training
    dice: Dice
    facts: Mapping[str, Any]
    routing: list[dict[str, str]]

    @property
    def processor(self) -> str:
        """On which it was trained; of several all, for its durations are those of none."""
        machines = self.facts.get("starts") or [self.facts["machine"]]
        return " and ".join(dict.fromkeys(str(machine["gpu"] or machine["cpu"]) for machine in machines))

    @property
    def curve(self) -> tuple[list[int], list[float], list[float]]:
        """Iterations, seconds and the mean Dice over the labels that have one, at the end of every epoch."""
        epochs = self.facts["curve"]
        every = self.facts["settings"]["iterations"]
        dice = [fmean(d for d in epoch["dice"] if d is not None) for epoch in epochs]
        return [every * (i + 1) for i in range(len(epochs))], [epoch["seconds"] for epoch in epochs], dice

    @property
    def usual_epoch(self) -> float:
        """The median duration of an epoch, in seconds: a machine that is stopped for a while shows in single ones."""
        seconds = [0.0, *self.curve[1]]
        return median(end - start for start, end in pairwise(seconds))


def is_finished(study: Study, folders: Folders, training: Training) -> bool:
    """Whether nnU-Net has trained and validated it; a summary that was cut off is none, and written anew by --val."""
    fold = folders.fold(study, training)
    try:
        read_json(fold / "validation" / "summary.json")
    except UserError:
        return False
    return (fold / "checkpoint_final.pth").is_file()


def write_record(study: Study, folders: Folders, training: Training) -> None:
    """Keep what the study needs of a finished training."""
    run = read_run(folders.model(study, training), [str(training.fold)])
    fold = run.folds[str(training.fold)]
    checkpoint = read_checkpoint(folders.fold(study, training) / "checkpoint_final.pth")
    facts = {
        "training": asdict(training),
        "settings": study.settings(training.schedule),
        "command": training_command(study, training),
        "machine": machine_of(study),
        "starts": starts_of(folders, training),
        "plan": plan_of(study, read_json(folders.model(study, training) / "plans.json")),
        "parameters": fold.parameters,
        "training_cases": fold.n_training_cases,
        "gpu_memory": fold.gpu_memory,
        "read_scale": read_scale(study, folders, training),
        "curve": _curve(checkpoint["logging"]),
    }
    names = label_names(run.labels)
    dice = {case: {names.get(key, key): value for key, value in found.items()} for case, found in fold.dice.items()}
    routing = folders.fold(study, training) / TABLE
    _keep(folders, [Record(training, dice, facts, list(_rows(routing)) if routing.is_file() else [])])


def plan_of(study: Study, plans: Mapping[str, Any]) -> dict[str, Any]:
    """What nnU-Net plans by the raw data, and a comparison needs to be the same."""
    configuration = resolved(plans, study.configuration)
    intensities = plans.get("foreground_intensity_properties_per_channel", {})
    names = ("batch_size", "patch_size", "spacing", "normalization_schemes")
    return {
        **{name: configuration.get(name) for name in names},
        "intensities": {channel: [found["mean"], found["std"]] for channel, found in intensities.items()},
    }


def _curve(logged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds count while an epoch runs: a training that was interrupted shows no gap."""
    seconds, curve = 0.0, []
    names = ("epoch_start_timestamps", "epoch_end_timestamps", "dice_per_class_or_region")
    for start, end, dice in zip(*(logged[name] for name in names), strict=True):
        seconds += end - start
        values = [None if math.isnan(value) else round(float(value), 5) for value in dice]  # a label may be in no patch
        curve.append({"seconds": round(seconds, 2), "dice": values})
    return curve


def read_records(study: Study, folders: Folders) -> list[Record]:
    """The records of the study's trainings, in their order.

    Raises:
        UserError: for a record that cannot be read, or was made with settings other than the study's.
    """
    kept = {record.training: record for record in _kept(folders)}
    found = [kept[training] for training in study.trainings() if training in kept]
    for record in found:
        _refuse_other_settings(study, record, folders.records)
    return found


def other_records(study: Study, folders: Folders) -> list[str]:
    """The names of the trainings that have a record, and that the study no longer has."""
    trainings = set(study.trainings())
    return [record.training.name for record in _kept(folders) if record.training not in trainings]


def merge_records(study: Study, folders: Folders, other: Path) -> list[str]:
    """Take over the records of another machine that this one does not have.

    Args:
        other: the folder of the same study there, with ``trainings.jsonl`` in it.

    Returns:
        The names of the trainings that are new here.

    Raises:
        UserError: when it has no records, or one of other settings or other validation cases.
    """
    theirs = Folders(folders.raw, folders.work, other)
    records = read_records(study, theirs)
    if not records:
        raise UserError(f"{other} has no record of {study.name}: name the folder that holds {theirs.records.name}")
    here = {record.training for record in _kept(folders)}
    new = [record for record in records if record.training not in here]
    _keep(folders, new)
    return [record.training.name for record in new]


def _keep(folders: Folders, new: Iterable[Record]) -> None:
    """Add records to those that there are, also of trainings that the study no longer has; whole or not at all.

    Several threads of a study, and other runs and merges into the same folder, do this one after the other. A training
    that has a record keeps it.
    """
    folders.results.mkdir(parents=True, exist_ok=True)
    with FileLock(folders.results / "records.lock"):
        records = {record.training.name: record for record in (*new, *_kept(folders))}
        ordered = [records[name] for name in sorted(records)]
        _refuse_other_cases(ordered, folders.records)
        with replacing(folders.dice) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([_DICE, *(row for record in ordered for row in _dice_rows(record))])
        lines = [json.dumps({**record.facts, "routing": _routing_rows(record)}) for record in ordered]
        # last: a training with a line here has its Dice there
        write_text("".join(f"{line}\n" for line in lines), folders.records)


def _dice_rows(record: Record) -> Iterable[tuple[str, str, str, float]]:
    return (
        (record.training.name, case, label, value)
        for case, dice in record.dice.items()
        for label, value in dice.items()
    )


def _routing_rows(record: Record) -> list[tuple[int, str, str, float]]:
    return [(int(row["epoch"]), row["read"], row["source"], float(row["mean_weight"])) for row in record.routing]


def _kept(folders: Folders) -> list[Record]:
    """All that is in the two files.

    Raises:
        UserError: when one of them cannot be read.
    """
    if not folders.records.is_file():
        return []
    path = folders.dice
    try:
        dice: dict[str, Dice] = {}
        for row in _rows(path):
            dice.setdefault(row["training"], {}).setdefault(row["case"], {})[row["label"]] = float(row["dice"])
        path = folders.records
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            facts = json.loads(line)
            training = Training(**facts["training"])
            routing = [dict(zip(_ROUTING, map(str, row), strict=True)) for row in facts.pop("routing")]
            if training.name not in dice:
                raise ValueError(f"{folders.dice.name} has no Dice of {training.name}")
            found.append(Record(training, dice[training.name], facts, routing))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Mend it, for example by `git checkout`; or "
            f"remove the lines of a training from it and from the other file, and its folder from the work folder, and "
            f"run the study: it is trained again."
        ) from None
    return found


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _refuse_other_settings(study: Study, record: Record, path: Path) -> None:
    then = {**record.facts["settings"], "command": record.facts["command"]}  # the device is in this alone
    now = {**study.settings(record.training.schedule), "command": training_command(study, record.training)}
    for key, value in now.items():
        if then.get(key) != value:
            raise UserError(
                f"{path} has {record.training.name} with {key} {then.get(key)}, and {study.name} now says {value}. "
                f"Give the changed study another name, or move {path.parent} and the study's work folder away."
            )


def _refuse_other_cases(records: Sequence[Record], path: Path) -> None:
    """All trainings on a fold have the same validation cases, or they are not of the same data.

    Nor are those of one trainer with different numbers of parameters, for nnU-Net plans stages by the size of the
    images, or any with another plan.
    """
    planned = [record for record in records if "plan" in record.facts]
    for record in planned[1:]:
        if difference := other_plan(planned[0].facts["plan"], record.facts["plan"]):
            raise UserError(
                f"nnU-Net planned {record.training.name} with {difference} than {planned[0].training.name}, and {path} "
                "has trainings by one plan: their raw data or versions of nnU-Net differ"
            )
    first: dict[int, Record] = {}
    parameters: dict[str, Record] = {}
    for record in records:
        other = parameters.setdefault(record.training.trainer, record)
        if record.facts["parameters"] != other.facts["parameters"]:
            raise UserError(
                f"{record.training.name} has {record.facts['parameters']} parameters and {other.training.name} "
                f"{other.facts['parameters']}, and {path} has trainings of the same networks: their raw data or plans "
                "differ"
            )
        other = first.setdefault(record.training.fold, record)
        same_number = record.facts["training_cases"] == other.facts["training_cases"]
        if record.dice.keys() != other.dice.keys() or not same_number:
            raise UserError(
                f"{record.training.name} was {'validated' if same_number else 'trained'} on other cases than "
                f"{other.training.name}, and {path} has one set of them for each fold: their raw data or splits differ"
            )


def other_plan(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What differs, in words; intensities that are the same to 2% were only summed up elsewhere."""
    for key in one.keys() - {"intensities"}:
        if one[key] != other[key]:
            return f"another {key} ({other[key]} and not {one[key]})"
    pairs = [(np.array(list(plan["intensities"].values()))) for plan in (one, other)]
    if pairs[0].shape != pairs[1].shape or not np.allclose(*pairs, rtol=0.02):
        return f"other intensities ({other['intensities']} and not {one['intensities']})"
    return None
