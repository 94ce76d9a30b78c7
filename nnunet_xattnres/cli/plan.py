"""``nnunet-xattnres plan``"""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from nnunet_xattnres.cli.errors import shown_to_the_user
from nnunet_xattnres.cli.options import Dataset, Force, ReadGate, SkipMode


def plan(
    dataset: Dataset,
    plans: Annotated[str, typer.Option("-p", "--plans", help="The plans to start from.")] = "nnUNetPlans",
    out: Annotated[str, typer.Option("-o", "--out", help="The name of the new plans.")] = "nnUNetXAttnResPlans",
    skip_mode: Annotated[
        SkipMode, typer.Option(help="The skip plus a read, a read alone, or neither (the ablation).")
    ] = SkipMode.ADD,
    decoder_reads_only: Annotated[
        bool, typer.Option("--decoder-reads-only", help="Leave the encoder as nnU-Net has it.")
    ] = False,
    read_gate: Annotated[
        ReadGate, typer.Option(help="zero: start as nnU-Net's own network; for warm starts, with add only.")
    ] = ReadGate.NONE,
    force: Force = False,
) -> None:
    """Write plans whose networks have reads, for any trainer of nnU-Net's; nothing is preprocessed again.

    The new plans stand beside the old ones and use the same preprocessed data:

    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerDA5 -p nnUNetXAttnResPlans
    """
    with shown_to_the_user():
        from nnunet_xattnres.commands.plan import write_plans_with_reads
        from nnunet_xattnres.nnunet.folders import preprocessed_folder
        from nnunet_xattnres.reads.config import ReadConfig

        config = ReadConfig(skip_mode=skip_mode.value, encoder_reads=not decoder_reads_only, read_gate=read_gate.value)
        folder = preprocessed_folder(dataset)
        path, outcome = write_plans_with_reads(folder, plans, out, config, force)

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"wrote {escape(str(path))}")
    for configuration, network in outcome.items():
        console.print(f"  {configuration}: {network}")
    trained = next(iter(name for name, network in outcome.items() if not network.startswith("stays")))
    console.print(f"\nTrain with: nnUNetv2_train {dataset} {trained} 0 -p {out}   (and any -tr of nnU-Net's)")
