"""``nnunet-xattnres demo``"""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Device
from nnunet_xattnres.common.processes import sigterm_as_interrupt


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="The folder for everything that the demo makes; new, empty, or of an earlier demo."
        ),
    ] = Path("nnunet-xattnres-demo"),
    device: Annotated[
        Device | None,
        typer.Option(
            "-device", "--device", help="Where to train and predict; by default on cuda if there is one, else on cpu."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Rebuild an earlier demo in the folder; your own data sets and trainings stay."),
    ] = False,
) -> None:
    """Train with XAttnRes on made-up anatomy, start to end, in minutes on a CPU.

    Runs nnU-Net's own commands and shows each: plan, train 5 epochs, predict, evaluate. Ends with the Dice of
    held-out cases and a picture of them. Writes nothing outside the folder.
    """
    from nnunet_xattnres.commands.demo import run_demo

    try:
        with sigterm_as_interrupt():  # so that nnU-Net's processes are stopped, too
            run_demo(out, device=device.value if device else None, force=force)
    except KeyboardInterrupt:
        console = new_console(stderr=True, soft_wrap=True)
        console.print(f"\nstopped. Start anew with --force, or remove {escape(str(out))}.")
        raise typer.Exit(130) from None
