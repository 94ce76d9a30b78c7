"""Masks: as nnU-Net reads them, where those of a validation lie, and their Dice."""

import ast
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json


class Files(NamedTuple):
    """The two masks of a case."""

    prediction: Path
    reference: Path


class Masks(NamedTuple):
    """The two masks of a case, of one shape; those of a single slice have two axes.

    Attributes:
        prediction, reference: integers; what is none in the file, and so no label, is -1.
        spacing: the size of a voxel along each axis.
    """

    prediction: NDArray[Any]
    reference: NDArray[Any]
    spacing: tuple[float, ...]


def reader_of(plans: Mapping[str, Any], dataset: Mapping[str, Any], example: Path) -> Any:
    """nnU-Net's reader of the data set: the one that read it for the training.

    nnU-Net's planner takes the first reader that takes one image of the data set. Another image may ask for another
    one, so an example is used only where the plans name none.

    Args:
        plans: the content of the model's plans.json, or nothing where there is none.
        dataset: the content of its dataset.json.
        example: an image or a mask, to see which reader takes it.

    Raises:
        UserError: when nnU-Net has no reader of that name, or none that takes the example.
    """
    from nnunetv2.imageio.reader_writer_registry import (
        determine_reader_writer_from_dataset_json,
        recursive_find_reader_writer_by_name,
    )

    name = plans.get("image_reader_writer")
    try:
        with redirect_stdout(StringIO()):
            if name is not None:
                return recursive_find_reader_writer_by_name(name)()
            return determine_reader_writer_from_dataset_json(dict(dataset), str(example), verbose=False)()
    except RuntimeError as error:
        what = f"called {name}, which the plans name" if name is not None else f"for {example}"
        raise UserError(f"nnU-Net has no reader {what}: {error}") from None


def read_mask(reader: Any, path: Path) -> tuple[NDArray[Any], tuple[float, ...] | None]:
    """A mask, (z, y, x), and the size of a voxel along each axis; None where it is not known.

    Args:
        reader: one of nnU-Net's.

    Raises:
        UserError: when it cannot be read, or has several channels: which of them is the mask is not known.
    """
    from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

    try:
        with redirect_stdout(StringIO()):  # that a TIFF has no spacing matters to some callers only
            mask, properties = reader.read_seg(str(path))
    except Exception as error:  # each of the libraries behind it has its own
        raise UserError(f"{path} cannot be read as a mask: {type(error).__name__}: {error}") from None
    if len(mask) != 1:
        raise UserError(
            f"{path} has {len(mask)} channels, as a picture in colour has; a mask has one: save it in grey, the number "
            f"of the label in each pixel"
        )
    # nnU-Net keeps the spacing of a TIFF in a file beside it, and goes on with (1, 1, 1) without that file
    known = not isinstance(reader, Tiff3DIO) or _spacing_file(path).is_file()
    return mask[0], tuple(map(float, properties["spacing"])) if known else None


def _spacing_file(tiff: Path) -> Path:
    return tiff.with_suffix(".json")


class Reader:
    """Reads masks with nnU-Net's reader of the data set.

    Attributes:
        pictures: whether they are pictures, such as PNG, in which the size of a pixel is not known.
    """

    def __init__(self, plans: Mapping[str, Any], dataset: Mapping[str, Any], example: Path) -> None:
        """Arguments and errors are those of ``reader_of``."""
        from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

        self._reader = reader_of(plans, dataset, example)
        self.pictures = isinstance(self._reader, NaturalImage2DIO)

    def read(self, files: Files) -> Masks:
        """Both masks of a case, with the spacing of the true one if it is known, else that of the prediction.

        Raises:
            UserError: when one cannot be read, the two are not of the same shape, or no spacing is known.
        """
        (prediction, of_prediction), (reference, of_reference) = map(self._read, files)
        _refuse_other_shapes(files, prediction, reference)
        spacing = of_reference or of_prediction  # nnU-Net copies true masks in TIFF without theirs
        if spacing is None:
            raise UserError(
                f"the size of a voxel of {files.prediction} is not known: neither {_spacing_file(files.prediction)} "
                f"nor {_spacing_file(files.reference)} exists, and nnU-Net keeps it there"
            )
        if 1 in reference.shape:  # a single slice: to the next one there is no surface
            axis = reference.shape.index(1)
            return Masks(prediction.squeeze(axis), reference.squeeze(axis), (*spacing[:axis], *spacing[axis + 1 :]))
        return Masks(prediction, reference, spacing)

    def _read(self, file: Path) -> tuple[NDArray[np.signedinteger[Any]], tuple[float, ...] | None]:
        """As ``read_mask``; nnU-Net's readers give float32, which takes the memory of two masks."""
        mask, spacing = read_mask(self._reader, file)
        with np.errstate(invalid="ignore"):
            integers = mask.astype(np.int16 if np.nanmax(mask, initial=0) < 2**15 else np.int32)
        integers[integers != mask] = -1
        return integers, spacing


