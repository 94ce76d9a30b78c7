"""``nnunet-xattnres tune``"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Configuration, Dataset

if TYPE_CHECKING:
    from nnunet_xattnres.ops.tuning import Found


def tune(
    dataset: Dataset,
    configuration: Configuration,
    plans: Annotated[str, typer.Option("-p", "--plans", help="The plans.")] = "nnUNetPlans",
    trainer: Annotated[
        str | None,
        typer.Option(
            "-tr", "--trainer", help="Default: nnUNetTrainerXAttnRes, with plans that have reads nnUNetTrainer."
        ),
    ] = None,
    num_gpus: Annotated[
        int, typer.Option("-num_gpus", "--num-gpus", min=1, help="As in nnUNetv2_train: they share the batch.")
    ] = 1,
) -> None:
    """Choose on this GPU how the reads are computed, ahead of a training.

    Every path must first prove that it computes the right numbers here; the fastest one is taken. A training does the
    same at its start, and finds what was chosen here. Without a CUDA device there is nothing to choose.
    """
    console = new_console(width=None if sys.stdout.isatty() else 160)
    import torch

    if not torch.cuda.is_available():
        console.print("There is no CUDA device here, so there is nothing to choose: plain torch computes the reads.")
        return
    from nnunet_xattnres.ops.choice import CUSTOM_OPS

    if not CUSTOM_OPS:
        console.print(
            f"There is nothing to choose: with torch {torch.__version__}, older than 2.4, the reference "
            "computes the reads."
        )
        return
    from nnunet_xattnres.commands.tune import tune as choose

    said: list[str] = []
    with console.status("trying every path of the reads, each in a process of its own"):
        found = choose(dataset, configuration, plans, trainer, torch.device("cuda"), said.append, num_gpus)
    if not found:
        console.print("This network has no reads of a history: there is nothing to choose.")
        return
    console.print(table(found))
    for line in said:
        if not line.startswith("Read"):  # of the reads the table says it
            console.print(escape(line), soft_wrap=True)
    from nnunet_xattnres.ops.chosen import cache_folder, load, machine

    here = machine(torch.device("cuda"))
    if all(load(here, one.shape) for one in found):
        console.print(f"kept in {escape(str(cache_folder()))}", soft_wrap=True)
    else:
        console.print("not kept for the next time: a training tries the paths again")


def table(found: "list[Found]") -> Table:
    """What was chosen for each read, and what became of every path."""
    shown = Table(box=SIMPLE)
    for name in ("read", "forward", "backward", "what was tried (ms, forward + backward)"):
        shown.add_column(name)
    for one in found:
        tried = "\n".join(f"{name}: {_result(result)}" for name, result in one.results.items())
        # what a path failed with is a compiler's text
        shown.add_row(*map(escape, (str(one.shape), one.choice.forward, one.choice.backward, tried)))
    return shown


def _result(result: dict[str, object]) -> str:
    if result["status"] != "ok":
        return f"{result['status']} {result.get('why', '')}"
    seconds = [result.get(phase) for phase in ("forward", "backward")]
    return " + ".join(f"{1e3 * s:.3g}" for s in seconds if isinstance(s, float)) or "proved, not timed"
