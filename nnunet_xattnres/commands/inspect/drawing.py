"""A small drawing of a network: its stages in the order computed, the coarser the lower, and what each reads most."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from nnunet_xattnres.reads.history import Stage

_BOX, _COLUMN, _ROW, _LEFT, _TOP = (54, 34), 66, 54, 120, 14


def network_svg(stages: Sequence[Stage], strongest: Mapping[str, Mapping[str, Any]]) -> str:
    """The drawing as SVG.

    Args:
        stages: of the history, in the order computed.
        strongest: of each read, by the stage that it feeds, the row of the source that weighs most.
    """
    levels = sorted({stage.strides for stage in stages}, key=lambda strides: (math.prod(strides), strides))
    centre = {
        stage.name: (_LEFT + _COLUMN * (i + 0.5), _TOP + _ROW * (levels.index(stage.strides) + 0.5))
        for i, stage in enumerate(stages)
    }
    width, height = _LEFT + _COLUMN * len(stages), 2 * _TOP + _ROW * len(levels)
    parts = [
        f'<text x="4" y="{_TOP + _ROW * (i + 0.5) + 4:g}" class="level">{size_of(strides)}</text>'
        for i, strides in enumerate(levels)
    ]
    names = [stage.name for stage in stages]
    for a, b in pairwise(names):
        (x, y), (u, v) = centre[a], centre[b]
        parts.append(f'<line x1="{x:g}" y1="{y:g}" x2="{u:g}" y2="{v:g}" class="flow"/>')
    for read, row in strongest.items():
        source, weight = row["source"], row["mean_weight"]
        (x, y), (u, v) = centre[source], centre[read]
        bend = min(y, v) - 0.55 * _ROW if abs(u - x) > _COLUMN else (y + v) / 2
        title = f"<title>{escape(read)} reads {escape(source)} most: {weight:.2f}</title>"
        parts.append(
            f'<path d="M{x:g} {y:g} Q{(x + u) / 2:g} {bend:g} {u:g} {v:g}" class="read" '
            f'stroke-width="{1 + 5 * weight:.1f}">{title}</path>'
        )
    for stage in stages:
        x, y = centre[stage.name]
        kind = "box reads" if stage.name in strongest else "box"
        w, h = _BOX
        parts.append(f'<rect x="{x - w / 2:g}" y="{y - h / 2:g}" width="{w}" height="{h}" rx="5" class="{kind}"/>')
        parts.append(f'<text x="{x:g}" y="{y - 1:g}" class="name">{escape(stage.name)}</text>')
        parts.append(f'<text x="{x:g}" y="{y + 13:g}" class="channels">{stage.channels}</text>')
    label = f'role="img" aria-label="The stages {escape(", ".join(names))}"'
    return f'<svg class="network" viewBox="0 0 {width} {height}" {label}>{"".join(parts)}</svg>'


def stages_text(stages: Sequence[Stage], sources: Mapping[str, Sequence[str]]) -> str:
    """What the stages are, in words."""
    deepest = max(range(len(stages)), key=lambda i: (math.prod(stages[i].strides), -i))
    encoder, decoder = stages[: deepest + 1], stages[deepest + 1 :]
    first, bottom = encoder[0], encoder[-1]
    text = (
        f"{first.name} to {bottom.name} are the stages of the encoder, in the order computed: {first.name} is at "
        f"{size_of(first.strides)}, {bottom.name} is the bottleneck, at {size_of(bottom.strides)}. "
    )
    if decoder:
        one, last = decoder[0], decoder[-1]
        span = f"{one.name} is the decoder" if one is last else f"{one.name} to {last.name} are those of the decoder"
        text += f"{span}: {one.name} follows {bottom.name}, {last.name} is at {size_of(last.strides)} again. "
    read = max(sources, key=lambda name: len(sources[name]))
    return text + (
        f"A stage that reads takes a sum of the outputs of the stages before it, its sources, each with a weight: "
        f"{read} reads {', '.join(sources[read])}."
    )


def size_of(strides: Sequence[int]) -> str:
    """The resolution of a stage, in words."""
    if set(strides) == {1}:
        return "full resolution"
    return f"1/{strides[0]}" if len(set(strides)) == 1 else f"1/({'×'.join(map(str, strides))})"  # noqa: RUF001
