"""The learning curves of the compared trainings."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.nnunet.training_log import Epoch
from nnunet_xattnres.pages.figure import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {"dice": "pseudo Dice", "train_loss": "training loss", "val_loss": "validation loss"}
_STYLES = ("-", "--", "-.", ":")  # beside the colours, for print and for who does not see them
_WINDOWS = 50  # of a long training, the thick line is a mean over one of so many parts


def curves_of(model: Model) -> list[Mapping[int, Epoch]]:
    """The learning curves of all trainings of a model that have one."""
    return [fold.curve for run in model.runs for fold in run.folds.values() if fold.curve]


def mean_curve(curves: Sequence[Mapping[int, Epoch]], name: str) -> tuple[list[int], list[float]]:
    """The mean over the trainings, for the epochs that all of them have; smoothed where there are many.

    Args:
        name: of an attribute of ``Epoch``.

    Returns:
        The epochs, and a value for each: the mean over a window of ``window(n)`` epochs around it, less at the ends.
    """
    epochs = [n for n in curves[0] if not any(n not in c or math.isnan(getattr(c[n], name)) for c in curves)]
    values = [float(np.mean([getattr(curve[n], name) for curve in curves])) for n in epochs]
    half = window(len(epochs)) // 2
    return epochs, [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def window(n_epochs: int) -> int:
    """Over how many epochs a thick line is smoothed: an odd number."""
    return 1 + 2 * (n_epochs // (2 * _WINDOWS))


def draw_curves(models: Sequence[Model], path: Path) -> bool:
    """Draw a panel for the pseudo Dice and for each loss; whether there was anything to draw."""
    figure = figure_of_curves(models)
    if figure is None:
        return False
    save(figure, path)
    return True


def figure_of_curves(models: Sequence[Model]) -> "Figure | None":
    """What ``draw_curves`` draws; None where no training has a curve."""
    from matplotlib.ticker import MaxNLocator

    curves = {fill(model.name, 60): curves_of(model) for model in models}
    curves = {name: of_model for name, of_model in curves.items() if of_model}
    if not curves:
        return None
    with new_figure(7.2, 9.0 + 0.2 * len(curves)) as figure:
        panels = figure.subplots(len(PANELS), 1, sharex=True)
        for axis, (name, title) in zip(panels, PANELS.items(), strict=True):
            for i, (model, of_model) in enumerate(curves.items()):
                _draw_model(axis, of_model, name, model, i)
            axis.set_ylabel(title)
            axis.grid(alpha=0.3)
            axis.tick_params(labelbottom=True)
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", fontsize=9, frameon=False)
    return figure


def _draw_model(axis: "Axes", curves: Sequence[Mapping[int, Epoch]], name: str, model: str, i: int) -> None:
    color, style = f"C{i % 10}", _STYLES[i % len(_STYLES)]
    for curve in curves:
        there = {n: getattr(epoch, name) for n, epoch in curve.items()}
        axis.plot(list(there), list(there.values()), color=color, alpha=0.35, linewidth=0.8)
    n = len(curves)
    label = f"{model} ({n} training{'s' if n > 1 else ''})"
    axis.plot(*mean_curve(curves, name), color=color, linestyle=style, linewidth=2.2, label=label, zorder=3)
