"""``nnunet-xattnres inspect``"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Checkpoint, Device, Force, ModelFolder
from nnunet_xattnres.cli.progress import shown_progress
from nnunet_xattnres.common.shell import command


def inspect(
    model_folder: ModelFolder,
    images: Annotated[Path, typer.Option("-i", "--images", help="A folder of images, or one of them.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new or empty folder for what is found.")],
    folds: Annotated[
        list[str] | None,
        typer.Option(
            "-f", "--folds", help="One or more. Default: those that are trained; fold all only if it is the only one."
        ),
    ] = None,
    checkpoint: Checkpoint = "checkpoint_final.pth",
    device: Annotated[
        Device | None,
        typer.Option("-device", "--device", help="Where to predict; by default on cuda if there is one, else on cpu."),
    ] = None,
    mirroring: Annotated[
        bool, typer.Option("--mirroring", help="Predict with mirroring; weights are of the unmirrored pass.")
    ] = False,
    maps: Annotated[
        list[str] | None, typer.Option("--maps", help="Reads, such as d3, whose weights to write as images.")
    ] = None,
    each_label: Annotated[bool, typer.Option("--each-label", help="Draw routing.png for each label, too.")] = False,
    references: Annotated[
        Path | None, typer.Option("-gt", "--references", help="The true masks' folder, for the Dice.")
    ] = None,
    knockout: Annotated[
        bool, typer.Option("--knockout", help="Predict without each source of each read, too; slow. Needs -gt.")
    ] = False,
    force: Force = False,
) -> None:
    """Show what a trained network reads: the weight of each source in each read.

    Writes routing.csv, routing.json, routing.png, report.html and the predicted masks; with --maps the weights at each
    voxel, with --knockout the Dice without each source.
    """
    console = new_console(soft_wrap=True)
    from nnunet_xattnres.common.device import device_of

    predict_on = device_of(device.value if device else None)  # before what takes seconds to load

    from nnunet_xattnres.commands.inspect.inspection import Inspection, inspect_model
    from nnunet_xattnres.commands.inspect.routing import strongest_of

    what = Inspection(
        model_folder,
        images,
        folds=folds or (),
        checkpoint=checkpoint,
        mirroring=mirroring,
        maps=maps or (),
        each_label=each_label,
        references=references,
        knockout=knockout,
        command=command("nnunet-xattnres", *sys.argv[1:]),
    )
    with shown_progress(console) as begin:
        strongest = strongest_of(inspect_model(what, out, predict_on, begin, force))

    for read, row in strongest.items():
        console.print(
            f"  {read} reads most from {row['source']} {row['mean_weight']:.2f} (uniform {row['uniform_weight']:.2f})"
        )
    console.print(f"wrote {escape(str(out / 'report.html'))} and what it shows")
