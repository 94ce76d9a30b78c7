"""The picture of a comparison: by how much every case differs."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.pairing import Array
from nnunet_xattnres.commands.compare.statistics import Difference
from nnunet_xattnres.commands.compare.table import Comparison, Row, rows_of
from nnunet_xattnres.pages.figure import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_A_ROW = 4


def draw(comparison: Comparison, rows: Sequence[Row], path: Path) -> None:
    """The paired difference of every case: a panel for each further model; a line for each label, and their mean."""
    save(picture_of(comparison, rows), path)


def picture_of(comparison: Comparison, rows: Sequence[Row]) -> "Figure":
    """What ``draw`` draws."""
    titles = [fill(model.name, 48) for model in comparison.models[1:]]
    above = "Each point a case; the diamond the mean difference,\nwith its 95% interval over the cases"
    return figure_of(comparison, rows, comparison.models[1:], titles, above)


def figure_of(
    comparison: Comparison, rows: Sequence[Row], models: Sequence[Model], titles: Sequence[str] = (), above: str = ""
) -> "Figure":
    """The panels of ``models`` against the comparison's first, with a title for each and one above all, or without."""
    first, direction = comparison.models[0], comparison.measure.direction
    names = [row.label for row in rows_of(comparison, rows, first)]
    n_rows = math.ceil(len(models) / PANELS_A_ROW)
    n_columns = math.ceil(len(models) / n_rows)  # rows of the same length, as far as that goes
    differences = [comparison.pairs(model).differences for model in models]
    limit = 1.08 * float(np.nanmax(np.abs([np.zeros_like(differences[0]), *differences]))) or 1.0
    height = 1.0 + (0.7 if len(names) <= 8 else 0.4) * len(names)
    with new_figure(2.0 + 4.2 * n_columns, 0.9 + height * n_rows) as figure:
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True, sharex=True).ravel()
        for axis, model, of_model in zip(panels, models, differences, strict=False):
            _fill_panel(axis, of_model, [row.difference for row in rows_of(comparison, rows, model)], direction)
            axis.axvspan(0, direction * limit, color="tab:blue", alpha=0.07, linewidth=0)
        for axis, title in zip(panels, titles, strict=False):
            axis.set_title(title, fontsize=10)
        for axis in panels[len(models) :]:
            axis.axis("off")
        panels[0].set_xlim(-limit, limit)  # 0 in the middle: both sides have the same room
        panels[0].set_yticks(range(len(names)), [fill(name, 24) for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.9)  # room for the words at the top
        figure.supxlabel(fill(f"{comparison.measure.title} minus that of {first.name}", 48), fontsize=9)
        if above:
            figure.suptitle(above, fontsize=10)
    return figure


def _fill_panel(axis: "Axes", differences: Array, of_rows: Sequence[Difference | None], direction: int) -> None:
    """``differences``: (cases, rows); the last row is the mean over the labels. ``direction``: 1 if more is better."""
    generator = np.random.default_rng(0)
    for y, (column, d) in enumerate(zip(differences.T, of_rows, strict=True)):
        column = column[~np.isnan(column)]
        height = y + generator.uniform(-0.25, 0.25, len(column))
        axis.plot(column, height, ".", color="tab:blue", alpha=0.5, markersize=5)
        if d is not None and not math.isnan(d.mean):
            axis.errorbar(d.mean, y, xerr=_bars(d), fmt="D", color="black", markersize=5, capsize=4, zorder=3)
    axis.axhline(differences.shape[1] - 1.5, color="grey", linewidth=1, linestyle=":")  # above the mean
    axis.axvline(0, color="grey", linewidth=1)
    left, right = ("worse", "better")[::direction]
    for text, side, align in (
        (f"\N{LEFTWARDS ARROW} {left}", -5, "right"),
        (f"{right} \N{RIGHTWARDS ARROW}", 5, "left"),
    ):
        at_the_top = ("data", "axes fraction")
        axis.annotate(text, (0, 1), (side, -3), at_the_top, "offset points", ha=align, va="top", fontsize=9)
    axis.tick_params(labelbottom=True)  # also above a place that has no panel


def _bars(d: Difference) -> Array | None:
    return None if math.isnan(d.low) else np.array([[max(0.0, d.mean - d.low)], [max(0.0, d.high - d.mean)]])