def _refuse_other_shapes(files: Files, prediction: NDArray[Any], reference: NDArray[Any]) -> None:
    if prediction.shape != reference.shape:
        raise UserError(
            f"the masks of a case must have the same shape: {files.prediction} has {prediction.shape}, "
            f"{files.reference} has {reference.shape}"
        )


def labels_of(key: str) -> tuple[int, ...]:
    """The label, or those of a region.

    Args:
        key: as in a summary.json: ``"1"``, or ``"(1, 2)"`` for a region.
    """
    value = ast.literal_eval(key)
    return value if isinstance(value, tuple) else (value,)


def files_of_validation(fold: Path) -> dict[str, Files]:
    """The masks of the validation of a fold, by the names of the cases.

    The paths in its summary.json may be those of another machine, or of a folder that this one is a copy of: what lies
    beside it comes first.

    Args:
        fold: DATASET/TRAINER__PLANS__CONFIGURATION/fold_X.

    Raises:
        UserError: when a mask is missing.
    """
    summary = fold / "validation" / "summary.json"
    found = {}
    for entry in read_json(summary)["metric_per_case"]:
        named = {key: Path(str(entry.get(key, "")).replace("\\", "/")) for key in ("prediction_file", "reference_file")}
        case = named["prediction_file"].name
        predictions = [summary.parent / case, named["prediction_file"]]
        references = [named["reference_file"], *_true_masks(fold.parents[1].name, named["reference_file"].name)]
        found[case] = Files(
            _first(predictions, "prediction", "validate again: nnUNetv2_train ... --val"),
            _first(references, "true mask", "set nnUNet_preprocessed to where the data set was preprocessed"),
        )
    return found


def _true_masks(dataset: str, name: str) -> list[Path]:
    from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

    folders = ((nnUNet_preprocessed, "gt_segmentations"), (nnUNet_raw, "labelsTr"))
    return [Path(str(root)) / dataset / folder / name for root, folder in folders if root.is_set()]


def _first(paths: list[Path], what: str, way_out: str) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise UserError(f"the {what} is missing, it is none of {', '.join(map(str, paths))}: {way_out}")


def dice_of_files(files: Files, reader: Any, labels: Any) -> dict[str, float]:
    """The Dice of the masks of a case, as ``dice_of``.

    Args:
        reader: one of nnU-Net's.
        labels: nnU-Net's LabelManager.

    Raises:
        UserError: when one cannot be read, or the two are not of the same shape.
    """
    prediction, reference = (read_mask(reader, file)[0] for file in files)
    _refuse_other_shapes(files, prediction, reference)
    return dice_of(labels, prediction, reference)


def dice_of(labels: Any, mask: NDArray[Any], reference: NDArray[Any]) -> dict[str, float]:
    """The Dice of every label or region, by its key in a summary.json; NaN where neither mask has it.

    Args:
        labels: nnU-Net's LabelManager.
        mask, reference: of the same shape.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask

    ignore = None if labels.ignore_label is None else reference == labels.ignore_label
    dice = {}
    for label in labels.foreground_regions if labels.has_regions else labels.foreground_labels:
        both = (region_or_label_to_mask(x, label) for x in (reference, mask))
        tp, fp, fn, _ = compute_tp_fp_fn_tn(*both, ignore)
        dice[str(label)] = float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")
    return dice
