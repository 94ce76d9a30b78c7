"""The operator under a read; it knows torch and nothing of networks.

``history_read`` takes one of several paths to the same result; ``read_path`` is the rule.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nnunet_xattnres.ops import reference

_CUSTOM_OPS = hasattr(torch.library, "custom_op")  # since torch 2.4

if _CUSTOM_OPS:
    from nnunet_xattnres.ops import fused, interpolate, tiled

__all__ = ["history_read", "read_path", "resize_to_each"]

FUSED_ON_CUDA = False  # the Triton kernels are tested with Triton's interpreter only: no GPU has timed them yet
FUSED_CHANNELS = 64  # nnU-Net's two highest resolutions: there a position's channels fit into registers

Path = Literal["reference", "tiled", "fused"]


def read_path(device: torch.device, channels: int, return_weights: bool = False) -> Path:
    """The path of a read of so many channels on a device.

    The reference where the weights are asked for while gradients are recorded, where torch is older than 2.4, and in
    torch.export (ONNX), whose result must not need this package; the Triton kernels on CUDA, if they are switched on,
    for at most 64 channels; the tiles everywhere else.
    """
    if _only_plain_torch() or (return_weights and torch.is_grad_enabled()):
        return "reference"
    if (
        FUSED_ON_CUDA
        and not return_weights
        and device.type == "cuda"
        and channels <= FUSED_CHANNELS
        and fused.available()
    ):
        return "fused"
    return "tiled"


def _only_plain_torch() -> bool:
    exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return not _CUSTOM_OPS or (exporting is not None and exporting())


def resize_to_each(x: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Resize ``x``, (B, C, *spatial), to each of several sizes: a map (B, C, *size) for each, in its dtype."""
    return (reference if _only_plain_torch() else interpolate).resize_to_each(x, sizes)


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
