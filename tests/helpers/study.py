"""A little study, and records of trainings that never were."""

import csv
import json
from dataclasses import asdict

import numpy as np

from benchmarks.study.description import Schedule, Study
from benchmarks.study.folders import training_command

PLAIN, OURS = "nnUNetTrainer", "nnUNetTrainerXAttnRes"
CASES = [f"case{i:02d}.nii.gz" for i in range(25)]


def little_study():
    return Study(
        name="little",
        dataset="Dataset907_Little",
        configuration="3d_fullres",
        folds=(0,),
        device="cpu",
        trainers=(PLAIN, OURS),
        schedules={"long": Schedule(6, 10, 2, repeats=2), "short": Schedule(3, 10, 2, repeats=1)},
        cut_down="everything",
        plans={"batch_size": 2},
    )


def write_a_record(study, folders, training, level=0.5, cases=CASES):
    """One of a training that never was: every epoch takes 30 s, and the Dice of two labels rises to ``level``."""
    rng = np.random.default_rng([ord(c) for c in training.name])
    folders.results.mkdir(parents=True, exist_ok=True)
    with folders.dice.open("a", newline="") as file:
        head = [] if file.tell() else [("training", "case", "label", "dice")]
        values = [(case, label, level + 0.1 * rng.random()) for case in cases for label in ("organ", "duct")]
        csv.writer(file).writerows([*head, *((training.name, *row) for row in values)])
    epochs = study.schedules[training.schedule].epochs
    curve = [{"seconds": 30.0 * (i + 1), "dice": [level * (i + 1) / epochs] * 2} for i in range(epochs)]
    machine = dict.fromkeys(("cpu", "system", "python", "torch", "nnunetv2", "nnunet-xattnres", "commit"), "some")
    weights = [(0, "d1", "e0", 0.5), (0, "d1", "e1", 0.5), (epochs - 1, "d1", "e0", 0.2), (epochs - 1, "d1", "e1", 0.8)]
    facts = {"training": asdict(training), "settings": study.settings(training.schedule)}
    facts |= {"command": training_command(study, training), "machine": {**machine, "gpu": None}, "parameters": 1000}
    facts |= {"training_cases": 100, "gpu_memory": None, "curve": curve}
    facts["read_scale"] = {"e3": 3.0, "d1": 0.25} if OURS in training.trainer else {}
    facts["routing"] = weights if OURS in training.trainer else []
    with folders.records.open("a") as file:
        file.write(json.dumps(facts) + "\n")


def rewrite_records(folders, change):
    """What ``change`` makes of the facts of each training; none for a training without a record from now on."""
    changed = map(change, map(json.loads, folders.records.read_text().splitlines()))
    folders.records.write_text("".join(f"{json.dumps(facts)}\n" for facts in changed if facts is not None))


def remove_records(folders, **of):
    """Those of the trainings with these attributes."""
    rewrite_records(folders, lambda facts: None if of.items() <= facts["training"].items() else facts)


def write_all_records(study, folders):
    for training in study.trainings():
        write_a_record(study, folders, training, 0.5 if training.trainer == PLAIN else 0.6)
