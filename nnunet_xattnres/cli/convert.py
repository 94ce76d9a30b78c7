"""``nnunet-xattnres convert``"""

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.progress import shown_progress

if TYPE_CHECKING:
    from nnunet_xattnres.commands.convert import DataSet, Outcome


class Name(str, Enum):
    """What can be converted."""

    SYNAPSE = "synapse"
    COLONDB = "colondb"
    CLINICDB = "clinicdb"
    ISIC2017 = "isic2017"


class Split(str, Enum):
    """Who trains, who validates and who tests."""

    OFFICIAL = "official"
    RANDOM = "random"
    SEQUENCE = "sequence"


_N_NAMED = 5  # on the screen, of the files or cases that were skipped for one reason


def convert(
    name: Annotated[Name, typer.Argument(help="Which data set.", show_default=False)],
    source: Annotated[Path, typer.Argument(help="The folder with its files, unpacked.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder nnUNet_raw to write to.", show_default=False)],
    dataset: Annotated[
        int | None,
        typer.Option("-d", "--dataset", min=1, max=999, help="The new data set's number. Default: 950 to 953."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=16, help="Squeeze pictures to SIZE x SIZE pixels. Default: as they are.")
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(help="Default: official, for the polyps sequence: five folds of whole video sequences."),
    ] = None,
) -> None:
    """Convert a data set of the paper, as it is distributed, to nnU-Net's raw format.

    Mends what is known to be wrong with the files, and says what it mended and what it left out. It may be stopped:
    the same command goes on.
    """
    console = new_console(soft_wrap=True)
    from nnunet_xattnres.commands.convert import DATA_SETS
    from nnunet_xattnres.commands.convert import convert as convert_data_set

    data_set = DATA_SETS[name.value]
    with shown_progress(console) as progress:
        outcome = convert_data_set(
            data_set, source, out, number=dataset, size=size, split=split and split.value, progress=progress
        )
    for line in summary(data_set, outcome):
        console.print(line)
    raw = os.environ.get("nnUNet_raw")
    if raw is not None and Path(raw).resolve() != out.resolve():
        console.print(
            f"[yellow]warning[/]   nnU-Net looks in nnUNet_raw, which is {escape(raw)}, and not in {escape(str(out))}"
        )
    # --clean: nnU-Net would plan from the fingerprint of what had this number before
    number = dataset or data_set.number
    console.print(f"\nNext: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity --clean")


def summary(data_set: "DataSet", outcome: "Outcome") -> list[str]:
    """What was found, mended and skipped, a line each."""
    lines = [
        f"wrote {escape(str(outcome.folder))}: {outcome.n_training} cases to train on, {outcome.n_test} to test on"
    ]
    if outcome.n_before:
        lines.append(f"  {outcome.n_before} of them had been converted before")
    for part, (n, n_all) in outcome.parts.items():
        count = f"{n} of {n_all}" if n == n_all else f"[yellow]{n} of {n_all}[/]"
        lines.append(f"  found     {count} {part + ' cases' if len(outcome.parts) > 1 else 'cases'}")
    lines += [f"  measured  {what}: {found}" for what, found in outcome.measured.items()]
    lines += [f"  mended    {what}: {n}" for what, n in outcome.mended.items()]
    lines += [f"  skipped   {reason}: {len(what)} ({_named(what)})" for reason, what in outcome.skipped.items()]
    if outcome.copies:
        lines.append(f"  noticed   {outcome.copies} cases that are exact copies of others")
    lines.append(f"  splits    {_folds(outcome)}")
    lines += [f"  [yellow]warning[/]   {escape(warning)}" for warning in outcome.warnings]
    lines.append(f"  terms     {escape(data_set.terms)} Please cite {escape(data_set.cite)}.")
    return lines


def _named(what: Sequence[str]) -> str:
    return escape(", ".join(what[:_N_NAMED]) + (", ..., all in skipped.json" if len(what) > _N_NAMED else ""))


def _folds(outcome: "Outcome") -> str:
    if not outcome.folds:
        return "no splits_final.json, for there is nothing to validate on"
    sizes = ", ".join(f"{len(fold['train'])} + {len(fold['val'])}" for fold in outcome.folds)
    return f"{len(outcome.folds)} fold(s) in splits_final.json, train + validate: {sizes}"
