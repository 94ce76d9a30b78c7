"""The demo: made-up anatomy, then nnU-Net's own commands from planning to evaluation, with our trainer.

Everything lies in one folder, ``out``; nothing outside it is written.
"""

import os
import time
from pathlib import Path

from rich.console import Console

from nnunet_xattnres.commands.demo.commands import (
    child_environment,
    next_steps,
    nnunet_exports,
    small_plans_text,
    step_arguments,
    write_small_plans,
)
from nnunet_xattnres.commands.demo.preparation import prepare_folder
from nnunet_xattnres.commands.demo.results import (
    dice_table,
    draw_overlay,
    format_dice,
    mean_dice,
    read_dice,
    structures_of,
)
from nnunet_xattnres.commands.demo.running import print_plainly, run_command
from nnunet_xattnres.commands.demo.settings import (
    DATASET,
    GOOD_DICE,
    N_TEST,
    N_TRAIN,
    OVERLAY,
    SEED,
    SHAPE,
    STEPS,
    DemoError,
)
from nnunet_xattnres.common import shell
from nnunet_xattnres.common.device import device_of
from nnunet_xattnres.common.programs import find_program
from nnunet_xattnres.nnunet.results import Dice

__all__ = ["DemoError", "run_demo"]


def run_demo(out: Path, *, device: str | None = None, force: bool = False, console: Console | None = None) -> Dice:
    """Run the whole demo in the folder ``out``.

    Args:
        out: a new or empty folder, or with ``force`` one of an earlier demo.
        device: "cpu", "cuda" or "mps"; None for cuda where there is one, else cpu.
        force: remove what an earlier demo has left in ``out``.
        console: where to print; by default the standard output.

    Returns:
        The Dice of every structure in every held-out case.

    Raises:
        UserError: when the demo cannot start or one of nnU-Net's commands fails.
    """
    console, started = console or Console(highlight=False, emoji=False), time.monotonic()
    console.print("Looking for torch and nnU-Net")
    device = device_of(device).type
    programs = {step: find_program(name) for step, name in STEPS.items()}
    out = Path(os.path.abspath(out.expanduser()))
    prepare_folder(out, force)
    raw = _make_data(out, console)

    exports = nnunet_exports(out, device)
    environment = child_environment(out, exports)
    print_plainly(console, "\nThe commands below run with this, as you would set it in a shell of your own:")
    print_plainly(console, "\n".join(f"  {shell.export(*export)}" for export in exports.items()), style="cyan")
    for i, (step, arguments) in enumerate(step_arguments(out, device).items(), start=1):
        console.print(f"\n[bold]Step {i} of {len(STEPS)}: {step}[/]")
        print_plainly(console, f"$ {shell.command(STEPS[step], *arguments)}", style="cyan")
        command, log = [str(programs[step]), *arguments], out / "logs" / f"{i}_{step}.log"
        run_command(command, env=environment, log=log, console=console)
        if step == "plan":
            write_small_plans(out / "nnUNet_preprocessed" / DATASET)
            print_plainly(console, small_plans_text())

    dice = read_dice(out / "predictions" / "summary.json", structures_of(raw))
    os.environ["MPLCONFIGDIR"] = environment["MPLCONFIGDIR"]  # matplotlib would write its cache to the home folder
    draw_overlay(raw, out / "predictions", dice, out / OVERLAY)
    _report(out, dice, time.monotonic() - started, console)
    return dice


def _make_data(out: Path, console: Console) -> Path:
    from nnunet_xattnres.commands.demo.synthetic import write_dataset

    console.print(f"Making {N_TRAIN} training and {N_TEST} held-out images of made-up anatomy in")
    print_plainly(console, f"  {out}")
    return write_dataset(out / "nnUNet_raw", DATASET, N_TRAIN, N_TEST, SHAPE, SEED)


def _report(out: Path, dice: Dice, seconds: float, console: Console) -> None:
    console.print()
    console.print(dice_table(dice))
    for structure, value in mean_dice(dice).items():
        if not value >= GOOD_DICE:  # NaN, too
            console.print(
                f"[yellow]The {structure}'s mean Dice is {format_dice(value)}, less than the {GOOD_DICE:.2f} that this "
                "demo is meant to reach.[/] Something is not as it should be; try: nnunet-xattnres doctor"
            )
    print_plainly(console, f"picture: {out / OVERLAY}\nlogs:    {out / 'logs'}\ntook:    {seconds / 60:.1f} minutes")
    print_plainly(console, f"\n{next_steps()}")
