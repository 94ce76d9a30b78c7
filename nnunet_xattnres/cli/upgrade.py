"""``nnunet-xattnres upgrade``"""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import XATTNRES, Force, Network, ReadGate
from nnunet_xattnres.common.errors import UserError


class SkipMode(str, Enum):
    """What stands beside the upsampled map in a decoder stage."""

    ADD = "add"
    REPLACE = "replace"


def upgrade(
    source: Annotated[Path, typer.Argument(help="A checkpoint of nnU-Net's, or the folder of a trained model.")],
    out: Annotated[Path, typer.Argument(help="The new checkpoint, or with --model-folder the new folder.")],
    skip_mode: Annotated[SkipMode, typer.Option(help="The skip plus a read, or a read alone.")] = SkipMode.ADD,
    read_gate: Annotated[
        ReadGate | None,
        typer.Option(help="zero: start exactly as the trained network does. Default: zero for add, none for replace."),
    ] = None,
    network: Annotated[
        Network, typer.Option(help="xattnres; the others cannot start as what was trained, and are refused.")
    ] = XATTNRES,
    model_folder: Annotated[
        bool, typer.Option("--model-folder", help="Upgrade a whole folder, for nnUNetv2_predict.")
    ] = False,
    force: Force = False,
) -> None:
    """Give a trained nnU-Net reads: a warm start.

    The new checkpoint is for -pretrained_weights. The command for it is printed, such as:

    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerXAttnResGated -pretrained_weights OUT
    """
    gate = read_gate.value if read_gate else {"add": "zero", "replace": "none"}[skip_mode.value]
    from nnunet_xattnres.commands.upgrade import (
        first_stage_folders,
        trainer_for,
        training_commands,
        write_upgraded,
        write_upgraded_folder,
    )
    from nnunet_xattnres.nnunet.model_folder import only_checkpoint

    trainer = trainer_for(skip_mode.value, gate, network.value)
    if model_folder:
        if source.is_file():
            raise UserError(f"{source} is a file; --model-folder takes the folder of a trained model")
        done = write_upgraded_folder(source, out, trainer, force)
    else:
        if source.is_dir():
            source = only_checkpoint(source, "name one of them, or upgrade the folder with --model-folder")
        done = {out.name: write_upgraded(source, out, trainer, force)}

    console = new_console(soft_wrap=True)
    console.print(f"wrote {escape(str(out))}, with the network of {trainer}")
    for name, upgraded in done.items():
        difference = f"{upgraded.difference:.1e} of the largest"
        found = f"on a random input the logits differ from the trained network's by {difference}"
        if upgraded.unchecked:
            found = (
                f"whether it computes what was trained could [yellow]not be checked[/]: {escape(upgraded.unchecked)}"
            )
        console.print(f"  {escape(name)}: {upgraded.n_new:,} numbers of the reads are new; {found}")
    if model_folder and any(upgraded.unchecked for upgraded in done.values()):
        console.print(
            "The results of the trained model were not copied; `nnUNetv2_train ... --val` makes those of a fold, which "
            "nnU-Net's export needs."
        )
    if gate == "none":
        console.print("Without a gate the new reads change what the network computes; train before you predict.")
    if not model_folder:
        console.print()
        for i, line in enumerate(training_commands(done[out.name], out)):
            console.print(f"{'then:' if i else 'Train with:'} {escape(line)}")
        if (folders := first_stage_folders(done[out.name])) is not None:
            theirs, ours = map(escape, folders)
            console.print(
                f"It needs the masks of the cascade's first stage. In nnUNet_results, copy {theirs} to {ours}."
            )
