"""A gallery of folders of masks."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_xattnres.commands.gallery.material import (
    Material,
    Model,
    refuse_other_shape,
    refuse_unknown,
)
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json, refuse_no_folder
from nnunet_xattnres.nnunet.dataset import read_dataset
from nnunet_xattnres.nnunet.images import images_in, masks_in, window_of
from nnunet_xattnres.nnunet.masks import dice_of, read_mask, reader_of
from nnunet_xattnres.nnunet.plans import resolved
from nnunet_xattnres.nnunet.pool import Progress, outcomes
from nnunet_xattnres.nnunet.results import Dice


def of_predictions(
    predictions: Mapping[str, Path], images: Path, labels: Path, cases: Sequence[str], progress: Progress
) -> Material:
    """Folders of masks, such as ``nnUNetv2_predict`` writes.

    Args:
        predictions: a folder for each name.
        images, labels: the folders of the images and the true masks.
        cases: those that are needed; all that there are if none is named.

    Raises:
        UserError: when a folder or a file is missing, the folders do not hold the same cases, or shapes differ.
    """
    for folder in (*predictions.values(), images, labels):
        refuse_no_folder(folder)
    dataset = _dataset_of(list(predictions.values()), labels.parent)
    ending = str(dataset["file_ending"])
    files = {name: masks_in(folder, ending) for name, folder in predictions.items()}
    there = set().union(*files.values())
    needed = list(cases) or sorted(there)
    refuse_unknown(needed, there, f"{', '.join(str(folder) for folder in predictions.values())}")
    for name, found in files.items():
        for case in needed:
            if case not in found:
                raise UserError(
                    f"{predictions[name]} ({name}) has no {case}{ending}, which others have: predict it, or name the "
                    f"cases that all have with --cases"
                )
    truth = _files_of(needed, masks_in(labels, ending), labels, ending)
    shown, plans = images_in(images, ending), _plans_of_any(predictions.values())
    example = shown[needed[0]][0] if needed[0] in shown else truth[needed[0]]
    reader = reader_of(plans, dataset, Path(example))
    done = progress("comparing masks with the truth", len(needed))
    dice: dict[str, Dice] = {name: {} for name in files}
    of_case = [(truth[case], {name: found[case] for name, found in files.items()}) for case in needed]
    for case, outcome in zip(needed, outcomes(partial(_dice, reader=reader, dataset=dataset), of_case), strict=True):
        if isinstance(outcome, UserError):
            raise UserError(f"{case}: {outcome}")
        for name, of_model in outcome.items():
            dice[name][case] = of_model
        done()
    models = [Model(name, predictions[name], found, dice[name]) for name, found in files.items()]
    return Material(models, shown, truth, dataset, reader, _window_of_any(plans))


def _dice(
    files: tuple[Path, Mapping[str, Path]], reader: Any, dataset: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Of a case's true mask and those of the models: model -> label -> Dice."""
    truth, masks = files
    true, _ = read_mask(reader, truth)
    found = {}
    for name, file in masks.items():
        mask, _ = read_mask(reader, file)
        refuse_other_shape(file, mask, truth, true.shape)
        found[name] = dice_of(_label_manager(dataset), mask, true)
    return found


def _label_manager(dataset: Mapping[str, Any]) -> Any:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    return LabelManager(dataset["labels"], dataset.get("regions_class_order"))


def _dataset_of(folders: Sequence[Path], otherwise: Path) -> dict[str, Any]:
    """The dataset.json of one of the folders; where several have one, they must have the same labels.

    Args:
        otherwise: the folder whose dataset.json counts only where none of them has one: it may be that of other masks.
    """
    files = [file for folder in folders if (file := folder / "dataset.json").is_file()]
    files = files or [file for file in [otherwise / "dataset.json"] if file.is_file()]
    if not files:
        raise UserError(
            f"there is no dataset.json in {', '.join(map(str, (*folders, otherwise)))}: nnUNetv2_predict writes it "
            f"beside its masks; copy it there"
        )
    first, *others = map(read_dataset, files)
    for file, content in zip(files[1:], others, strict=True):
        for key in ("labels", "regions_class_order", "file_ending"):
            if content.get(key) != first.get(key):
                raise UserError(
                    f"{file} has other {key} than {files[0]}, {content.get(key)} and {first.get(key)}: show masks of "
                    f"one data set"
                )
    return first


def _files_of(cases: Sequence[str], files: Mapping[str, Path], folder: Path, ending: str) -> dict[str, Path]:
    for case in cases:
        if case not in files:
            raise UserError(f"{folder} has no {case}{ending}: --labels needs the true mask of every case")
    return {case: files[case] for case in cases}


def _plans_of_any(folders: Iterable[Path]) -> Mapping[str, Any]:
    """The first plans that nnUNetv2_predict has left beside its masks; empty without any."""
    files = (folder / "plans.json" for folder in folders)
    return next((read_json(file) for file in files if file.is_file()), {})


def _window_of_any(plans: Mapping[str, Any]) -> tuple[float, float] | None:
    """That of the first configuration that says how images are normalised."""
    every = (resolved(plans, name) for name in plans.get("configurations", ()))
    return next((window_of(plans, c) for c in every if "normalization_schemes" in c), None)
