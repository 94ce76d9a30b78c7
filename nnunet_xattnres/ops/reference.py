"""One read of the history, as short plain torch: the specification that every faster path is tested against."""

from collections.abc import Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.ops.arguments import check_read, check_resize

_LINEAR = {2: "bilinear", 3: "trilinear"}


def history_read(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    pseudo_query: Tensor,
    key_scale: Tensor,
    size: Sequence[int],
    *,
    skip: int | None = None,
    below: Tensor | None = None,
    eps: float = 1e-6,
    return_weights: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Read a pool of earlier stage outputs with one learned pseudo-query (XAttnRes, arXiv 2604.03297).

    With v_k = Resize(P_k h_k): l_k(x) = <w, RMSNorm(v_k(x))>, a(x) = softmax over k of l_k(x), and the read is
    r(x) = sum over k of a_k(x) v_k(x), at every position x.

    Args:
        pool: N feature maps h_k, each (B, C_k, *spatial) with its own C_k, spatial size and floating dtype.
        projections: N weights P_k of 1x1 convolutions without bias, (C, C_k); None for a map that is read as it is:
            it has C channels already (ours).
        pseudo_query: w, (C).
        key_scale: g, the learned scale of the RMSNorm over the channels, (C).
        size: the spatial size of the read, 2 or 3 axes.
        skip: the index of a source that is added to the read; it has no projection, and its size is ``size`` (ours).
        below: a map (B, C_below, *size) to stand before the result, as in a U-Net's decoder stage (ours).
        eps: added to the mean square inside the RMSNorm.
        return_weights: also return the weights a_k.

    Returns:
        The read, (B, C, *size), in the widest dtype of the maps, or with ``below`` (B, C_below + C, *size); with
        ``return_weights`` also the weights, (B, N, *size), which sum to one over the sources. Norm, scores and softmax
        are computed in float32 or wider.

    Raises:
        ValueError: for what is no read; it names the source by its index.
    """
    check_read(pool, projections, pseudo_query, key_scale, size, skip=skip, below=below)
    values = [_align(h, p, tuple(size)) for h, p in zip(pool, projections, strict=True)]
    weights = _scores(values, pseudo_query, key_scale, eps).softmax(dim=1)
    read: Tensor = sum(a.unsqueeze(1) * v for a, v in zip(weights.unbind(1), values, strict=True))  # type: ignore[assignment]
    if skip is not None:
        read = read + pool[skip]
    read = read.to(widest_dtype(pool))
    if below is not None:
        read = torch.cat((below, read), dim=1)
    return (read, weights) if return_weights else read


def log_sum(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    pseudo_query: Tensor,
    key_scale: Tensor,
    size: Sequence[int],
    *,
    eps: float = 1e-6,
) -> Tensor:
    """The logarithm of the softmax's denominator, (B, *size): what a path's forward hands on to a backward.

    The arguments are those of ``history_read``.
    """
    values = [_align(h, p, tuple(size)) for h, p in zip(pool, projections, strict=True)]
    return _scores(values, pseudo_query, key_scale, eps).logsumexp(dim=1)


def widest_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds what every one of the tensors holds."""
    return reduce(torch.promote_types, [t.dtype for t in tensors])


def _align(h: Tensor, projection: Tensor | None, size: tuple[int, ...]) -> Tensor:
    """v_k = Resize(P_k h_k). The two commute, so the projection runs at the smaller of the two resolutions."""
    if prod(h.shape[2:]) <= prod(size):
        return _resize(_project(h, projection), size)
    return _project(_resize(h, size), projection)


def _project(h: Tensor, projection: Tensor | None) -> Tensor:
    if projection is None:
        return h
    return torch.matmul(projection.to(h.dtype), h.flatten(2)).unflatten(2, h.shape[2:])


def resize_to_each(x: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Resize ``x``, (B, C, *spatial), to each of several sizes, linearly, with ``align_corners=False``.

    Args:
        x: a map of 2 or 3 spatial axes and any floating dtype.
        sizes: spatial sizes, as many axes each.

    Returns:
        A map (B, C, *size) for each size, in the dtype of ``x``.

    Raises:
        ValueError: for what cannot be resized.
    """
    check_resize(x, sizes)
    return [_resize(x, tuple(size)) for size in sizes]


def _resize(h: Tensor, size: tuple[int, ...]) -> Tensor:
    if h.shape[2:] == size:
        return h
    return F.interpolate(h, size=size, mode=_LINEAR[len(size)], align_corners=False)


def _scores(values: Sequence[Tensor], pseudo_query: Tensor, key_scale: Tensor, eps: float) -> Tensor:
    """Of all sources, (B, N, *size)."""
    return torch.stack([_score(v, pseudo_query, key_scale, eps) for v in values], dim=1)


def _score(v: Tensor, pseudo_query: Tensor, key_scale: Tensor, eps: float) -> Tensor:
    """l_k = <w, RMSNorm(v_k)>, (B, *size)."""
    v = v.to(torch.promote_types(v.dtype, torch.float32))
    query = (pseudo_query.to(v.dtype) * key_scale.to(v.dtype)).view(-1, *[1] * (v.ndim - 2))  # (C, 1, ..., 1)
    return (v * query).sum(dim=1) * torch.rsqrt(v.square().mean(dim=1) + eps)
