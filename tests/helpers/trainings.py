"""What nnU-Net leaves of trainings, as far as `compare` reads it."""

import csv
import json
import math

import nibabel
import numpy as np
import torch
from typer.testing import CliRunner

from nnunet_xattnres.cli import app

DATASET = "Dataset004_Test"
A, B = "nnUNetTrainer", "nnUNetTrainerXAttnRes"
LABELS = {"background": 0, "anterior": 1, "posterior": 2}
PLANS = {
    "plans_name": "nnUNetPlans",
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d", "spacing": [1, 1], "patch_size": [8, 8], "batch_size": 2},
        "2d_more": {"inherits_from": "2d", "batch_size": 4},
    },
}


def dice_of(seed, n_cases=12, better=0.0, absent=()):
    generator = np.random.default_rng(seed)
    values = np.clip(generator.normal(0.8 + better, 0.1, (n_cases, 2)), 0, 1)
    for case, label in absent:
        values[case, label] = math.nan
    return {f"case_{i:02d}": list(row) for i, row in enumerate(values)}


def write_fold(results, trainer, fold, dice, *, plans="nnUNetPlans", configuration="2d", epochs=5, keys=("1", "2"),
               labels=LABELS, n_training=40, iterations=250, change_plans=None):  # fmt: skip
    """What nnU-Net leaves of a training, as far as it is read."""
    model = results / f"{trainer}__{plans}__{configuration}"
    folder = model / f"fold_{fold}"
    (folder / "validation").mkdir(parents=True)
    entries = [
        {
            "prediction_file": f"/somewhere/{case}.nii.gz",
            "reference_file": f"/elsewhere/{case}.nii.gz",
            "metrics": {key: {"Dice": value, "IoU": 0.5} for key, value in zip(keys, values)},
        }
        for case, values in dice.items()
    ]
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    content = json.loads(json.dumps(PLANS | {"plans_name": plans}))
    if change_plans is not None:
        change_plans(content["configurations"][configuration])
    (model / "plans.json").write_text(json.dumps(content))
    dataset = {"labels": labels, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(dataset))
    (folder / "debug.json").write_text(json.dumps({"num_iterations_per_epoch": str(iterations)}))
    memory = 1234 if trainer == B else None
    log = f"2026: This split has {n_training} training and {len(dice)} validation cases.\n"
    log += "2026: Parameters: plain network 2,000, reads 345 (+17.25%)\n" if trainer == B else ""
    log += log_of(range(epochs)) + (f"Peak GPU memory: {memory} MiB\n" if memory else "")
    (folder / "training_log_2026_1_1_00_00_00.txt").write_text(log)
    weight = torch.zeros(7, 3)
    torch.save(
        {
            "network_weights": {"a": weight, "b.a": weight, "c": torch.zeros(4 if trainer == B else 2)},
            "trainer_name": trainer,
            "init_args": {},
            "current_epoch": epochs,
        },
        folder / "checkpoint_final.pth",
    )
    return model


def shear(path):
    """As of a tilted gantry: SimpleITK does not read it, and nnU-Net trains on it with nibabel."""
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[1, 2] += 0.5
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)


def invoke(tmp_path, *arguments):
    return CliRunner().invoke(app, ["compare", "--force", "-o", str(tmp_path / "out"), *map(str, arguments)])


def compared(tmp_path, *arguments):
    """The rows of comparison.csv by model and label."""
    done = invoke(tmp_path, "-d", 4, "-c", "2d", *arguments)
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / "comparison.csv").open() as file:
        return {(row["model"], row["label"]): row for row in csv.DictReader(file)}, done.output


def log_of(epochs, dice=0.5, seconds=10.0):
    """The lines of a log for these epochs, as nnU-Net with NumPy 2 writes them; the losses follow from the Dice."""
    return "".join(
        f"2026: Epoch {i} \n2026: Current learning rate: 0.01 \n2026: train_loss {-dice} \n2026: val_loss {1 - dice} \n"
        f"2026: Pseudo dice [np.float32({dice}), np.float32({dice})] \n2026: Epoch time: {seconds} s \n"
        for i in epochs
    )
