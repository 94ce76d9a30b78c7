"""``nnunet-xattnres trainers-dir``"""

import typer

from nnunet_xattnres.autoregister import trainers_dir


def print_trainers_dir() -> None:
    """Print the folder that nnU-Net must find on nnUNet_extTrainer."""
    typer.echo(trainers_dir())
