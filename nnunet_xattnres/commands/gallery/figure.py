"""The picture of a gallery: rows are cases, columns are the image, the truth and the models."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.commands.gallery.cells import Row
from nnunet_xattnres.nnunet.classes import Classes
from nnunet_xattnres.pages.figure import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 1.9  # inches, of a column
_HIGHEST = 1.6  # a row may be so much higher than wide


def draw(rows: Sequence[Row], classes: Classes, colors: Mapping[int, str], paths: Sequence[Path]) -> None:
    """Draw the picture into each of the files; their names say of what kind they are.

    Args:
        rows: one at least, all of the same models.
        colors: of the values in a mask.
    """
    from matplotlib import rc_context
    from matplotlib.lines import Line2D

    titles = ["image", "truth", *rows[0].predictions]
    heights = [min(_HIGHEST, row.aspect * row.truth.shape[0] / row.truth.shape[1]) for row in rows]
    white = {value: "white" for value in colors if value != classes.ignored}
    size = 1.0 + _WIDTH * len(titles), 1.0 + _WIDTH * sum(heights)
    with new_figure(*size) as figure, rc_context({"pdf.fonttype": 42}):  # letters stay letters
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(_wrapped(title), fontsize=8)
        for line, row in zip(axes, rows, strict=True):
            line[0].set_ylabel(_label(row), fontsize=8)
            for axis in line:
                axis.imshow(row.picture, aspect=row.aspect)
                axis.set(xticks=[], yticks=[], autoscale_on=False)  # a contour along the border moves it by a pixel
            _contours(line[1], row.truth, colors)
            for axis, (mask, dice) in zip(line[2:], row.predictions.values(), strict=True):
                _contours(axis, row.truth, white, width=0.7)
                _contours(axis, mask, colors)
                _write(axis, "n/a" if math.isnan(dice) else f"{dice:.3f}")
        drawn = _drawn(rows, colors)
        lines = {classes.names[value]: Line2D([], [], color=colors[value], linewidth=2) for value in drawn}
        lines["truth, beside a model"] = Line2D([], [], color="white", linewidth=1.2)
        legend = figure.legend(lines.values(), lines, loc="outside lower center", ncols=5, fontsize=8)
        legend.get_frame().set_facecolor("0.75")
        for path in paths:
            save(figure, path, dpi=200)


def _label(row: Row) -> str:
    of_slices = f"slice {row.z}" if row.n_slices > 1 else ""
    return "\n".join(filter(None, (fill(row.chosen.case, 22), of_slices, fill(row.chosen.why, 22))))


def _wrapped(name: str, width: int = 26) -> str:
    """In lines of so many letters; the names of trainers have no spaces, but capitals."""
    lines = [""]
    for piece in re.split(r"(?<=[a-z])(?=[A-Z_])|(?<= )", name):
        if lines[-1] and len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _contours(axis: "Axes", mask: NDArray[Any], colors: Mapping[int, str], width: float = 1.3) -> None:
    from matplotlib.patheffects import withStroke

    framed = np.pad(mask, 1)  # a label that touches the border is closed there
    y, x = (np.arange(-1, n + 1) for n in mask.shape)
    for value, color in colors.items():
        here = framed == value
        if here.any():
            lines = axis.contour(x, y, here, levels=[0.5], colors=color, linewidths=width)
            lines.set_path_effects([withStroke(linewidth=width + 0.8, foreground="black")])  # on skin and bone, too


def _write(axis: "Axes", text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 1.5}
    axis.text(0.03, 0.03, text, transform=axis.transAxes, color="white", fontsize=8, va="bottom", bbox=box)


def _drawn(rows: Sequence[Row], colors: Mapping[int, str]) -> list[int]:
    """The values that the picture shows."""
    masks = [mask for row in rows for mask in (row.truth, *(mask for mask, _ in row.predictions.values()))]
    there = set().union(*(np.unique(mask).astype(int).tolist() for mask in masks))
    return [value for value in colors if value in there]
