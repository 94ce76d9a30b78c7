"""``nnunet-xattnres``: one file a command, each thin over functions that can be imported."""

import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated

import typer

from nnunet_xattnres import __version__
from nnunet_xattnres.cli.command import NnunetCommand
from nnunet_xattnres.cli.compare import compare
from nnunet_xattnres.cli.convert import convert
from nnunet_xattnres.cli.demo import demo
from nnunet_xattnres.cli.doctor import doctor
from nnunet_xattnres.cli.export_onnx import export_onnx
from nnunet_xattnres.cli.gallery import gallery
from nnunet_xattnres.cli.inspect import inspect
from nnunet_xattnres.cli.plan import plan
from nnunet_xattnres.cli.profile import profile
from nnunet_xattnres.cli.repeat import repeat
from nnunet_xattnres.cli.trainers_dir import print_trainers_dir
from nnunet_xattnres.cli.tune import tune
from nnunet_xattnres.cli.upgrade import upgrade

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # the commands inherit it
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nnunet-xattnres {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """XAttnRes for nnU-Net v2. Train with: nnUNetv2_train DATASET CONFIG FOLD -tr nnUNetTrainerXAttnRes"""
    if isinstance(sys.stdout, TextIOWrapper):  # in a file, Windows writes in an encoding that has not every name
        sys.stdout.reconfigure(errors="backslashreplace")


_COMMANDS: dict[str, Callable[..., None]] = {
    "compare": compare,
    "convert": convert,
    "demo": demo,
    "doctor": doctor,
    "export-onnx": export_onnx,
    "gallery": gallery,
    "inspect": inspect,
    "plan": plan,
    "profile": profile,
    "repeat": repeat,
    "trainers-dir": print_trainers_dir,
    "tune": tune,
    "upgrade": upgrade,
}
for _name, _function in _COMMANDS.items():
    app.command(_name, cls=NnunetCommand)(_function)
