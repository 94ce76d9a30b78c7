"""All slices of an image on one sheet, small enough for a page: a JPEG, or a PNG of its labels."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.common.nearest import nearest

SIDE = 256  # pixels, of the longer side of a slice at most
_PIXELS = 6_000_000, 1_000_000, 80_000_000  # of a case at most and at least, and of all cases of a page
# Okabe and Ito's colours, which the colour-blind tell apart, without the black; https://jfly.uni-koeln.de/color
_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
IGNORED = "#999999"
_JPEG = {"quality": 75, "subsampling": 0}  # subsampled, the blocks of the colours are 16 pixels, of two slices then


def colors_of(labels: Sequence[int], ignored: int | None = None) -> dict[int, str]:
    """A colour of its own for each label; from the eighth on lighter and darker shades of the first seven.

    Args:
        ignored: nnU-Net's ignore label, which is grey and takes no colour from the others.
    """
    colors = dict.fromkeys(labels, IGNORED)
    labels = [label for label in labels if label != ignored]
    rounds = math.ceil(len(labels) / len(_COLORS))
    for i, label in enumerate(labels):
        step = (i // len(_COLORS) + 1) // 2 / max(1, rounds // 2)  # 0, then to 1 in the last round
        to = 255 if i // len(_COLORS) % 2 else 0  # lighter and darker in turns
        rgb = [round(c + 0.65 * step * (to - c)) for c in bytes.fromhex(_COLORS[i % len(_COLORS)][1:])]
        colors[label] = f"#{bytes(rgb).hex()}"
    return colors


@dataclass(frozen=True)
class Layout:
    """How the slices of an image lie on its sheets: row by row, each ``pixels`` in size.

    Attributes:
        slices, columns: how many.
        pixels: height and width of a slice on the sheet; multiples of JPEG's blocks, so that none spans two slices.
        shape: height and width of a slice in millimetres, the longer one called 100.
    """

    slices: int
    columns: int
    pixels: tuple[int, int]
    shape: tuple[float, float]

    @classmethod
    def of(cls, size: Sequence[int], spacing: Sequence[float], cases: int, sheets: int = 1) -> "Layout":
        """Of an image of ``size``, (z, y, x), with ``spacing`` of the same axes, on a page of so many cases.

        Args:
            sheets: how many share the pixels of the case, such as the maps of all sources.
        """
        height, width = (n * s for n, s in zip(size[1:], spacing[1:], strict=True))
        longer, shorter = max(height, width), min(height, width)
        most, least, page = _PIXELS
        budget = max(least, min(most, page / cases)) / sheets
        side = min(SIDE, math.sqrt(budget / size[0] * longer / shorter))
        pixels = max(8, round(side * height / longer / 8) * 8), max(8, round(side * width / longer / 8) * 8)
        columns = max(1, round(math.sqrt(size[0] * height / width)))  # the same for all sheets of a case
        return cls(size[0], columns, pixels, (100 * height / longer, 100 * width / longer))

    @property
    def rows(self) -> int:
        return -(-self.slices // self.columns)

    def view(self, z: int) -> str:
        """The ``viewBox`` that shows slice ``z`` of a sheet."""
        height, width = self.shape
        return f"{z % self.columns * width:.5g} {z // self.columns * height:.5g} {width:.5g} {height:.5g}"

    def sheet(self, slices: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(z, height, width, channels) as one picture, (rows * height, columns * width, channels)."""
        height, width = self.pixels
        full = np.zeros((self.rows * self.columns, height, width, slices.shape[-1]), dtype=np.uint8)
        full[: self.slices] = slices
        grid = full.reshape(self.rows, self.columns, height, width, -1).transpose(0, 2, 1, 3, 4)
        return grid.reshape(self.rows * height, self.columns * width, -1)


def fullest(masks: Sequence[NDArray[Any]], ignored: int | None = None) -> int:
    """The slice with the most foreground in all masks, (z, y, x), together; the middle one without any.

    Args:
        ignored: nnU-Net's ignore label, which is no foreground.
    """
    background = [0] if ignored is None else [0, ignored]
    foreground = np.sum([np.isin(mask, background, invert=True).sum(axis=(1, 2)) for mask in masks], axis=0)
    return int(foreground.argmax()) if foreground.any() else len(foreground) // 2


def limits_of(image: NDArray[Any]) -> tuple[float, float]:
    """What of an image, (channels, z, y, x), becomes black and white: its percentiles 1 and 99."""
    low, high = np.percentile(image[..., :: max(1, image.shape[-1] // 128)], [1, 99])
    return float(low), float(high)


def image_sheet(channels: NDArray[Any], layout: Layout, window: tuple[float, float] | None) -> str:
    """The sheet of an image, (1 or 3 channels, z, y, x), as a data URI.

    Args:
        window: what becomes black and white; None for percentiles 1 and 99 of the image.
    """
    x = np.nan_to_num(np.asarray(channels, dtype=np.float32))
    low, high = window or limits_of(x)
    small = _resized(x, layout.pixels)
    gray = np.clip((small - low) / max(high - low, 1e-12), 0, 1) * 255
    return _uri(layout.sheet(np.repeat(gray.astype(np.uint8), 3 // len(gray), axis=0).transpose(1, 2, 3, 0)), "jpeg")


def heat_sheet(weights: NDArray[np.float32], layout: Layout, limits: tuple[float, float]) -> str:
    """The sheet of a map of weights, (z, y, x), in colours between the limits, as a data URI."""
    from matplotlib import colormaps

    low, high = limits
    small = (_resized(weights[None], layout.pixels)[0] - low) / max(high - low, 1e-12)
    return _uri(layout.sheet(colormaps["inferno"](small.clip(0, 1), bytes=True)[..., :3]), "jpeg")


def labels_sheet(mask: NDArray[Any], layout: Layout, colors: Mapping[int, str]) -> str:
    """The sheet of a mask, (z, y, x): its labels translucent with their outlines, as a data URI."""
    small = nearest(torch.from_numpy(np.ascontiguousarray(mask).astype(np.int32)), layout.pixels).numpy()
    painted = np.zeros((*small.shape, 4), dtype=np.uint8)
    edge = np.zeros(small.shape, dtype=bool)
    for axis in (1, 2):
        changes = np.diff(small, axis=axis) != 0
        edge |= np.insert(changes, 0, False, axis=axis) | np.insert(changes, changes.shape[axis], False, axis=axis)
    for label, color in colors.items():
        here = small == label
        painted[here] = (*bytes.fromhex(color[1:]), 90)
        painted[here & edge, 3] = 255
    return _uri(layout.sheet(painted), "png")


def _resized(x: NDArray[np.float32], pixels: tuple[int, int]) -> NDArray[np.float32]:
    """(channels, z, y, x) with slices of so many pixels."""
    return F.interpolate(torch.from_numpy(np.ascontiguousarray(x)), pixels, mode="bilinear", antialias=True).numpy()


def _uri(picture: NDArray[np.uint8], kind: str) -> str:
    from matplotlib.image import imsave

    content = io.BytesIO()
    imsave(content, picture, format=kind, pil_kwargs=_JPEG if kind == "jpeg" else None)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
