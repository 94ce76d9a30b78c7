"""The picture of a comparison."""

import math
from pathlib import Path

import numpy as np

from nnunet_xattnres.compare.statistics import Array, Difference, compare_paired
from nnunet_xattnres.compare.table import Comparison
from nnunet_xattnres.files import replacing


def draw(comparison: Comparison, path: Path) -> None:
    """The paired difference of every case: a panel for each further model, a line for each label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, *others = comparison.models
    labels = list(comparison.labels.values())
    figure = Figure(figsize=(2.0 + 4.2 * len(others), 1.9 + 0.7 * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(others), squeeze=False, sharey=True, sharex=True)[0]
    generator = np.random.default_rng(0)
    for axis, model in zip(panels, others, strict=True):
        before, after = comparison.dice(first), comparison.dice(model)
        for y, (column, d) in enumerate(zip((after - before).T, compare_paired(before, after), strict=False)):
            height = y + generator.uniform(-0.25, 0.25, len(column))
            axis.plot(column, height, ".", color="tab:blue", alpha=0.5, markersize=5)
            if not math.isnan(d.mean):
                axis.errorbar(d.mean, y, xerr=_bars(d), fmt="D", color="black", markersize=5, capsize=4, zorder=3)
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_title(model.name, fontsize=10)
        axis.set_xlabel(f"Dice minus that of {first.name}", fontsize=9)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.suptitle("Each point a case; the diamond their mean, with its 95% interval", fontsize=10)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def _bars(d: Difference) -> Array | None:
    return None if math.isnan(d.low) else np.array([[max(0.0, d.mean - d.low)], [max(0.0, d.high - d.mean)]])
