"""``nnunet-xattnres gallery``"""

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
    from nnunet_xattnres.commands.gallery.material import Material

_ROWS = 6  # of the picture


def gallery(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder for the page and the pictures.")],
    predictions: Predictions = None,
    images: Annotated[Path | None, typer.Option("-i", "--images", help="The images, for --predictions.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="The true masks, for --predictions.")] = None,
    dataset: Annotated[str | None, typer.Option("-d", "--dataset", help="The data set's number or name.")] = None,
    configuration: Annotated[str | None, typer.Option("-c", "--configuration", help="For example 3d_fullres.")] = None,
    trainers: Annotated[list[str] | None, typer.Option("-tr", "--trainers", help="Whose validation to show.")] = None,
    plans: Plans = None,
    folds: Folds = None,
    cases: Annotated[list[str] | None, typer.Option("--cases", help="Names of cases to show. Default: chosen.")] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help=f"How many cases to choose; {_ROWS} by default.")
    ] = None,
    slice_: Annotated[
        int | None, typer.Option("--slice", min=0, help="Which; by default the one with the most foreground.")
    ] = None,
    force: Force = False,
) -> None:
    """Show masks of several models side by side: image, truth and models, with the Dice.

    nnunet-xattnres gallery --predictions plain=A reads=B --images IMAGES --labels LABELS -o OUT

    nnunet-xattnres gallery -d 4 -c 3d_fullres -tr nnUNetTrainer nnUNetTrainerXAttnRes -o OUT

    Writes gallery.html, a page with a slider through the slices, gallery.png and gallery.pdf. Half of the cases are
    those with the largest differences between the models, half are typical ones.
    """
    console = new_console(soft_wrap=True)
    from nnunet_xattnres.commands.gallery import FILES, of_predictions, show

    for file in FILES:
        refuse_existing(out / file, force)
    if rows and cases:
        raise UserError("name one of them: --rows, for as many cases to be chosen, or --cases")
    # whether the folder can be written is known before masks are read
    with replacing_folder(out, FILES) as partial, shown_progress(console) as begin:
        if predictions:
            if any((dataset, configuration, trainers, plans, folds)):
                raise UserError("name one of them: --predictions, or a data set (-d) and trainers (-tr)")
            if images is None or labels is None:
                raise UserError("--predictions needs --images and --labels, the folders of images and true masks")
            folders = folders_by_name(predictions)
            refuse_folder_that_is_read(out, [*folders.values(), images, labels])
            material = of_predictions(folders, images, labels, cases or (), begin)
        else:
            if images or labels:
                raise UserError("--images and --labels are for --predictions; with -d they are the data set's own")
            material = _of_trainings(dataset, configuration, trainers, plans, folds, cases, out)
        chosen = show(material, partial, rows or _ROWS, cases or (), slice_, begin)
    for one in chosen:
        console.print(f"  {escape(one.case)}" + (f" ({one.why})" if one.why else ""))
    console.print(escape(material.scope))
    for note in material.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    console.print(f"wrote {', '.join(FILES)} in {escape(str(out))}")


def _of_trainings(
    dataset: str | None,
    configuration: str | None,
    trainers: list[str] | None,
    plans: list[str] | None,
    folds: list[str] | None,
    cases: list[str] | None,
    out: Path,
) -> "Material":
    from nnunet_xattnres.commands.gallery import of_trainings
    from nnunet_xattnres.nnunet.folders import raw_folder, results_folder

    if dataset is None or configuration is None or not trainers:
        raise UserError("name a data set (-d), a configuration (-c) and trainers (-tr), or --predictions")
    results, raw = results_folder(dataset), raw_folder(dataset)
    refuse_folder_that_is_read(out, [*results.glob("*/fold_*/validation"), raw / "imagesTr", raw / "labelsTr"])
    return of_trainings(
        results,
        raw,
        configuration,
        trainers,
        plans or ["nnUNetPlans"],
        folds or (),
        cases or (),
    )
