"""The picture of a comparison."""

import math
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from nnunet_xattnres.commands.compare.statistics import Array, Difference, compare_paired
from nnunet_xattnres.commands.compare.table import Comparison
from nnunet_xattnres.common.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_A_ROW = 4


def draw(comparison: Comparison, path: Path) -> None:
    """The paired difference of every case: a panel for each further model, a line for each label."""
    with replacing(path) as partial:
        figure_of(comparison).savefig(partial, format="png", dpi=130)


def figure_of(comparison: Comparison) -> "Figure":
    """What ``draw`` draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, *others = comparison.models
    labels = list(comparison.labels.values())
    n_rows = math.ceil(len(others) / PANELS_A_ROW)
    n_columns = math.ceil(len(others) / n_rows)  # rows of the same length, as far as that goes
    size = 2.0 + 4.2 * n_columns, 0.9 + (1.0 + 0.7 * len(labels)) * n_rows
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True, sharex=True).ravel()
    generator = np.random.default_rng(0)
    before = comparison.dice(first)
    for axis, model in zip(panels, others, strict=False):
        _fill_panel(axis, before, comparison.dice(model), generator)
        axis.set_title(fill(model.name, 48), fontsize=10)
    for axis in panels[len(others) :]:
        axis.axis("off")
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.supxlabel(f"Dice minus that of {first.name}", fontsize=9)
    figure.suptitle("Each point a case; the diamond their mean, with its 95% interval over the cases", fontsize=10)
    return figure


def _fill_panel(axis: "Axes", before: Array, after: Array, generator: np.random.Generator) -> None:
    for y, (column, d) in enumerate(zip((after - before).T, compare_paired(before, after), strict=False)):
        height = y + generator.uniform(-0.25, 0.25, len(column))
        axis.plot(column, height, ".", color="tab:blue", alpha=0.5, markersize=5)
        if not math.isnan(d.mean):
            axis.errorbar(d.mean, y, xerr=_bars(d), fmt="D", color="black", markersize=5, capsize=4, zorder=3)
    axis.axvline(0, color="grey", linewidth=1)
    axis.tick_params(labelbottom=True)  # also above a place that has no panel


def _bars(d: Difference) -> Array | None:
    return None if math.isnan(d.low) else np.array([[max(0.0, d.mean - d.low)], [max(0.0, d.high - d.mean)]])
