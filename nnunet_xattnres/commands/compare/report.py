"""The tables of a comparison: for a paper's appendix, and with every digit."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunet_xattnres.commands.compare.measure import DICE, Measure
from nnunet_xattnres.commands.compare.models import costs
from nnunet_xattnres.commands.compare.published import (
    EMPTY_HEAD,
    TITLE,
    WHAT_DIFFERS,
    empty_masks,
    side_by_side,
)
from nnunet_xattnres.commands.compare.table import Comparison, Row, rows_of
from nnunet_xattnres.common.files import open_table, replacing, write_text

ONLY = ("only the first", "only this")  # cases with a value; columns that are there where there are such cases
HOW_ONLY = (
    f"'{ONLY[0]}' and '{ONLY[1]}': of the cases that are left out, those in which only the first model has a value, "
    f"and those in which only the one of the line has; for the mean over the labels, their sum over the labels. These "
    f"cases are in the values of the models, and not in the differences, intervals, p and better/equal/worse. With "
    f"repeats, a case is left out where any repeat of the two has no value, and 'only' means: has one in more of them."
)
COST_HEAD = ("model", "parameters", "seconds an epoch", "peak GPU memory (MiB)")


def head(measure: Measure) -> list[str]:
    """Of the table of a measure."""
    return [
        "model",
        "label",
        measure.title,
        "spread",
        "range of repeats",
        "cases",
        "difference",
        "95% interval over cases",
        "95% interval over repeats",
        "p",
        "p (Holm)",
        "better/equal/worse",
        *ONLY,
    ]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Every number of the table of a measure, unrounded."""
    attributes = ["mean", "low", "high", "p", "p_holm", "better", "equal", "worse", "left_out"]
    if any(_one_sided(row) for row in rows):
        attributes += ["only_first", "only_this"]
    of_run = ("model", "label", rows[0].measure.key, "spread_between_repeats", "lowest", "highest", "cases")
    of_difference = ("difference", "interval_low", "interval_high", "repeats_low", "repeats_high", "repeats_doubt")
    with replacing(path) as partial, open_table(partial) as file:
        writer = csv.writer(file)
        writer.writerow([*of_run, *of_difference, *attributes[3:]])
        for row in rows:
            values = ["" if row.difference is None else getattr(row.difference, name) for name in attributes]
            spread = "" if row.spread is None else row.spread
            between = ("", "") if row.repeats_range is None else row.repeats_range
            start = [row.model, row.label, row.value, spread, *between, row.n_cases]
            over = row.over_repeats
            repeats = ("", "", "") if over is None or over.missing else (over.low, over.high, over.doubt)
            writer.writerow([*start, *values[:3], *repeats, *values[3:]])


def write_markdown(comparison: Comparison, rows: Sequence[Row], path: Path, title: str) -> None:
    """The tables as text, with how the numbers were made."""
    cost = cost_lines(comparison)
    parts = [
        f"# {title}",
        *(f"**{note}**" for note in comparison.notes),
        *_markdown_sections(comparison, rows),
        *_markdown_published(comparison, rows),
        method(comparison),
        *doubts(rows),
        *left_out(rows),
        *(("## Cost", markdown_table(COST_HEAD, cost)) if cost else ()),
    ]
    write_text("\n\n".join(parts) + "\n", path)


