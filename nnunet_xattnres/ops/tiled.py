"""The exact read, tile by tile, in plain torch: nearly free in time and memory, forward and backward (ours).

No enlarged map ever exists as a whole. A source is projected at its own resolution. Then, for one tile of positions
after the other, every source is resized into a buffer that stays in the cache; there it is scored, weighted and summed.
Only the inputs are kept for the backward, which goes through the tiles again. It does not need the read itself, because
<dr, r> = sum over k of a_k <dr, v_k>.

Each projection carries one row more, q^T P_k with q = w * g * sqrt(C): it becomes <q, v_k>, so that an aligned map has
C + 1 channels here, and its score is l_k = <q, v_k> / sqrt(|v_k|^2 + C * eps). Some samples of a map, one or as many as
fill a tile, are seen as (C, rows, middle, samples, columns); with two spatial axes the middle one has one position.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.ops.arguments import check_read
from nnunet_xattnres.ops.reference import widest_dtype
from nnunet_xattnres.ops.resize import resized_first
from nnunet_xattnres.ops.tiles import TiledRead, read_channels, samples_of


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
    """Read a pool as ``reference.history_read`` does; it can be differentiated once, with the weights not at all.

    Args:
        pool: N maps, each (B, C_k, *spatial), of any floating dtypes.
        projections: N weights (C, C_k); None for a map of C channels that is read as it is.
        pseudo_query: (C).
        key_scale: (C).
        size: the spatial size of the read, 2 or 3 axes.
        skip: the index of a source without a projection, at ``size``, that is added to the read.
        below: a map (B, C_below, *size) to stand before the result.
        eps: added to the mean square inside the RMSNorm.
        return_weights: also return the weights of the sources.

    Returns:
        The read, (B, C, *size), or with ``below`` (B, C_below + C, *size), in the widest dtype of the maps; with
        ``return_weights`` also the weights, (B, N, *size), in float32 or wider, as all is computed.

    Raises:
        ValueError: for what is no read; it names the source by its index.
    """
    check_read(pool, projections, pseudo_query, key_scale, size, skip=skip, below=below)
    dtype = torch.promote_types(widest_dtype(pool), torch.float32)
    query = pseudo_query.to(dtype) * key_scale.to(dtype) * len(pseudo_query) ** 0.5
    pool = [resized_first(h, p, size) for h, p in zip(pool, projections, strict=True)]
    extended = _with_query(projections, query)
    if not return_weights:
        return _read(pool, extended, below, list(size), skip, eps)
    with torch.no_grad():
        out = _read_fake(pool, extended, below, list(size), skip, eps)
        weights = out.new_empty(len(out), len(pool), *size, dtype=dtype)
        _fill(out, weights, pool, extended, below, size, skip, eps)
        return out, weights


def _with_query(projections: Sequence[Tensor | None], query: Tensor) -> list[Tensor]:
    """(C + 1, C_k) for each source, or the query alone, (C), for a map that is read as it is; made at once for all."""
    given = [p for p in projections if p is not None]
    if not given:
        return [query for _ in projections]
    wide = torch.cat(given, 1).to(query.dtype)
    # a sum of products, and no matrix product, which autocast would take in half precision
    row = (query.unsqueeze(1) * wide).sum(0, keepdim=True)
    parts = iter(torch.cat((wide, row)).split([p.shape[1] for p in given], 1))
    return [query if p is None else next(parts) for p in projections]


@torch.library.custom_op(
    "nnunet_xattnres::history_read",
    mutates_args=(),
    schema="(Tensor[] pool, Tensor[] projections, Tensor? below, SymInt[] size, SymInt? skip, float eps) -> Tensor",
)
def _read(
    pool: list[Tensor], projections: list[Tensor], below: Tensor | None, size: list[int], skip: int | None, eps: float
) -> Tensor:
    out = _read_fake(pool, projections, below, size, skip, eps)
    _fill(out, None, pool, projections, below, size, skip, eps)
    return out


def _fill(
    out: Tensor,
    weights_out: Tensor | None,
    pool: Sequence[Tensor],
    projections: Sequence[Tensor],
    below: Tensor | None,
    size: Sequence[int],
    skip: int | None,
    eps: float,
) -> None:
    """Write the read, and the weights if they are asked for, (B, N, *size)."""
    with torch.autocast(out.device.type, enabled=False):
        read = TiledRead(pool, projections, size, eps)
        if below is not None:
            out[:, : below.shape[1]] = below
        for samples in read.samples:
            target, sources = samples_of(out[:, -read.channels :], samples), read.sources(samples)
            for tile in read.tiles:
                part = read.align(sources, tile)
                weights = part.scores().softmax(dim=0)
                if weights_out is not None:
                    target_weights = samples_of(weights_out, samples)
                    target_weights[:, tile.rows, tile.middle] = weights.unflatten(3, target.shape[3:])
                if skip is not None:
                    weights[skip] += 1
                total = part.scratch.zero_()
                for values, weight in zip(part.values, weights.unsqueeze(3), strict=True):
                    total.addcmul_(values, weight)
                target[:, tile.rows, tile.middle] = total.unflatten(3, target.shape[3:]).permute(2, 0, 1, 3, 4)


@_read.register_fake
def _read_fake(
    pool: list[Tensor], projections: list[Tensor], below: Tensor | None, size: list[int], skip: int | None, eps: float
) -> Tensor:
    maps = pool if below is None else [*pool, below]
    channels = read_channels(projections) + (0 if below is None else below.shape[1])
    return pool[0].new_empty(pool[0].shape[0], channels, *size, dtype=widest_dtype(maps))


@torch.library.custom_op(
    "nnunet_xattnres::history_read_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor[] pool, Tensor[] projections, SymInt? skip, float eps) -> Tensor[]",
)
def _read_backward(
    grad: Tensor, pool: list[Tensor], projections: list[Tensor], skip: int | None, eps: float
) -> list[Tensor]:
    gradients = _read_backward_fake(grad, pool, projections, skip, eps)
    d_pool, d_projections = gradients[: len(pool)], gradients[len(pool) :]
    for d_projection in d_projections:
        d_projection.zero_()
    with torch.autocast(grad.device.type, enabled=False):
        read = TiledRead(pool, projections, grad.shape[2:], eps)
        for samples in read.samples:
            d_out, sources = samples_of(grad[:, -read.channels :], samples), read.sources(samples)
            for source, d_h, d_projection in zip(sources, d_pool, d_projections, strict=True):
                source.start_backward(samples_of(d_h, samples), d_projection)
            for tile in read.tiles:
                d_read = d_out[:, tile.rows, tile.middle].permute(1, 2, 0, 3, 4)
                d_read = d_read.to(read.dtype, memory_format=torch.contiguous_format).flatten(3).contiguous()
                part = read.align(sources, tile, d_read)
                weights, shrinks = part.backward(skip)
                for some in read.groups_in_place:
                    part.values[some].mul_(shrinks[some]).addcmul_(d_read, weights[some])
                for source, d_aligned in zip(sources, part.aligned, strict=True):
                    source.collect(tile, d_aligned)
            for source in sources:
                source.finish_backward()
    return gradients


@_read_backward.register_fake
def _read_backward_fake(
    grad: Tensor, pool: list[Tensor], projections: list[Tensor], skip: int | None, eps: float
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (*pool, *projections)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pool, projections, below, _, ctx.skip, ctx.eps = inputs
    ctx.n_sources = len(pool)
    ctx.below = None if below is None else (below.shape[1], below.dtype)
    ctx.save_for_backward(*pool, *projections)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    n, tensors = ctx.n_sources, list(ctx.saved_tensors)
    gradients = _read_backward(grad, tensors[:n], tensors[n:], ctx.skip, ctx.eps)
    d_below = None if ctx.below is None else grad[:, : ctx.below[0]].to(ctx.below[1])
    return gradients[:n], gradients[n:], d_below, None, None, None


_read.register_autograd(_backward, setup_context=_setup_context)
