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
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunet_xattnres.ops.interpolate import resize_to_each
from nnunet_xattnres.ops.reference import widest_dtype
from nnunet_xattnres.ops.sources import DirectSource, ProjectedSource, Tile

# Numbers of one aligned map in a tile: on a CPU few enough for the cache, and so many that the calls cost little.
_TILE = {"cpu": 2**19}
_TILE_ELSEWHERE = 2**22
_ROWS = 8  # of a tile with a middle axis: neighbouring tiles resize the same source rows again


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
    """What ``reference.history_read`` returns; it can be differentiated once, with the weights not at all."""
    dtype = torch.promote_types(widest_dtype(pool), torch.float32)
    query = (pseudo_query * key_scale).to(dtype) * len(pseudo_query) ** 0.5
    n = prod(size)
    pool = [resize_to_each(h, [size])[0] if h.shape[2:].numel() > n else h for h in pool]
    # (C + 1, C_k), or the query alone, (C), for a map that is read as it is
    wide = [None if p is None else p.to(dtype) for p in projections]
    extended = [query if p is None else torch.cat((p, (query @ p).unsqueeze(0))) for p in wide]
    if not return_weights:
        return _read(pool, extended, below, list(size), skip, eps)
    with torch.no_grad():
        out = _read_fake(pool, extended, below, list(size), skip, eps)
        weights = out.new_empty(len(out), len(pool), *size, dtype=dtype)
        _fill(out, weights, pool, extended, below, size, skip, eps)
        return out, weights


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
        read = _Read(pool, projections, size, eps)
        if below is not None:
            out[:, : below.shape[1]] = below
        for samples in read.samples:
            target, sources = _samples_of(out[:, -read.channels :], samples), read.sources(samples)
            for tile in read.tiles:
                part = read.align(sources, tile)
                weights = part.scores().softmax(dim=0)
                if weights_out is not None:
                    target_weights = _samples_of(weights_out, samples)
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
    channels = _channels(projections) + (0 if below is None else below.shape[1])
    return pool[0].new_empty(len(pool[0]), channels, *size, dtype=widest_dtype(maps))


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
        read = _Read(pool, projections, grad.shape[2:], eps)
        for samples in read.samples:
            d_out, sources = _samples_of(grad[:, -read.channels :], samples), read.sources(samples)
            for source, d_h, d_projection in zip(sources, d_pool, d_projections, strict=True):
                source.start_backward(_samples_of(d_h, samples), d_projection)
            for tile in read.tiles:
                d_read = d_out[:, tile.rows, tile.middle].permute(1, 2, 0, 3, 4).flatten(3).to(read.dtype).contiguous()
                part = read.align(sources, tile, d_read)
                for values, weight, shrink in zip(part.values, *part.backward(skip), strict=True):
                    values.mul_(shrink).addcmul_(d_read, weight)
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


class _Read:
    """One read of a batch: its tiles, and its sources for some samples after the other."""

    def __init__(self, pool: Sequence[Tensor], projections: Sequence[Tensor], size: Sequence[int], eps: float) -> None:
        self.pool, self.projections = pool, projections
        self.channels, self.dtype = _channels(projections), projections[0].dtype
        self.eps = self.channels * eps
        self.size = n_rows, n_middle, n_columns = size[0], prod(size[1:-1]), size[-1]
        numbers = _TILE.get(pool[0].device.type, _TILE_ELSEWHERE)
        positions = max(1, numbers // ((self.channels + 1) * n_columns))  # of the samples, rows and the middle axis
        self.samples = _cut(len(pool[0]), max(1, positions // (n_rows * n_middle)))
        middle = min(n_middle, max(1, positions // min(n_rows, _ROWS)))
        parts = product(_cut(n_rows, max(1, positions // middle)), _cut(n_middle, middle))
        self.tiles = [Tile(rows, middle) for rows, middle in parts]
        # all aligned maps and one more of C channels: allocated once, fresh memory is slow
        most = max(map(_length, self.samples), default=0) * max(prod(map(_length, tile)) for tile in self.tiles)
        n_numbers = (len(pool) * (self.channels + 1) + self.channels) * most * n_columns
        self.buffer = pool[0].new_empty(n_numbers, dtype=self.dtype)

    def sources(self, samples: slice) -> list[DirectSource | ProjectedSource]:
        return [
            DirectSource(h, p) if p.ndim == 1 else ProjectedSource(h, p, self.size)
            for h, p in zip((_samples_of(h, samples) for h in self.pool), self.projections, strict=True)
        ]

    def align(
        self, sources: Sequence[DirectSource | ProjectedSource], tile: Tile, d_read: Tensor | None = None
    ) -> "_Part":
        """Align all sources with a tile, and reduce each over its channels while it is in the cache."""
        shape = _length(tile.rows), _length(tile.middle), self.channels, sources[0].samples * self.size[2]
        scratch = self.buffer[: prod(shape)].view(shape)
        aligned = self.buffer[scratch.numel() :][: len(sources) * (prod(shape) + prod(shape) // self.channels)]
        aligned = aligned.view(len(sources), *shape[:2], self.channels + 1, shape[3])
        values, numerator = aligned[..., :-1, :], aligned[..., -1, :]
        squares, d_weights = aligned.new_empty(2, *numerator.shape)
        for k, source in enumerate(sources):
            source.align(tile, aligned[k])
            torch.sum(torch.mul(values[k], values[k], out=scratch), 2, out=squares[k])
            if d_read is not None:
                torch.sum(torch.mul(values[k], d_read, out=scratch), 2, out=d_weights[k])
        return _Part(aligned, values, numerator, squares.add_(self.eps).rsqrt_(), d_weights, scratch)


def _channels(projections: Sequence[Tensor]) -> int:
    p = projections[0]
    return len(p) if p.ndim == 1 else len(p) - 1


def _samples_of(x: Tensor, samples: slice) -> Tensor:
    """(B, C, rows, [middle,] columns) as (C, rows, middle, samples, columns)."""
    x = x[samples]
    return (x.unsqueeze(3) if x.ndim == 4 else x).permute(1, 2, 3, 0, 4)


def _length(part: slice) -> int:
    return part.stop - part.start


def _cut(n: int, at_most: int) -> list[slice]:
    """The range of n in parts that differ by one at most."""
    n_parts = ceil(n / at_most)
    return [slice(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]


class _Part(NamedTuple):
    """All sources in one tile, each a map (rows, middle, channels, samples * columns)."""

    aligned: Tensor  # (sources, rows, middle, C + 1, samples * columns)
    values: Tensor  # its first C channels
    numerator: Tensor  # <q, v_k>, its last channel: (sources, rows, middle, samples * columns)
    norm: Tensor  # 1 / sqrt(|v_k|^2 + C * eps), likewise
    d_weights: Tensor  # <dr, v_k>, likewise; empty in the forward
    scratch: Tensor  # one map of C channels

    def scores(self) -> Tensor:
        return self.numerator * self.norm

    def backward(self, skip: int | None) -> tuple[Tensor, Tensor]:
        """The factors a_k and b_k of dv_k = a_k dr + b_k v_k + n_k q, (sources, rows, middle, 1, samples * columns).

        n_k, the gradient of the numerator, is written into its place.
        """
        scores = self.scores()
        weights = scores.softmax(dim=0)
        d_scores = weights * (self.d_weights - (weights * self.d_weights).sum(0))
        if skip is not None:
            weights[skip] += 1
        d_numerator = torch.mul(d_scores, self.norm, out=self.numerator)
        shrink = scores.mul_(self.norm).mul_(d_numerator).neg_()
        return weights.unsqueeze(3), shrink.unsqueeze(3)