def _markdown_sections(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    """The table of each measure, under its name where there are several."""
    for one in comparison.each():
        if comparison.further:
            yield f"## {one.measure.title}"
        names = head(one.measure)
        lines = [cells(row) for row in rows_of(one, rows)]
        yield markdown_table(*without_empty(names, lines, always=len(names) - len(ONLY)))


def _markdown_published(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    if comparison.published:
        yield f"## {TITLE}"
        yield WHAT_DIFFERS
        yield markdown_table(*side_by_side(comparison, rows))
        empty = empty_masks(comparison)
        if empty:
            yield "Where a mask is empty:"
            yield markdown_table(EMPTY_HEAD, empty)


def method(comparison: Comparison) -> str:
    """How the numbers were made."""
    measures = " ".join(measure.how for measure in (DICE, *comparison.further, *comparison.published))
    return (
        f"{measures} Differences to {comparison.models[0].name}, paired by case, over the cases in "
        f"which both have a value. Interval over cases: percentiles of "
        f"10,000 bootstrap resamples of the cases; whether other cases would show the difference. Interval over "
        f"repeats: Welch's t, of the mean of each repeat; whether other trainings would show it on these cases "
        f"(only with two repeats of both models at least). p: Wilcoxon's signed-rank test over the cases, two-sided; "
        f"Holm's correction over the labels. Spread: standard deviation between repeats; range of repeats: from the "
        f"lowest to the highest; with repeats, a case's value is their mean. The row 'mean' is the mean over the "
        f"labels; its better/equal/worse and its p are of each case's mean."
    )


def doubts(rows: Sequence[Row]) -> list[str]:
    """Which intervals over repeats may mislead, and why: a sentence for each measure and reason."""
    labels: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.over_repeats is not None and row.over_repeats.doubt:
            labels.setdefault((row.measure.name, row.over_repeats.doubt, row.model), []).append(row.label)
    models: dict[tuple[str, str, str], list[str]] = {}
    for (measure, doubt, model), of_model in labels.items():
        models.setdefault((measure, doubt, ", ".join(of_model)), []).append(model)
    return [
        f"{', '.join(names)}; {measure} of {of_model}: the interval over repeats may mislead, for {doubt}. Look at the "
        f"range of the repeats, too."
        for (measure, doubt, of_model), names in models.items()
    ]


def left_out(rows: Sequence[Row]) -> list[str]:
    """Where cases have no value in one of the two or in both, in words."""
    found = [
        f"{row.model}, {row.label}: {row.difference.left_out} cases without {row.measure.one} in one of the two, "
        f"or in both, are left out."
        for row in rows
        if row.difference is not None and row.difference.left_out
    ]
    return [*found, HOW_ONLY] if any(map(_one_sided, rows)) else found


def cells(row: Row) -> list[str]:
    """A row as text, by ``head``; empty where a model is not compared."""
    d, measure = row.difference, row.measure
    spread = "" if row.spread is None else measure.number(row.spread)
    between = "" if row.repeats_range is None else " to ".join(map(measure.number, row.repeats_range))
    left = [row.model, row.label, measure.number(row.value), spread, between, str(row.n_cases)]
    if d is None:
        return [*left, *[""] * (len(head(measure)) - len(left))]
    holm = "" if math.isnan(d.p_holm) else _p(d.p_holm)
    over = row.over_repeats
    over_repeats = "" if over is None else measure.interval(over.low, over.high)
    left += [measure.signed(d.mean), measure.interval(d.low, d.high), over_repeats]
    only = (str(n) if n else "" for n in (d.only_first, d.only_this))
    return [*left, _p(d.p), holm, f"{d.better}/{d.equal}/{d.worse}", *only]


def cost_lines(comparison: Comparison) -> list[list[str]]:
    """By ``COST_HEAD``, a line for each model; none where nothing is known of any."""
    formats = {"parameters": ",", "epoch_seconds": ".1f", "gpu_memory": ".0f"}
    of_models = [(model.name, costs(model)) for model in comparison.models]
    if not any(value is not None for _, cost in of_models for value in cost.values()):
        return []
    return [[name, *(_known(cost[key], spec) for key, spec in formats.items())] for name, cost in of_models]


def without_empty(
    head: Sequence[str], lines: Sequence[Sequence[str]], always: int = 1
) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that no line has anything in, such as those of repeats, where there are none.

    Args:
        always: how many columns at the left are kept, whatever they have.
    """
    kept = [i for i in range(len(head)) if i < always or any(line[i] for line in lines)]
    return [head[i] for i in kept], [[line[i] for i in kept] for line in lines]


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def _one_sided(row: Row) -> bool:
    return row.difference is not None and bool(row.difference.only_first or row.difference.only_this)


def _known(value: float | None, spec: str) -> str:
    return "not known" if value is None else format(value, spec)


def _p(value: float) -> str:
    return "n/a" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"
