"""``nnunet-xattnres export-onnx``"""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Checkpoint, Force, ModelFolder


def export_onnx(
    model_folder: ModelFolder,
    out: Annotated[Path, typer.Argument(help="The file, .onnx; a description with the ending .json goes beside it.")],
    fold: Annotated[str | None, typer.Option("-f", "--fold", help="Which fold; needed when there are several.")] = None,
    checkpoint: Checkpoint = "checkpoint_final.pth",
    force: Force = False,
) -> None:
    """Export a trained network to ONNX, and nothing but the network.

    Preprocessing, the sliding window and resampling back are not in it; the description beside it has the numbers that
    they need.
    """
    from nnunet_xattnres.commands.export_onnx import export_onnx as export

    description = export(model_folder, out, fold, checkpoint, force)

    console = new_console(soft_wrap=True)
    console.print(f"wrote {escape(str(out))}: the network alone, at the plan's patch size, for any batch")
    console.print(f"wrote {escape(str(description))}: what has to happen before and after it")
