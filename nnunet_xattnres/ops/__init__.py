"""The operator under a read; it knows torch and nothing of networks.

``history_read`` takes one of several paths to the same result; ``read_path`` is the rule.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.choice import CUSTOM_OPS, FUSED_CHANNELS, only_plain_torch, read_path

if CUSTOM_OPS:
    from nnunet_xattnres.ops import fused, resize, tiled

__all__ = ["FUSED_CHANNELS", "history_read", "read_path", "resize_to_each"]


def resize_to_each(x: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Resize ``x``, (B, C, *spatial), to each of several sizes: a map (B, C, *size) for each, in its dtype."""
    return (reference if only_plain_torch() else resize).resize_to_each(x, sizes)


def history_read(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    pseudo_query: Tensor,
    key_scale: Tensor,
    size: Sequence[int],
    *,
    return_weights: bool = False,
    **options: Any,
) -> Any:
    """``reference.history_read`` by the path that ``read_path`` names; all paths are exact."""
    arguments = pool, projections, pseudo_query, key_scale, size
    path = read_path(pseudo_query.device, len(pseudo_query), return_weights)
    if path == "fused":
        return fused.history_read(*arguments, **options)
    return (reference if path == "reference" else tiled).history_read(
        *arguments, return_weights=return_weights, **options
    )
