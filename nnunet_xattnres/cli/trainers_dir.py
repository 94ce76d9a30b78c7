"""``nnunet-xattnres trainers-dir``"""

import sys
from io import TextIOWrapper

import typer

from nnunet_xattnres.autoregister import trainers_dir
from nnunet_xattnres.common.errors import UserError


def print_trainers_dir() -> None:
    """Print the folder that nnU-Net must find on nnUNet_extTrainer."""
    if isinstance(sys.stdout, TextIOWrapper):  # a program reads it: no letter may be written as something else
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        typer.echo(trainers_dir())
    except UnicodeEncodeError as error:
        raise UserError(
            f"{error.object!r} cannot be written in {error.encoding}: set the variable PYTHONUTF8 to 1"
        ) from None
