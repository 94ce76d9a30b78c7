"""``nnunet-xattnres repeat``"""

from typing import Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Dataset, Force


def repeat(
    dataset: Dataset,
    plans: Annotated[str, typer.Option("-p", "--plans", help="The plans to repeat.")] = "nnUNetPlans",
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many repeats.")] = 3,
    force: Force = False,
) -> None:
    """Write copies of plans, PLANS_rep1, PLANS_rep2, ...: trainings on them go into folders of their own.

    nnU-Net starts every training from other random numbers, so training on each is a repeat. The copies use the same
    preprocessed data, and every command of nnU-Net's takes them with -p. compare takes them together:

    nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerXAttnRes -p nnUNetPlans_rep1
    """
    from nnunet_xattnres.commands.repeat import write_repeats
    from nnunet_xattnres.nnunet.folders import preprocessed_folder

    paths = write_repeats(preprocessed_folder(dataset), plans, number, force)
    for path in paths:
        new_console(soft_wrap=True).print(f"wrote {escape(str(path))}")
