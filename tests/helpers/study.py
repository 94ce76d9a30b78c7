"""A little study, and records of trainings that never were."""

import csv

import numpy as np

from benchmarks.study.description import Schedule, Study
from nnunet_xattnres.common.files import write_json

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
    folders.records.mkdir(parents=True, exist_ok=True)
    with (folders.records / f"{training.name}.csv").open("w", newline="") as file:
        rows = [(case, label, level + 0.1 * rng.random()) for case in cases for label in ("organ", "duct")]
        csv.writer(file).writerows([("case", "label", "dice"), *rows])
    epochs = study.schedules[training.schedule].epochs
    curve = [{"seconds": 30.0 * (i + 1), "dice": [level * (i + 1) / epochs] * 2} for i in range(epochs)]
    machine = dict.fromkeys(("cpu", "system", "python", "torch", "nnunetv2", "nnunet-xattnres", "commit"), "some")
    if OURS in training.trainer:
        lines = [
            (0, "d1", "e0", 0.5),
            (0, "d1", "e1", 0.5),
            (epochs - 1, "d1", "e0", 0.2),
            (epochs - 1, "d1", "e1", 0.8),
        ]
        with (folders.records / f"{training.name}.routing.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("epoch", "read", "source", "mean_weight"), *lines])
    facts = {"settings": study.settings(training.schedule), "command": f"nnUNetv2_train {training.name}"}
    facts |= {"machine": {**machine, "gpu": None}, "parameters": 1000, "training_cases": 100, "gpu_memory": None}
    facts["read_scale"] = {"e3": 3.0, "d1": 0.25} if OURS in training.trainer else {}
    write_json({**facts, "curve": curve}, folders.records / f"{training.name}.json")


def write_all_records(study, folders):
    for training in study.trainings():
        write_a_record(study, folders, training, 0.5 if training.trainer == PLAIN else 0.6)
