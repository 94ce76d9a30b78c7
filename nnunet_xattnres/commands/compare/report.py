"""The tables of a comparison: for a paper's appendix, and with every digit."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from nnunet_xattnres.commands.compare.table import Comparison, Row, costs
from nnunet_xattnres.common.files import replacing

HEAD = (
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
COST_HEAD = ("model", "parameters", "seconds an epoch", "peak GPU memory (MiB)")


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
    cost = cost_lines(comparison)
    parts = [
        f"# {title}",
        *(f"**{note}**" for note in comparison.notes),
        markdown_table(HEAD, [cells(row) for row in rows]),
        method(comparison),
        *left_out(rows),
        *(("## Cost", markdown_table(COST_HEAD, cost)) if cost else ()),
    ]
    with replacing(path) as partial:
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def method(comparison: Comparison) -> str:
    """How the numbers were made."""
    return (
        f"Dice as nnU-Net computes it; differences to {comparison.models[0].name}, paired by case, over the cases in "
        f"which both have one (it is undefined where neither mask has the label). Interval over cases: percentiles of "
        f"10,000 bootstrap resamples of the cases; whether other cases would show the difference. Interval over "
        f"repeats: Welch's t, of the mean Dice of each repeat; whether other trainings would show it on these cases "
        f"(only with two repeats of both models at least). p: Wilcoxon's signed-rank test over the cases, two-sided; "
        f"Holm's correction over the labels. Spread: standard deviation between repeats; with repeats, a case's Dice "
        f"is their mean. The row 'mean' is the mean over the labels; its better/equal/worse and its p are of each "
        f"case's mean."
    )


def left_out(rows: Sequence[Row]) -> list[str]:
    """Where cases have no Dice in one of the two, in words."""
    return [
        f"{row.model}, {row.label}: {row.difference.left_out} cases without a Dice in one of the two are left out."
        for row in rows
        if row.difference is not None and row.difference.left_out
    ]


def cells(row: Row) -> list[str]:
    """A row as text, by ``HEAD``; empty where a model is not compared."""
    d = row.difference
    spread = "" if row.spread is None else number(row.spread)
    left = [row.model, row.label, number(row.dice), spread, str(row.n_cases)]
    if d is None:
        return [*left, "", "", "", "", "", ""]
    holm = "" if math.isnan(d.p_holm) else _p(d.p_holm)
    intervals = [interval(d.low, d.high), "" if row.over_repeats is None else interval(*row.over_repeats)]
    difference = "n/a" if math.isnan(d.mean) else f"{d.mean:+.4f}"
    return [*left, difference, *intervals, _p(d.p), holm, f"{d.better}/{d.equal}/{d.worse}"]


def cost_lines(comparison: Comparison) -> list[list[str]]:
    """By ``COST_HEAD``, a line for each model; none where nothing is known of any."""
    formats = {"parameters": ",", "epoch_seconds": ".1f", "gpu_memory": ".0f"}
    of_models = [(model.name, costs(model)) for model in comparison.models]
    if not any(value is not None for _, cost in of_models for value in cost.values()):
        return []
    return [[name, *(_known(cost[key], spec) for key, spec in formats.items())] for name, cost in of_models]


def without_empty(head: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that no line has anything in: those of repeats, where there are none."""
    kept = [i for i in range(len(head)) if i == 0 or any(line[i] for line in lines)]
    return [head[i] for i in kept], [[line[i] for i in kept] for line in lines]


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _known(value: float | None, spec: str) -> str:
    return "not known" if value is None else format(value, spec)


def interval(low: float, high: float) -> str:
    """An interval as text; empty where it is not known."""
    return "" if math.isnan(low) else f"{low:+.4f} to {high:+.4f}"


def number(value: float) -> str:
    """A Dice as text."""
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def _p(value: float) -> str:
    return "n/a" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"
