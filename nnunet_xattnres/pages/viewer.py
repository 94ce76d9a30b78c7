"""One case on a page: its image, masks and maps, slice by slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.common.numbers import mean_of
from nnunet_xattnres.pages.slices import Layout, heat_sheet, image_sheet, labels_sheet

Mask = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """What the page shows of a case; all arrays (z, y, x) as the file was read, channels or sources in front.

    Attributes:
        window: what of the image becomes black and white; None for its percentiles.
        masks: what stands below each, and the mask; one at least.
        first: the slice that shows at first.
        dice: of the labels, by their names; empty without a truth.
        maps: of some reads: the names of the sources and the weight of each at each voxel.
        seen: the part of the image in which they have weights; elsewhere the network has not looked.
    """

    name: str
    image: NDArray[Any]
    spacing: Sequence[float]
    window: tuple[float, float] | None
    masks: Mapping[str, Mask]
    first: int
    dice: Mapping[str, float] = field(default_factory=dict)
    maps: Mapping[str, tuple[Sequence[str], NDArray[np.float32]]] = field(default_factory=dict)
    seen: tuple[slice, slice, slice] = (slice(None), slice(None), slice(None))


def case_html(case: Case, number: int, cases: int, colors: Mapping[int, str], *, opened: bool) -> str:
    """A part of the page that folds; ``number`` is that of the case among ``cases``."""
    size = case.image.shape[1:]
    layout = Layout.of(size, case.spacing, cases)
    z = case.first
    image = f'<image id="image{number}" {_place(layout)} href="{image_sheet(case.image, layout, case.window)}"/>'
    again = f'<use href="#image{number}"/>'
    panels = [_panel("image", image, layout, z)]
    for name, mask in case.masks.items():
        layer = f'<image {_place(layout)} href="{labels_sheet(mask, layout, colors)}"/>'
        panels.append(_panel(name, again + layer, layout, z))
    parts = [f'<div class="panels">{"".join(panels)}</div>']
    n_maps = sum(len(maps) for _, maps in case.maps.values())
    for read in case.maps:
        small = Layout.of(size, case.spacing, cases, sheets=n_maps)
        parts.append(_maps_html(case, read, small, again))
    n, columns, (height, width) = layout.slices, layout.columns, layout.shape
    slider = (
        f'<p class="slice">slice <output>{z}</output> of 0 to {n - 1} <input type="range" min="0" max="{n - 1}" '
        f'value="{z}" aria-label="slice" autocomplete="off" hidden></p>'
    )
    return (
        f'<details class="case" data-grid="{columns} {width:.5g} {height:.5g}"{" open" if opened else ""}><summary>'
        f"{escape(case.name)}{_dice_text(case.dice)}</summary>{slider if n > 1 else ''}{''.join(parts)}</details>"
    )


def _place(layout: Layout) -> str:
    height, width = layout.shape
    size = f'width="{layout.columns * width:.6g}" height="{layout.rows * height:.6g}"'
    return f'{size} preserveAspectRatio="none"'


def _panel(caption: str, content: str, layout: Layout, z: int) -> str:
    height, width = layout.shape
    ratio = f'style="--ratio:{width / height:.4g}"'
    view = f'<svg viewBox="{layout.view(z)}" {ratio} role="img" aria-label="{escape(caption)}">{content}</svg>'
    return f"<figure>{view}<figcaption>{escape(caption)}</figcaption></figure>"


def _maps_html(case: Case, read: str, layout: Layout, image: str) -> str:
    sources, maps = case.maps[read]
    z, y, x = case.seen
    looked_at = maps[:, z, y, x]
    low, high = (float(v) for v in np.percentile(looked_at[:, :, ::2, ::2], [0.5, 99.5]))
    panels = []
    for source, weights, mean in zip(sources, maps, looked_at.mean((1, 2, 3)), strict=True):
        heat = f'<image class="heat" {_place(layout)} href="{heat_sheet(weights, layout, (low, high))}"/>'
        panels.append(_panel(f"{source}: {mean:.2f}", image + heat, layout, case.first))
    bar = f'<span class="bar"><b>{low:.2f}</b><i></i><b>{high:.2f}</b></span>'
    text = f"What {escape(read)} takes from each source (its mean weight where the network has looked beside its name) "
    return f'<p class="maps">{text}{bar}</p><div class="panels small">{"".join(panels)}</div>'


def _dice_text(dice: Mapping[str, float]) -> str:
    if not dice:
        return ""
    each = ", ".join(f"{escape(name)} {value:.3f}" for name, value in dice.items()) if len(dice) < 6 else ""
    mean = mean_of(list(dice.values()))
    text = f"Dice {each}" if len(dice) == 1 else f"Dice {mean:.3f}" + (f" ({each})" if each else "")
    return f" <span>{text}</span>"
