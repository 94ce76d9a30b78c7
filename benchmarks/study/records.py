"""What is kept of a finished training: small files that can be committed, one set for each."""

import csv
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.study.description import Study, Training
from benchmarks.study.folders import REPOSITORY, Folders, training_arguments
from benchmarks.study.read_scale import read_scale
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json, replacing, write_json
from nnunet_xattnres.nnunet.checkpoints import read_checkpoint
from nnunet_xattnres.nnunet.results import Dice, label_names, read_run
from nnunet_xattnres.training.routing_log import TABLE


@dataclass(frozen=True)
class Record:
    """A finished training.

    Attributes:
        dice: of every validation case, by the names of the labels.
        facts: the rest, as the JSON file has it: ``settings``, ``command``, ``machine``, ``parameters``,
            ``training_cases``; ``read_scale``, as that function says it; and ``curve``: for every epoch the seconds
            until its end and the Dice of each label, as nnU-Net estimates it on patches of the validation cases.
        routing: rows of epoch, read, source and mean weight; none for a network without reads.
    """

    training: Training
    dice: Dice
    facts: Mapping[str, Any]
    routing: list[dict[str, str]]

    @property
    def processor(self) -> str:
        return str(self.facts["machine"]["gpu"] or self.facts["machine"]["cpu"])

    @property
    def curve(self) -> tuple[list[int], list[float], list[float]]:
        """Iterations, seconds and the mean Dice over the labels, at the end of every epoch."""
        epochs = self.facts["curve"]
        every = self.facts["settings"]["iterations"]
        dice = [sum(epoch["dice"]) / len(epoch["dice"]) for epoch in epochs]
        return [every * (i + 1) for i in range(len(epochs))], [epoch["seconds"] for epoch in epochs], dice


def is_finished(study: Study, folders: Folders, training: Training) -> bool:
    """Whether nnU-Net has trained and validated it."""
    fold = folders.fold(study, training)
    return (fold / "checkpoint_final.pth").is_file() and (fold / "validation" / "summary.json").is_file()


def write_record(study: Study, folders: Folders, training: Training) -> None:
    """Keep what the study needs of a finished training."""
    run = read_run(folders.model(study, training), [str(training.fold)])
    fold = run.folds[str(training.fold)]
    checkpoint = read_checkpoint(folders.fold(study, training) / "checkpoint_final.pth")
    machine = {**describe_machine(REPOSITORY, study.device), "nnunetv2": version("nnunetv2")}
    facts = {
        "training": asdict(training),
        "settings": study.settings(training.schedule),
        "command": " ".join(["nnUNetv2_train", *training_arguments(study, training)]),
        "machine": machine,
        "parameters": fold.parameters,
        "training_cases": fold.n_training_cases,
        "gpu_memory": fold.gpu_memory,
        "read_scale": read_scale(study, folders, training),
        "curve": _curve(checkpoint["logging"]),
    }
    folders.records.mkdir(parents=True, exist_ok=True)
    names = label_names(run.labels)
    rows = [(case, names.get(key, key), value) for case, dice in fold.dice.items() for key, value in dice.items()]
    table = folders.records / f"{training.name}.csv"
    with replacing(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("case", "label", "dice"), *rows])
    routing = folders.fold(study, training) / TABLE
    if routing.is_file():
        with replacing(folders.records / f"{training.name}.routing.csv") as partial:
            shutil.copyfile(routing, partial)
    write_json(facts, folders.records / f"{training.name}.json")  # last: with it the record is whole


def _curve(logged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Seconds count while an epoch runs: a training that was interrupted shows no gap."""
    seconds, curve = 0.0, []
    names = ("epoch_start_timestamps", "epoch_end_timestamps", "dice_per_class_or_region")
    for start, end, dice in zip(*(logged[name] for name in names), strict=True):
        seconds += end - start
        curve.append({"seconds": round(seconds, 2), "dice": [round(float(value), 5) for value in dice]})
    return curve


def read_records(study: Study, folders: Folders) -> list[Record]:
    """The records of the study's trainings, in their order.

    Raises:
        UserError: for a record that cannot be read, or was made with settings other than the study's.
    """
    found = []
    for training in study.trainings():
        path = folders.records / f"{training.name}.json"
        if path.is_file():
            found.append(_read(path, training))
            _refuse_other_settings(study, found[-1], path)
    return found


def merge_records(study: Study, folders: Folders, other: Path) -> list[str]:
    """Take over the records of another machine that this one does not have.

    Args:
        other: the folder of the same study there, with ``trainings`` in it.

    Returns:
        The names of the trainings that are new here.

    Raises:
        UserError: when it has no records, or one of other settings.
    """
    theirs = Folders(folders.raw, folders.work, other)
    records = read_records(study, theirs)
    if not records:
        raise UserError(f"{other} has no record of {study.name}: name the folder that holds trainings")
    new = [r.training.name for r in records if not (folders.records / f"{r.training.name}.json").is_file()]
    folders.records.mkdir(parents=True, exist_ok=True)
    for name in new:
        for ending in (".csv", ".routing.csv", ".json"):
            source = theirs.records / f"{name}{ending}"
            if source.is_file():
                with replacing(folders.records / source.name) as partial:
                    shutil.copyfile(source, partial)
    return new


def _read(path: Path, training: Training) -> Record:
    try:
        dice: Dice = {}
        for row in _rows(path.with_suffix(".csv")):
            dice.setdefault(row["case"], {})[row["label"]] = float(row["dice"])
        if not dice:
            raise ValueError("no cases")
        routing = path.with_suffix(".routing.csv")
        return Record(training, dice, read_json(path), list(_rows(routing)) if routing.is_file() else [])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run the study") from None


def _rows(path: Path) -> Iterable[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _refuse_other_settings(study: Study, record: Record, path: Path) -> None:
    now, then = study.settings(record.training.schedule), record.facts["settings"]
    for key, value in now.items():
        if then.get(key) != value:
            raise UserError(
                f"{path} was made with {key} {then.get(key)}, and {study.name} now says {value}. Give the changed "
                f"study another name, or move {path.parent} away."
            )
