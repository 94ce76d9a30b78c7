"""The tables of a comparison: for the screen, for a paper's appendix, and with every digit."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from nnunet_xattnres.commands.compare.table import Comparison, Row, costs
from nnunet_xattnres.common.files import replacing

_HEAD = (
    "model",
    "label",
    "Dice",
    "spread",
    "cases",
    "difference",
    "95% interval over cases",
    "95% interval over repeats",
    "p",
    "p (Holm)",
    "better/equal/worse",
)
_SCREEN_HEAD = (
    "label",
    "Dice\nbefore",
    "Dice",
    "difference",
    "95% interval\nover cases",
    "95% interval\nover repeats",
    "p\n(Holm)",
    "better/\nequal/\nworse",
)
_COST_HEAD = ("model", "parameters", "seconds an epoch", "peak GPU memory (MiB)")


def tables(comparison: Comparison, rows: Sequence[Row]) -> list[Table]:
    """For the screen: one for each further model, and one of the costs where any is known."""
    first, *others = comparison.models
    before = {row.label: _number(row.dice) for row in rows if row.model == first.name}
    found = []
    for model in others:
        lines = []
        for row in rows:
            if row.model == model.name:
                _, label, dice, _, _, difference, *intervals, p, holm, counts = _cells(row)
                lines.append((label, before[label], dice, difference, *intervals, holm or p, counts))
        found.append(_table(f"{model.name}\nagainst {first.name}", _SCREEN_HEAD, lines))
    head = ("model", "parameters", "seconds\nan epoch", "peak GPU\nmemory (MiB)")
    cost = _costs(comparison)
    return [*found, _table("Cost", head, cost)] if cost else found


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, box=SIMPLE)
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Every number of the table, unrounded."""
    attributes = ("mean", "low", "high", "p", "p_holm", "better", "equal", "worse", "left_out")
    names = ("difference", "interval_low", "interval_high", "repeats_low", "repeats_high", *attributes[3:])
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "label", "dice", "spread_between_repeats", "cases", *names])
        for row in rows:
            values = ["" if row.difference is None else getattr(row.difference, name) for name in attributes]
            spread = "" if row.spread is None else row.spread
            repeats = row.over_repeats or ("", "")
            writer.writerow([row.model, row.label, row.dice, spread, row.n_cases, *values[:3], *repeats, *values[3:]])


def write_markdown(comparison: Comparison, rows: Sequence[Row], path: Path, title: str) -> None:
    """The tables as text, with how the numbers were made."""
    first = comparison.models[0].name
    method = (
        f"Dice as nnU-Net computes it; differences to {first}, paired by case, over the cases in which both have "
        f"one (it is undefined where neither mask has the label). Interval over cases: percentiles of 10,000 bootstrap "
        f"resamples of the cases; whether other cases would show the difference. Interval over repeats: Welch's t, of "
        f"the mean Dice of each repeat; whether other trainings would show it on these cases (only with two repeats "
        f"of both models at least). p: Wilcoxon's signed-rank test over the cases, two-sided; Holm's correction over "
        f"the labels. Spread: standard deviation between repeats; with repeats, a case's Dice is their mean. The row "
        f"'mean' is the mean over the labels; its better/equal/worse and its p are of each case's mean."
    )
    left_out = [
        f"{row.model}, {row.label}: {row.difference.left_out} cases without a Dice in one of the two are left out."
        for row in rows
        if row.difference is not None and row.difference.left_out
    ]
    cost = _costs(comparison)
    parts = [
        f"# {title}",
        *(f"**{note}**" for note in comparison.notes),
        markdown_table(_HEAD, [_cells(row) for row in rows]),
        method,
        *left_out,
        *(("## Cost", markdown_table(_COST_HEAD, cost)) if cost else ()),
    ]
    with replacing(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _cells(row: Row) -> list[str]:
    d = row.difference
    spread = "" if row.spread is None else _number(row.spread)
    left = [row.model, row.label, _number(row.dice), spread, str(row.n_cases)]
    if d is None:
        return [*left, "", "", "", "", "", ""]
    holm = "" if math.isnan(d.p_holm) else _p(d.p_holm)
    intervals = [_interval(d.low, d.high), "" if row.over_repeats is None else _interval(*row.over_repeats)]
    difference = "n/a" if math.isnan(d.mean) else f"{d.mean:+.4f}"
    return [*left, difference, *intervals, _p(d.p), holm, f"{d.better}/{d.equal}/{d.worse}"]


def _costs(comparison: Comparison) -> list[list[str]]:
    """A line for each model; none where nothing is known of any."""
    formats = (("parameters", ","), ("epoch_seconds", ".1f"), ("gpu_memory", ".0f"))
    lines = []
    for model in comparison.models:
        cost = costs(model)
        lines.append([model.name, *("" if cost[key] is None else format(cost[key], spec) for key, spec in formats)])
    return lines if any(any(line[1:]) for line in lines) else []


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def _p(value: float) -> str:
    return "n/a" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"
