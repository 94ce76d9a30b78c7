"""The pictures of an inspection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.common.order import merged
from nnunet_xattnres.pages.figure import new_figure, save
from nnunet_xattnres.pages.slices import fullest

Rows = Sequence[dict[str, Any]]


def draw_routing(rows: Rows, path: Path, title: str) -> None:
    """The mean weights of one region: reads x sources, coloured by how often a source weighs its uniform share."""
    reads, sources, weights = _matrix(rows, "mean_weight")
    uniform = np.array([[next(r["uniform_weight"] for r in rows if r["read"] == read)] for read in reads])
    with np.errstate(divide="ignore"):
        colors = np.log2(weights / uniform)
    marks = [f"{read}   (uniform: {share[0]:.2f})" for read, share in zip(reads, uniform, strict=True)]
    label = "weight over the uniform weight"
    ticks = {-2: "1/4", -1: "1/2", 0: "uniform", 1: "2", 2: "4"}
    _draw(colors, weights, "{:.2f}", marks, sources, path, title, (2.0, label, ticks))


def draw_knockout(rows: Rows, path: Path, title: str) -> None:
    """The change of the Dice when a source is taken out of a read: reads x sources."""
    reads, sources, change = _matrix(rows, "difference")
    limit = max(1e-3, float(np.nanmax(np.abs(change), initial=0)))
    _draw(change, change, "{:+.3f}", reads, sources, path, title, (limit, "change of the mean Dice", None))


def _matrix(rows: Rows, value: str) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """The values of rows as reads x sources, NaN where a read has no such source."""
    reads = list(dict.fromkeys(row["read"] for row in rows))
    sources = merged([row["source"] for row in rows if row["read"] == read] for read in reads)
    matrix = np.full((len(reads), len(sources)), np.nan)
    for row in rows:
        matrix[reads.index(row["read"]), sources.index(row["source"])] = row[value]
    return reads, sources, matrix


def _draw(
    colors: NDArray[np.float64],
    values: NDArray[np.float64],
    text: str,
    reads: Sequence[str],
    sources: Sequence[str],
    path: Path,
    title: str,
    scale: tuple[float, str, dict[int, str] | None],
) -> None:
    limit, label, ticks = scale
    with new_figure(3.6 + 0.62 * len(sources), 1.9 + 0.42 * len(reads)) as figure:
        axis = figure.subplots()
        image = axis.imshow(colors, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axis.set_facecolor("0.92")
        for i, j in np.argwhere(np.isfinite(values)):
            dark = abs(colors[i, j]) > 0.6 * limit
            written = text.format(round(values[i, j], 3) + 0.0)  # no "-0.000"
            axis.text(j, i, written, ha="center", va="center", fontsize=8, color="w" if dark else "k")
        axis.set_xticks(range(len(sources)), sources)
        axis.set_yticks(range(len(reads)), reads)
        axis.set_xlabel("source, in the order computed")
        axis.set_ylabel("read of stage")
        axis.set_title(title, fontsize=10)
        bar = figure.colorbar(image, ax=axis, label=label, extend="both" if ticks else "neither")
        if ticks is not None:
            bar.set_ticks(list(ticks), labels=list(ticks.values()))
        save(figure, path)


def draw_overlay(
    image: NDArray[Any],
    mask: NDArray[Any],
    maps: NDArray[np.float32],
    seen: tuple[slice, slice, slice],
    sources: Sequence[str],
    spacing: Sequence[float],
    path: Path,
    title: str,
) -> None:
    """One slice of an image with the weight of every source over it.

    Args:
        image: (channels, z, y, x).
        mask: of the prediction, (z, y, x); the slice is that with the most foreground.
        maps: (N, z, y, x).
        seen: the part of the image in which they have weights.
        spacing: of z, y and x.
    """
    z = fullest([mask])
    picture = _gray(image[:, z])
    aspect = spacing[1] / spacing[2]
    columns = min(len(sources) + 1, 4)
    lines = -(-(len(sources) + 1) // columns)
    height = 2.5 * aspect * picture.shape[0] / picture.shape[1]
    with new_figure(2.5 * columns + 1.2, max(1.6, height + 0.3) * lines + 0.5) as figure:
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        axes[0].imshow(picture, cmap="gray", aspect=aspect)
        if mask[z].any():
            axes[0].contour(mask[z] > 0, levels=[0.5], colors="yellow", linewidths=0.8)
        axes[0].set_title(f"image, slice {z}, and prediction" if len(mask) > 1 else "image and prediction", fontsize=9)
        looked_at = maps[:, z]
        if z in range(*seen[0].indices(len(mask))):
            looked_at = looked_at[:, seen[1], seen[2]]
        low, top = float(looked_at.min()), float(looked_at.max())
        shown: Any = None
        for axis, source, values, mean in zip(axes[1:], sources, maps[:, z], looked_at.mean((1, 2)), strict=False):
            axis.imshow(picture, cmap="gray", aspect=aspect)
            shown = axis.imshow(values, cmap="inferno", alpha=0.6, vmin=low, vmax=top, aspect=aspect)
            axis.set_title(f"{source}: {mean:.2f}", fontsize=9)
        figure.colorbar(shown, ax=list(axes), label="weight", shrink=0.8)
        figure.suptitle(title, fontsize=10)
        save(figure, path)


def _gray(channels: NDArray[Any]) -> NDArray[np.float32]:
    """(channels, y, x) as (y, x) between 0 and 1: the first channel, or the mean of three."""
    picture = channels[:3].mean(axis=0) if len(channels) == 3 else channels[0]
    low, high = np.nanpercentile(picture, [1, 99])
    return np.clip((picture - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
