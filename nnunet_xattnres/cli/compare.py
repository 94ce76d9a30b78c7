"""``nnunet-xattnres compare``"""

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Folds, Force, Plans, Predictions, folders_by_name
from nnunet_xattnres.cli.progress import shown_progress
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import refuse_existing, refuse_folder_that_is_read, replacing_folder

if TYPE_CHECKING:
    from nnunet_xattnres.commands.compare import Comparison

_ONE_OF_THEM = "name one of them: --cases, or --predictions, or a data set (-d) and trainers (-tr)"


def compare(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder for the page, the tables and the pictures.")],
    dataset: Annotated[str | None, typer.Option("-d", "--dataset", help="The data set's number or name.")] = None,
    configuration: Annotated[str | None, typer.Option("-c", "--configuration", help="For example 3d_fullres.")] = None,
    trainers: Annotated[
        list[str] | None, typer.Option("-tr", "--trainers", help="Two or more; the others are compared with the first.")
    ] = None,
    plans: Plans = None,
    folds: Folds = None,
    predictions: Predictions = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="The true masks, for --predictions.")] = None,
    cases: Annotated[
        Path | None, typer.Option("--cases", help="The cases.csv of a comparison, to make it again from that.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metrics", help="Beside the Dice: hd95, nsd (normalised surface Dice).")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="The distance of nsd, in mm (of pictures: in pixels). Default: 2."),
    ] = None,
    as_published: Annotated[
        str | None, typer.Option("--as-published", help="synapse: as the Synapse papers measure, beside HD95 in mm.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="What may differ: splits, cases, labels, epochs, preprocessing.")
    ] = None,
    force: Force = False,
) -> None:
    """Compare trained models, or folders of predictions, on the same cases.

    nnunet-xattnres compare -d 4 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainerXAttnRes -o OUT

    Writes a page, comparison.html, its tables as comparison.md, comparison.csv and cases.csv, and its pictures. Models
    are refused that differ in what makes a comparison fair, unless --allow names it. --metrics and --as-published read
    the masks; the Dice comes from what nnU-Net has written.
    """
    from nnunet_xattnres.commands.compare import (
        CHECKS,
        FILES,
        Wanted,
        compare_cases,
        compared,
        doubts,
        refuse_to_lose,
        with_measures,
        write_comparison,
        write_page,
    )
    from nnunet_xattnres.commands.compare import tables as tables_of

    unknown = sorted(set(allow or ()) - set(CHECKS))
    if unknown:
        raise UserError(f"--allow {unknown[0]}: there is no such check; there are {', '.join(CHECKS)}")
    wanted = Wanted.of(metrics or (), tolerance, as_published)
    for file in FILES:
        refuse_existing(out / file, force)
    # whether it can be written is known before masks are read, for hours; what these gave is kept
    with replacing_folder(out, FILES, keep=wanted is not None) as partial:
        if cases is not None:
            refuse_to_lose(cases, out)
            if any((dataset, configuration, trainers, plans, folds, predictions, labels)):
                raise UserError(_ONE_OF_THEM)
            if wanted is not None:
                raise UserError(
                    f"{cases} has the Dice only: for --metrics and --as-published name a data set (-d) and "
                    f"trainers (-tr), or --predictions"
                )
            comparison, title = compare_cases(cases, allow or ()), f"From {cases.name}"
        elif predictions:
            if any((dataset, configuration, trainers, plans, folds)):
                raise UserError(_ONE_OF_THEM)
            comparison, title = _of_predictions(predictions, labels, allow or (), out)
        else:
            if labels:
                raise UserError("--labels is for --predictions; with -d the true masks are the data set's own")
            comparison, title = _of_trainings(dataset, configuration, trainers, plans, folds, allow or (), out)
        if wanted is not None:
            with shown_progress(new_console(stderr=True)) as begin:
                comparison = with_measures(comparison, wanted, labels if predictions else None, begin)
        rows = write_comparison(comparison, partial, title)
        written = write_page(comparison, rows, partial, title)

    console = new_console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
    for table in tables_of(comparison, rows, console.width):
        console.print(table)
    console.print(escape(compared(comparison)))
    for note in (*comparison.notes, *doubts(rows)):
        console.print(f"[yellow]{escape(note)}[/]")
    console.print(f"wrote {', '.join(written)} in {escape(str(out))}", soft_wrap=True)


def _of_predictions(
    predictions: list[str], labels: Path | None, allow: Collection[str], out: Path
) -> "tuple[Comparison, str]":
    from nnunet_xattnres.commands.compare import compare_predictions

    if labels is None:
        raise UserError("--predictions needs --labels, the folder with the true masks")
    folders = folders_by_name(predictions)
    refuse_folder_that_is_read(out, [*folders.values(), labels])
    with shown_progress(new_console(stderr=True)) as begin:
        return compare_predictions(folders, labels, allow, begin), f"Predictions against {labels.name}"


def _of_trainings(
    dataset: str | None,
    configuration: str | None,
    trainers: list[str] | None,
    plans: list[str] | None,
    folds: list[str] | None,
    allow: Collection[str],
    out: Path,
) -> "tuple[Comparison, str]":
    from nnunet_xattnres.commands.compare import compare_trainings
    from nnunet_xattnres.nnunet.folders import results_folder

    if dataset is None or configuration is None or not trainers:
        raise UserError("name a data set (-d), a configuration (-c) and trainers (-tr), or --predictions, or --cases")
    results = results_folder(dataset)
    refuse_folder_that_is_read(out, results.glob("*/fold_*/validation"))
    comparison = compare_trainings(results, configuration, trainers, plans or ["nnUNetPlans"], folds or (), allow)
    return comparison, f"{results.name}, {configuration}"
