"""The paper's Figure 1 from the records: a bar for each trainer, against the plain network's dashed line."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nnunet_xattnres.pages.figure import new_figure, save

_PLAIN, _AHEAD, _BEHIND = "0.4", "#0072b2", "#e69f00"


def half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of the mean, by Student's t; 0 for a single value, which has none."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)) if len(values) > 1 else 0.0


def draw_bars(panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]], path: Path) -> None:
    """A panel for each study: bars are the mean Dice of the repeats, with their 95% interval where there are two.

    Args:
        panels: a title, and the Dice of every repeat of each trainer; the first trainer is the dashed line.
        path: the picture; its ending says of what kind it is.
    """
    most = max(len(by_trainer) for _, by_trainer in panels)
    with new_figure(2.2 + 3.2 * len(panels), 1.2 + 0.34 * most) as figure:
        _fill(figure, panels)
        save(figure, path)


def _fill(figure: Any, panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> None:
    for axis, (title, by_trainer) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        means = [float(np.mean(values)) for values in by_trainer.values()]
        halves = [half_width(values) for values in by_trainer.values()]
        for y, (mean, half) in enumerate(zip(means, halves, strict=True)):
            color = _PLAIN if y == 0 else _AHEAD if mean >= means[0] else _BEHIND
            axis.barh(y, mean, color=color, height=0.7)
            if half:
                axis.errorbar(mean, y, xerr=half, color="black", capsize=3, linewidth=1)
            style = {"va": "center", "fontsize": 8, "color": "black" if color == _BEHIND else "white"}
            axis.annotate(f"{mean:.3f}", (0, y), (4, 0), ("axes fraction", "data"), "offset points", **style)
        axis.axvline(means[0], color="black", linestyle="--", linewidth=1)
        low, high = axis_limits(means, halves)
        axis.set_xlim(low, high)
        axis.set_xlabel(f"Dice (the axis begins at {low:.2f})" if low else "Dice", fontsize=9)
        axis.set_yticks(
            range(len(means)), [name.removeprefix("nnUNetTrainer") or "nnUNetTrainer" for name in by_trainer]
        )
        axis.tick_params(labelsize=8)
        axis.set_ylim(len(means) - 0.5, -0.5)
        axis.set_title(title, fontsize=9)


def axis_limits(means: Sequence[float], halves: Sequence[float]) -> tuple[float, float]:
    """From where bars and intervals differ, with half of that to the left; a Dice is between 0 and 1."""
    low = min(m - h for m, h in zip(means, halves, strict=True))
    high = max(m + h for m, h in zip(means, halves, strict=True))
    span = max(high - low, 0.01)
    return max(0.0, math.floor(100 * (low - 0.5 * span)) / 100), min(1.0, high + 0.1 * span)
