"""What can be read and what not, said once for all paths.

Plain Python on shapes, dtypes and devices: nothing of it is left in a graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_read(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    pseudo_query: Tensor,
    key_scale: Tensor,
    size: Sequence[int],
    *,
    skip: int | None = None,
    below: Tensor | None = None,
) -> None:
    """Raise ValueError, naming the culprit, for what is no read; the arguments are ``ops.history_read``'s."""
    check_maps(pool, size)
    if len(projections) != len(pool):
        raise ValueError(
            f"there are {len(projections)} projections for {len(pool)} maps: "
            "give one for each map, None for a map that is read as it is"
        )
    device, channels = pool[0].device, pseudo_query.numel()
    if pseudo_query.ndim != 1 or channels < 1:
        raise ValueError(f"pseudo_query has shape {_shape(pseudo_query)}; expected (C), one for each channel")
    if key_scale.shape != pseudo_query.shape:
        raise ValueError(f"key_scale has shape {_shape(key_scale)}; expected {_shape(pseudo_query)}, as pseudo_query")
    _check_kind("pseudo_query", pseudo_query, device)
    _check_kind("key_scale", key_scale, device)
    for k, (h, projection) in enumerate(zip(pool, projections, strict=True)):
        _check_projection(k, h.shape[1], projection, channels)
        if projection is not None:
            _check_kind(f"the projection of source {k}", projection, device)
    if skip is not None:
        _check_skip(skip, pool, projections, size)
    if below is not None:
        check_below(below, pool[0], size)


def check_maps(pool: Sequence[Tensor], size: Sequence[int]) -> None:
    """Raise ValueError for maps that cannot be read together at ``size``."""
    if len(pool) == 0:
        raise ValueError("the pool is empty: a read needs at least one map")
    _check_size(size)
    first = pool[0]
    for k, h in enumerate(pool):
        _check_map(f"source {k}", h, size)
        _check_kind(f"source {k}", h, first.device)
        if h.shape[0] != first.shape[0]:
            raise ValueError(
                f"source {k} has shape {_shape(h)}, a batch of {h.shape[0]}, but source 0 has a batch of "
                f"{first.shape[0]}: all maps must be of the same samples (expand() one that serves them all)"
            )


def check_below(below: Tensor, first: Tensor, size: Sequence[int]) -> None:
    """Raise ValueError for what cannot stand before a read at ``size`` of a pool whose first map is ``first``."""
    if below.ndim != len(size) + 2 or below.shape[0] != first.shape[0] or tuple(below.shape[2:]) != tuple(size):
        raise ValueError(
            f"below has shape {_shape(below)}; expected a batch of {first.shape[0]}, any channels and the spatial "
            f"size {tuple(size)}: it is not broadcast, expand() it"
        )
    _check_kind("below", below, first.device)


def check_resize(x: Tensor, sizes: Sequence[Sequence[int]]) -> None:
    """Raise ValueError for what cannot be resized; the arguments are ``ops.resize_to_each``'s."""
    if x.ndim not in (4, 5):
        raise ValueError(f"x has shape {_shape(x)}; expected (batch, channels, and 2 or 3 spatial axes)")
    _check_map("x", x, x.shape[2:])
    _check_kind("x", x, x.device)
    for size in sizes:
        _check_size(size)
        _check_map("x", x, size)


def _check_size(size: Sequence[int]) -> None:
    if len(size) not in (2, 3):
        raise ValueError(
            f"size is {tuple(size)}; expected 2 or 3 spatial axes (for a single one, unsqueeze() a second one)"
        )
    if any(n < 1 for n in size):
        raise ValueError(f"size is {tuple(size)}; every axis needs at least one position")


def _check_map(name: str, h: Tensor, size: Sequence[int]) -> None:
    if h.ndim != len(size) + 2:
        raise ValueError(
            f"{name} has shape {_shape(h)}; for the size {tuple(size)} expected "
            f"(batch, channels, and {len(size)} spatial axes)"
        )
    if any(n < 1 for n in h.shape[1:]):
        raise ValueError(f"{name} has shape {_shape(h)}; it needs at least one channel and one position")


def _check_kind(name: str, tensor: Tensor, device: torch.device) -> None:
    if not tensor.is_floating_point():
        raise ValueError(f"{name} is of {tensor.dtype}; expected a floating dtype, as float() gives")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, but source 0 is on {device}: move them to one device")


def _check_projection(k: int, source_channels: int, projection: Tensor | None, channels: int) -> None:
    if projection is None and source_channels != channels:
        raise ValueError(
            f"source {k} has no projection, but {source_channels} channels; the read has {channels}: "
            f"it needs a projection ({channels}, {source_channels})"
        )
    if projection is not None and _shape(projection) != (channels, source_channels):
        raise ValueError(
            f"the projection of source {k} has shape {_shape(projection)}; expected ({channels}, {source_channels}), "
            "the channels of the read and of the source (of a 1x1 convolution: weight.flatten(1))"
        )


def _check_skip(skip: int, pool: Sequence[Tensor], projections: Sequence[Tensor | None], size: Sequence[int]) -> None:
    if not 0 <= skip < len(pool):
        raise ValueError(f"skip is {skip}, but the pool has the sources 0 to {len(pool) - 1}")
    if projections[skip] is not None:
        raise ValueError(
            f"source {skip} cannot be the skip: it has a projection; only a map that is read as it is can be added"
        )
    if tuple(pool[skip].shape[2:]) != tuple(size):
        raise ValueError(
            f"source {skip} cannot be the skip: it has the spatial size {tuple(pool[skip].shape[2:])} "
            f"instead of {tuple(size)}; resize it before, or add it yourself"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
