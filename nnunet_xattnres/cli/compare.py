"""``nnunet-xattnres compare``"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nnunet_xattnres.cli.errors import shown_to_the_user
from nnunet_xattnres.errors import UserError


def compare(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder for the tables and the picture.")],
    dataset: Annotated[str | None, typer.Option("-d", "--dataset", help="The data set's number or name.")] = None,
    configuration: Annotated[str | None, typer.Option("-c", "--configuration", help="For example 3d_fullres.")] = None,
    trainers: Annotated[
        list[str] | None, typer.Option("-tr", "--trainers", help="Some; the others are compared with the first.")
    ] = None,
    plans: Annotated[list[str] | None, typer.Option("-p", "--plans", help="Some; nnUNetPlans by default.")] = None,
    folds: Annotated[list[str] | None, typer.Option("-f", "--folds", help="Some; by default what all have.")] = None,
    predictions: Annotated[
        list[str] | None, typer.Option("--predictions", help="NAME=FOLDER for some, in the place of trained models.")
    ] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="The true masks, for --predictions.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="What may differ: splits, cases, labels, epochs, preprocessing.")
    ] = None,
) -> None:
    """Compare trained models, or folders of predictions, on the same cases.

    nnunet-xattnres compare -d 4 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainerXAttnRes -o OUT

    Writes comparison.csv, cases.csv, comparison.md and comparison.png. Models are refused that differ in what makes a
    comparison fair, unless --allow names it.
    """
    with shown_to_the_user():
        from nnunet_xattnres.compare import CHECKS, FILES, compare_predictions, compare_trainings, write_comparison
        from nnunet_xattnres.compare import tables as tables_of
        from nnunet_xattnres.nnunet_folders import results_folder

        unknown = sorted(set(allow or ()) - set(CHECKS))
        if unknown:
            raise UserError(f"--allow {unknown[0]}: there is no such check; there are {', '.join(CHECKS)}")
        if predictions:
            if labels is None:
                raise UserError("--predictions needs --labels, the folder with the true masks")
            comparison = compare_predictions(dict(map(_pair, predictions)), labels, allow or ())
            title = f"Predictions against {labels.name}"
        else:
            if dataset is None or configuration is None or not trainers:
                raise UserError("name a data set (-d), a configuration (-c) and trainers (-tr), or --predictions")
            results = results_folder(dataset)
            comparison = compare_trainings(
                results, configuration, trainers, plans or ["nnUNetPlans"], folds or (), allow or ()
            )
            title = f"{results.name}, {configuration}"
        rows = write_comparison(comparison, out, title)

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for table in tables_of(comparison, rows):
        console.print(table)
    for note in comparison.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    console.print(f"wrote {', '.join(FILES)} in {escape(str(out))}", soft_wrap=True)


def _pair(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"--predictions {text}: it must be NAME=FOLDER")
    return name, Path(folder)
