"""``nnunet-xattnres plan``"""

from typing import Annotated, Any

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import XATTNRES, Dataset, Force, Memory, Network, ReadGate, SkipMode
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.shell import command
from nnunet_xattnres.networks.registry import option_of


def plan(
    dataset: Dataset,
    plans: Annotated[str, typer.Option("-p", "--plans", help="The plans to start from.")] = "nnUNetPlans",
    network: Annotated[Network, typer.Option(help="Which network takes the place of nnU-Net's.")] = XATTNRES,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", help="The name of the new plans; by default nnUNetXAttnResPlans and the like."),
    ] = None,
    skip_mode: Annotated[
        SkipMode | None, typer.Option(help="xattnres: the skip plus a read, a read alone, or neither. Default: add.")
    ] = None,
    decoder_reads_only: Annotated[
        bool, typer.Option("--decoder-reads-only", help="xattnres: leave the encoder as nnU-Net has it.")
    ] = False,
    read_gate: Annotated[
        ReadGate | None,
        typer.Option(help="xattnres: zero starts as nnU-Net's own network; for warm starts, with add only."),
    ] = None,
    memory: Annotated[
        Memory | None, typer.Option(help="block: what a block reads; as_published as the authors' code. Default: all.")
    ] = None,
    encoder_isar: Annotated[
        bool,
        typer.Option("--encoder-isar", help="block: the encoder's blocks read, too, from a stage's third on."),
    ] = False,
    width: Annotated[
        int | None, typer.Option(min=1, help="unet3plus: channels of a reduction. Default: chosen by the cost.")
    ] = None,
    force: Force = False,
) -> None:
    """Write plans with reads, or with another way to the decoder, for any trainer of nnU-Net's.

    Nothing is preprocessed again. The new plans stand beside the old ones and use the same preprocessed data:

    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerDA5 -p nnUNetXAttnResPlans
    """
    given: dict[str, Any] = {
        "skip_mode": skip_mode and skip_mode.value,
        "encoder_reads": False if decoder_reads_only else None,
        "read_gate": read_gate and read_gate.value,
        "memory": memory and memory.value,
        "encoder_isar": encoder_isar or None,
        "width": width,
    }
    from nnunet_xattnres.commands.plan import write_plans_with_network
    from nnunet_xattnres.networks.registry import KINDS
    from nnunet_xattnres.nnunet.folders import preprocessed_folder

    kind = KINDS[network.value]
    config = _config(kind, {name: value for name, value in given.items() if value is not None})
    out = kind.plans_name if out is None else out
    path, outcome = write_plans_with_network(preprocessed_folder(dataset), plans, out, config, force)

    console = new_console(soft_wrap=True)
    console.print(f"wrote {escape(str(path))}")
    for configuration, network_class in outcome.items():
        console.print(f"  {escape(configuration)}: {escape(network_class)}")
    trained = next(iter(name for name, now in outcome.items() if not now.startswith("stays")))
    line = command("nnUNetv2_train", dataset, trained, "0", "-p", out)
    console.print(f"\nTrain with: {escape(line)}   (and any -tr of nnU-Net's)")


def _config(kind: Any, given: dict[str, Any]) -> Any:
    """The arguments of a kind of network.

    Raises:
        UserError: for one that it does not have.
    """
    for name in given:
        if name not in kind.config.__dataclass_fields__:
            raise UserError(f"{option_of(name)} is no option of {kind.title}")
    return kind.config(**given)
