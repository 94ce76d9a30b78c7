"""Folders of predictions as runs: their cases, and the Dice of each against its true mask."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from nnunet_xattnres.commands.compare.table import TEST
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.nnunet.dataset import read_dataset
from nnunet_xattnres.nnunet.images import masks_in
from nnunet_xattnres.nnunet.masks import Files, dice_of_files, reader_of
from nnunet_xattnres.nnunet.pool import Progress, outcomes
from nnunet_xattnres.nnunet.results import Dice, Fold, Run


def predicted(folder: Path, labels: Path) -> Run:
    """A folder of predictions with its cases, which have no Dice yet.

    Args:
        folder: with the dataset.json and the plans.json that nnU-Net's prediction writes.
        labels: the folder with the true masks; it may have more cases.

    Raises:
        UserError: when a file is missing, there is no prediction, or one has no true mask.
    """
    for file in (folder / "dataset.json", folder / "plans.json"):
        if not file.is_file():
            raise UserError(
                f"{file} is missing: nnUNetv2_predict writes it beside its predictions; copy it there. Of an ensemble "
                f"take that of one of the members, of postprocessed predictions that of the folder before"
            )
    dataset = read_dataset(folder / "dataset.json")
    ending = str(dataset["file_ending"])
    cases, true = (sorted(file.name for file in masks_in(d, ending).values()) for d in (folder, labels))
    if not cases:
        raise UserError(f"{folder} has no prediction *{ending}, as its dataset.json calls them")
    without = [case for case in cases if case not in true]
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        raise UserError(
            f"{labels} has no {', '.join(without[:3])}{more}, which {folder} has: every prediction needs its true mask"
        )
    return Run(
        folder, {TEST: Fold({case: {} for case in cases})}, dataset["labels"], dataset.get("regions_class_order"), {}
    )


def evaluated(run: Run, labels: Path, progress: Progress) -> Run:
    """What ``predicted`` returns, with the Dice as nnU-Net computes it.

    Raises:
        UserError: naming the case, when a mask cannot be read, or the two of a case differ in shape.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder, cases = run.folder, list(run.dice)
    plans, dataset = read_json(folder / "plans.json"), read_dataset(folder / "dataset.json")
    reader = reader_of(plans, dataset, labels / cases[0])
    of_case = partial(dice_of_files, reader=reader, labels=PlansManager(plans).get_label_manager(dataset))
    dice, done = Dice(), progress(f"evaluating {folder}", len(cases))
    for case, outcome in zip(cases, outcomes(of_case, [Files(folder / c, labels / c) for c in cases]), strict=True):
        if isinstance(outcome, UserError):
            raise UserError(f"{case}: {outcome}")
        dice[case] = outcome
        done()
    return replace(run, folds={TEST: Fold(dice)})


def without_predictions(runs: Iterable[Run], labels: Path) -> list[str]:
    """How many true masks are left out because no folder has a prediction of them, in words."""
    cases = {case for run in runs for case in run.dice}
    endings = {read_dataset(run.folder / "dataset.json")["file_ending"] for run in runs}
    true = {file.name for ending in endings for file in masks_in(labels, ending).values()}
    left_out = sorted(true - cases)
    if not left_out:
        return []
    more = ", ..." if len(left_out) > 3 else ""
    return [f"{len(left_out)} of {len(true)} true masks have no prediction: {', '.join(left_out[:3])}{more}."]
