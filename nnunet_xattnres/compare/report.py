"""The tables of a comparison: for the screen, for a paper's appendix, and with every digit."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from nnunet_xattnres.compare.results import Model
from nnunet_xattnres.compare.table import Comparison, Row, costs
from nnunet_xattnres.files import replacing

_HEAD = (
    "model",
    "label",
    "Dice",
    "spread",
    "cases",
    "difference",
    "95% interval",
    "p",
    "p (Holm)",
    "better/equal/worse",
)
_COST_HEAD = ("model", "parameters", "seconds an epoch", "peak GPU memory (MiB)")


def tables(comparison: Comparison, rows: Sequence[Row]) -> list[Table]:
    """For the screen: one for each further model, and one of the costs."""
    first, *others = comparison.models
    before = {row.label: _number(row.dice) for row in rows if row.model == first.name}
    found = []
    for model in others:
        lines = []
        for row in rows:
            if row.model == model.name:
                _, label, dice, _, _, difference, interval, p, holm, counts = _cells(row)
                lines.append((label, before[label], dice, difference, interval, holm or p, counts))
        names = ("label", "Dice\nbefore", "Dice", "difference", "95% interval", "p\n(Holm)", "better/\nequal/\nworse")
        found.append(_table(f"{model.name}\nagainst {first.name}", names, lines))
    head = ("model", "parameters", "seconds\nan epoch", "peak GPU\nmemory (MiB)")
    return [*found, _table("Cost", head, [_cost_cells(model) for model in comparison.models])]


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
    names = ("difference", "interval_low", "interval_high", *attributes[3:])
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "label", "dice", "spread_between_repeats", "cases", *names])
        for row in rows:
            values = ["" if row.difference is None else getattr(row.difference, name) for name in attributes]
            spread = "" if row.spread is None else row.spread
            writer.writerow([row.model, row.label, row.dice, spread, row.n_cases, *values])


def write_cases(comparison: Comparison, path: Path) -> None:
    """The Dice of every case, label, model and repeat."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "run", "fold", "case", "label", "dice"])
        for model in comparison.models:
            for run in model.runs:
                for name, fold in run.folds.items():
                    for case, dice in fold.dice.items():
                        for key, value in dice.items():
                            label = comparison.labels.get(key, key)
                            writer.writerow([model.name, run.folder.name, name, case, label, value])


def write_markdown(comparison: Comparison, rows: Sequence[Row], path: Path, title: str) -> None:
    """The tables as text, with how the numbers were made."""
    first = comparison.models[0].name
    method = (
        f"Dice as nnU-Net computes it; differences to {first}, paired by case, over the cases in which both have "
        f"one (it is undefined where neither mask has the label). Interval: 95%, percentiles of 10,000 bootstrap "
        f"resamples of the cases. p: Wilcoxon's signed-rank test, two-sided; Holm's correction over the labels. "
        f"Spread: standard deviation between repeats; with repeats, a case's Dice is their mean. The row 'mean' is "
        f"the mean over the labels; its better/equal/worse and its p are of each case's mean."
    )
    left_out = [
        f"{row.model}, {row.label}: {row.difference.left_out} cases without a Dice in one of the two are left out."
        for row in rows
        if row.difference is not None and row.difference.left_out
    ]
    parts = [
        f"# {title}",
        *(f"**{note}**" for note in comparison.notes),
        _markdown(_HEAD, [_cells(row) for row in rows]),
        method,
        *left_out,
        "## Cost",
        _markdown(_COST_HEAD, [_cost_cells(model) for model in comparison.models]),
    ]
    with replacing(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _cells(row: Row) -> list[str]:
    d = row.difference
    spread = "" if row.spread is None else f"{row.spread:.4f}"
    left = [row.model, row.label, _number(row.dice), spread, str(row.n_cases)]
    if d is None:
        return [*left, "", "", "", "", ""]
    holm = "" if math.isnan(d.p_holm) else _p(d.p_holm)
    interval = "" if math.isnan(d.low) else f"{d.low:+.4f} to {d.high:+.4f}"
    difference = "n/a" if math.isnan(d.mean) else f"{d.mean:+.4f}"
    return [*left, difference, interval, _p(d.p), holm, f"{d.better}/{d.equal}/{d.worse}"]


def _cost_cells(model: Model) -> list[str]:
    cost = costs(model)
    formats = (("parameters", ","), ("epoch_seconds", ".1f"), ("gpu_memory", ".0f"))
    return [model.name, *("" if cost[name] is None else format(cost[name], spec) for name, spec in formats)]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def _p(value: float) -> str:
    return "n/a" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"
