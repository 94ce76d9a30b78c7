"""On what a training ran: it may have been stopped, and gone on with other code or on another machine."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.study.description import Study, Training
from benchmarks.study.folders import REPOSITORY, Folders
from nnunet_xattnres.common.files import write_text


def machine_of(study: Study) -> dict[str, Any]:
    """This machine, and the versions of what is installed."""
    return {**describe_machine(REPOSITORY, study.device), "nnunetv2": version("nnunetv2")}


def note_start(study: Study, folders: Folders, training: Training, threads: int, *, goes_on: bool) -> None:
    """Note, before a training begins or goes on, where it does; of one that begins nothing before counts."""
    machine = machine_of(study)
    if study.device == "cpu":
        machine["threads"] = threads
    path = _file(folders, training)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text(encoding="utf-8") if goes_on and path.is_file() else ""
    write_text(before + json.dumps(machine) + "\n", path)


def starts_of(folders: Folders, training: Training) -> list[dict[str, Any]]:
    """What was noted, each machine and version once, the first first."""
    path = _file(folders, training)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in dict.fromkeys(lines)]


def _file(folders: Folders, training: Training) -> Path:
    return folders.logs / f"{training.name}.starts.jsonl"
