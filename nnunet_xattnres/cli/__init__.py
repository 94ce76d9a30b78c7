"""``nnunet-xattnres``: one file a command, each thin over functions that can be imported."""

from typing import Annotated

import typer

from nnunet_xattnres import __version__
from nnunet_xattnres.cli.compare import compare
from nnunet_xattnres.cli.demo import demo
from nnunet_xattnres.cli.doctor import doctor
from nnunet_xattnres.cli.export_onnx import export_onnx
from nnunet_xattnres.cli.inspect import inspect
from nnunet_xattnres.cli.plan import plan
from nnunet_xattnres.cli.profile import profile
from nnunet_xattnres.cli.repeat import repeat
from nnunet_xattnres.cli.trainers_dir import print_trainers_dir
from nnunet_xattnres.cli.tune import tune
from nnunet_xattnres.cli.upgrade import upgrade
from nnunet_xattnres.cli.variadic import VariadicCommand

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


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


app.command("compare", cls=VariadicCommand)(compare)
app.command("demo")(demo)
app.command("doctor")(doctor)
app.command("export-onnx")(export_onnx)
app.command("inspect", cls=VariadicCommand)(inspect)
app.command("plan")(plan)
app.command("profile")(profile)
app.command("repeat")(repeat)
app.command("trainers-dir")(print_trainers_dir)
app.command("tune")(tune)
app.command("upgrade")(upgrade)
