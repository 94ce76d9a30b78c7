"""The exact read, tile by tile, in plain torch: nearly free in time and memory, forward and backward (ours).

No enlarged map ever exists as a whole. A source is projected at its own resolution. Then, for one tile of positions
after the other, every source is resized into a buffer that stays in the cache; there it is scored, weighted and summed.
The backward needs the inputs only, and goes through the tiles again. It does not need the read itself, because
<dr, r> = sum over k of a_k <dr, v_k>.

Each projection carries one row more, q^T P_k with q = w * g * sqrt(C): it becomes <q, v_k>, so that an aligned map has
C + 1 channels here, and its score is l_k = <q, v_k> / sqrt(|v_k|^2 + C * eps). Some samples of a map, one or as many as
fill a tile, are seen as (C, rows, middle, samples, columns); with two spatial axes the middle one has one position.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from nnunet_xattnres.common.autocast import without_autocast
from nnunet_xattnres.ops.tiles import SMALL_TILE, TiledRead, samples_of


def forward(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    query: Tensor,
    size: Sequence[int],
    *,
    skip: int | None,
    eps: float,
    out: Tensor,
    log_sum: Tensor | None = None,
    weights: Tensor | None = None,
    numbers: int | None = None,
) -> None:
    """Write the read of a pool.

    Args:
        pool: N maps, each (B, C_k, *spatial), of any floating dtypes; those without a projection are at ``size``.
        projections: N weights (C, C_k); None for a map that is read as it is.
        query: w * g, (C), in the dtype that all is computed in.
        size: the spatial size of the read, 2 or 3 axes.
        skip: the index of a source that is added to the read.
        eps: added to the mean square inside the RMSNorm.
        out: (B, channels before the read + C, *size); its last C channels are written.
        log_sum: L, the log-sum-exp of the scores, (B, *size), written if given.
        weights: of the sources, (B, N, *size), written if given.
        numbers: of one aligned map in a tile, at most; the device may take fewer.
    """
    with without_autocast(out.device.type):
        extended, _ = _with_query(projections, query * len(query) ** 0.5)
        read = TiledRead(pool, extended, size, eps, numbers)
        for samples in read.samples:
            target, sources = samples_of(out[:, -read.channels :], samples), read.sources(samples)
            for tile in read.tiles:
                part = read.align(sources, tile)
                scores = part.scores()  # (N, rows, middle, samples * columns)
                if log_sum is not None:
                    target_log_sum = samples_of(log_sum.unsqueeze(1), samples)[0, tile.rows, tile.middle]
                    target_log_sum.copy_(scores.logsumexp(0).unflatten(2, target.shape[3:]))
                shares = torch.softmax(scores, 0)
                if weights is not None:
                    target_weights = samples_of(weights, samples)
                    target_weights[:, tile.rows, tile.middle] = shares.unflatten(3, target.shape[3:])
                if skip is not None:
                    shares[skip] += 1
                total = part.scratch.zero_()
                for values, share in zip(part.values, shares.unsqueeze(3), strict=True):
                    total.addcmul_(values, share)
                target[:, tile.rows, tile.middle] = total.unflatten(3, target.shape[3:]).permute(2, 0, 1, 3, 4)


def backward(
    grad: Tensor,
    log_sum: Tensor,
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    query: Tensor,
    *,
    skip: int | None,
    eps: float,
    d_pool: Sequence[Tensor],
    d_projections: Sequence[Tensor | None],
    d_query: Tensor,
    numbers: int | None = None,
) -> None:
    """Write the gradients of a read; the arguments are ``forward``'s.

    Args:
        grad: of ``out``.
        log_sum: L; not used, for the softmax of the tiles' own scores is the more exact one.
        d_pool, d_projections, d_query: written, each of the shape and dtype of what it is the gradient of.
    """
    with without_autocast(grad.device.type):
        scale = len(query) ** 0.5
        extended, wide = _with_query(projections, query * scale)
        d_direct, d_wide = torch.zeros_like(query), None if wide is None else torch.zeros_like(wide)
        d_extended = _parts(projections, d_direct, d_wide)
        read = TiledRead(pool, extended, grad.shape[2:], eps, numbers)
        for samples in read.samples:
            d_out, sources = samples_of(grad[:, -read.channels :], samples), read.sources(samples)
            for source, d_h, d_p in zip(sources, d_pool, d_extended, strict=True):
                source.start_backward(samples_of(d_h, samples), d_p)
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
        if wide is not None and d_wide is not None:  # the last row of ``wide`` is q^T P
            d_direct += (wide[:-1] * d_wide[-1]).sum(1)
            d_wide[:-1].addcmul_((query * scale).unsqueeze(1), d_wide[-1])
            for d_projection, found in zip(d_projections, d_extended, strict=True):
                if d_projection is not None:
                    d_projection.copy_(found[:-1])
        torch.mul(d_direct, scale, out=d_query)


forward_in_small_tiles = partial(forward, numbers=SMALL_TILE)
backward_in_small_tiles = partial(backward, numbers=SMALL_TILE)


def _with_query(projections: Sequence[Tensor | None], query: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """(C + 1, C_k) for each source, or the query alone, (C), for a map that is read as it is; and all of them at once.

    All of them, (C + 1, sum of C_k), stand in one tensor, whose parts the others are; None if there is no projection.
    """
    given = [p for p in projections if p is not None]
    if not given:
        return [query for _ in projections], None
    wide = torch.cat(given, 1).to(query.dtype)
    row = (query.unsqueeze(1) * wide).sum(0, keepdim=True)
    wide = torch.cat((wide, row))
    return _parts(projections, query, wide), wide


def _parts(projections: Sequence[Tensor | None], of_direct: Tensor, wide: Tensor | None) -> list[Tensor]:
    given = [p.shape[1] for p in projections if p is not None]
    parts = iter(() if wide is None else wide.split(given, 1))
    return [of_direct if p is None else next(parts) for p in projections]
