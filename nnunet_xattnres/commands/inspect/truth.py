"""The true masks of the cases, and the Dice against them, as nnU-Net computes it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.commands.inspect.predictor import WatchedPredictor
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.numbers import mean_of
from nnunet_xattnres.nnunet.images import read_image
from nnunet_xattnres.nnunet.masks import read_mask

MEAN = "mean"  # no label's key in a summary.json: those are numbers, "1", and tuples of them, "(1, 2)"


def references_of(predictor: WatchedPredictor, cases: dict[str, list[str]], folder: Path) -> dict[str, Path]:
    """The true masks of the cases.

    Raises:
        UserError: when one is missing or cannot be read, or has another shape than its image.
    """
    ending = predictor.dataset_json["file_ending"]
    found = {case: folder / f"{case}{ending}" for case in cases}
    missing = [file for file in found.values() if not file.is_file()]
    if missing:
        raise UserError(f"{missing[0]} does not exist: -gt needs the true mask of every case")
    reader = predictor.plans_manager.image_reader_writer_class()
    for case, files in cases.items():
        image, mask = read_image(reader, files[:1])[0].shape[1:], read_reference(predictor, found[case]).shape
        if image != mask:
            raise UserError(f"{found[case]} has the shape {mask}, its image {files[0]} has {image}")
    return found


def read_reference(predictor: WatchedPredictor, file: Path) -> NDArray[Any]:
    """A true mask, as ``read_mask``."""
    return read_mask(predictor.plans_manager.image_reader_writer_class(), file)[0]


def dice_means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each label: the mean over the cases and how many have the label; then the mean over the labels."""
    found = []
    for label, name in dict.fromkeys((row["label"], row["name"]) for row in rows):
        values = [row["dice"] for row in rows if row["label"] == label]
        there = sum(not np.isnan(value) for value in values)
        found.append({"label": label, "name": name, "dice": mean_of(values), "cases": there})
    mean = mean_of([row["dice"] for row in found])
    return [*found, {"label": MEAN, "name": "", "dice": mean, "cases": max(row["cases"] for row in found)}]
