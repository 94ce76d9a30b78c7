"""``nnunet-xattnres profile``"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.options import Configuration, Dataset, Device, Force


def profile(
    dataset: Dataset,
    configuration: Configuration,
    plans: Annotated[str, typer.Option("-p", "--plans", help="Plans of nnU-Net's own.")] = "nnUNetPlans",
    device: Annotated[
        Device | None,
        typer.Option("-device", "--device", help="Where to measure; by default on cuda if there is one, else on cpu."),
    ] = None,
    trainers: Annotated[
        list[str] | None, typer.Option("-tr", "--trainers", help="One or more. Default: one for each of our networks.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Another batch than the plan's.")] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, help="How often each network is timed, in turns; 0: not at all.")
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The JSON file. Default: profile-DATASET-PLANS-CONFIGURATION.json."),
    ] = None,
    force: Force = False,
) -> None:
    """Measure what switching costs: parameters, multiply-adds, time and memory of a training step.

    The plain network and each of ours, side by side, at the plan's patch and batch; without data loading.
    """
    console = new_console(width=None if sys.stdout.isatty() else 120)
    import torch

    from nnunet_xattnres.commands.profile import Setting
    from nnunet_xattnres.commands.profile import profile as measure
    from nnunet_xattnres.common.device import device_of
    from nnunet_xattnres.common.files import read_json, refuse_existing, replacing, write_json
    from nnunet_xattnres.nnunet.folders import preprocessed_folder
    from nnunet_xattnres.nnunet.plans import read_plans

    folder = preprocessed_folder(dataset)
    out = Path(f"profile-{folder.name}-{plans}-{configuration}.json") if out is None else out
    refuse_existing(out, force)
    description = read_json(folder / "dataset.json")
    setting = Setting.of(read_plans(folder / f"{plans}.json"), description, configuration, batch)
    name = device_of(device.value if device else None).type
    with console.status("") as status:

        def say(text: str) -> None:
            status.update(Text(text))

        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out, overwrite=force) as partial:  # measuring takes long: first see that it can be written
            rows = measure(setting, torch.device(name), rounds, say, trainers or ())
            status.stop()
            gpus = {"cuda": torch.cuda.get_device_name, "mps": lambda: "MPS"}
            result = {
                "dataset": folder.name,
                "plans": plans,
                "configuration": configuration,
                "batch": setting.batch,
                "machine": gpus[name]() if name in gpus else f"CPU, {torch.get_num_threads()} threads",
                "torch": torch.__version__,
                "rounds": rounds,
                "rows": rows,
            }
            console.print(_table(result))
            for why in dict.fromkeys(row["why"] for row in rows if row["why"]):
                names = ", ".join(row["trainer"] for row in rows if row["why"] == why)
                console.print(f"{names}: {escape(why)}", soft_wrap=True)
            write_json(result, partial)
    console.print(f"wrote {escape(str(out))}", soft_wrap=True)


def _table(result: dict[str, Any]) -> Table:
    head = ("trainer", "parameters", "multiply-adds", "seconds a step", "peak memory")
    title = f"{result['dataset']}, {result['configuration']}, batch {result['batch']}, {result['machine']}"
    table = Table(title=escape(title), box=SIMPLE)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in result["rows"]:
        if row["parameters"] is None:  # the configuration has no such network; the reason stands below
            continue
        cells = (
            _cell(row, "parameters", 1e-6, "{:.3g} M"),
            _cell(row, "multiply_adds", 1e-9, "{:.3g} G"),
            _cell(row, "seconds", 1, "{:.3g}"),
            _cell(row, "memory", 2**-20, "{:.0f} MiB"),
        )
        table.add_row(row["trainer"], *cells)
    return table


def _cell(row: dict[str, Any], name: str, scale: float, text: str) -> str:
    if row[name] is None:
        return "not known"
    ratio = row[f"{name}_ratio"]
    return text.format(row[name] * scale) + ("" if ratio is None else f"  x{ratio:.2f}")
