"""A gallery of trained models, by the masks of their validation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_xattnres.commands.gallery.material import (
    Material,
    Model,
    refuse_unknown,
)
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.nnunet.dataset import read_dataset
from nnunet_xattnres.nnunet.find import common_folds, find_models, left_out_repeats, with_folds
from nnunet_xattnres.nnunet.images import images_in, masks_in, window_of
from nnunet_xattnres.nnunet.masks import reader_of
from nnunet_xattnres.nnunet.plans import resolved
from nnunet_xattnres.nnunet.results import Dice, of_all_folds, read_dice


def of_trainings(
    results: Path,
    raw: Path,
    configuration: str,
    trainers: Sequence[str],
    plans: Sequence[str],
    folds: Sequence[str] = (),
    cases: Sequence[str] = (),
) -> Material:
    """Trained models, by the masks of their validation. Of repeats the first with a validated fold is shown.

    Args:
        results, raw: a data set's folders in nnUNet_results and nnUNet_raw.
        folds: by default as ``common_folds``.
        cases: those that are needed; all that there are if none is named.

    Raises:
        UserError: when a model, a fold or a file is missing, a case is in two folds, or the models were not
            validated on the same cases.
    """
    every = find_models(results, configuration, trainers, plans)
    found = [(name, with_folds(repeats)[0]) for name, repeats in every]
    left_out = left_out_repeats([repeats[0] for _, repeats in every if repeats[0] not in with_folds(repeats)])
    if not folds:
        folds, of_folds = common_folds([[folder] for _, folder in found])
        left_out += of_folds
    dataset = read_dataset(found[0][1] / "dataset.json")
    ending = str(dataset["file_ending"])
    models = [_validated(name, folder, folds, ending) for name, folder in found]
    there = set().union(*(model.dice for model in models))
    refuse_unknown(cases, there, f"the validation of fold {', '.join(folds)}")
    taken = list(cases) or sorted(there)
    for model in models:
        lacking = [case for case in taken if case not in model.dice]
        if lacking:
            raise UserError(
                f"{model.folder} was not validated on {lacking[0]}, which others were: name "
                f"folds with the same split with -f, or cases that all have with --cases"
            )
    models = [model.only(taken) for model in models]
    images, truth = _training_files(raw, dataset, ending)
    content = read_json(found[0][1] / "plans.json")
    reader = reader_of(content, dataset, next(iter(models[0].files.values())))
    window = window_of(content, resolved(content, configuration))
    return Material(models, images, truth, dataset, reader, window, folds, left_out)


def _validated(name: str, folder: Path, folds: Sequence[str], ending: str) -> Model:
    dice: dict[str, Dice] = {}
    files: dict[str, dict[str, Path]] = {}
    for fold in folds:
        validation = folder / f"fold_{fold}" / "validation"
        found = read_dice(validation / "summary.json")
        dice[fold] = {file.removesuffix(ending): of_case for file, of_case in found.items()}
        files[fold] = {file.removesuffix(ending): validation / file for file in found}
    return Model(name, folder, of_all_folds(folder, files), of_all_folds(folder, dice))


def _training_files(
    raw: Path, dataset: Mapping[str, Any], ending: str
) -> tuple[Mapping[str, list[str]], Mapping[str, Path]]:
    """The images and the true masks, by case; dataset.json may list them, wherever they are."""
    if "dataset" in dataset:
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        listed = get_filenames_of_train_images_and_targets(str(raw), dict(dataset))
        return (
            {case: files["images"] for case, files in listed.items()},
            {case: Path(files["label"]) for case, files in listed.items()},
        )
    for name in ("imagesTr", "labelsTr"):
        if not (raw / name).is_dir():
            raise UserError(f"{raw / name} is missing: the gallery shows the images that the models were validated on")
    return images_in(raw / "imagesTr", ending), masks_in(raw / "labelsTr", ending)
