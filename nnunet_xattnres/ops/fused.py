"""The exact read as Triton kernels for CUDA: no aligned map exists outside the registers (ours).

The first candidate on CUDA, up to 128 channels: taken where it has proved itself on that GPU and no other path is
clearly faster (``chosen``). Its logic is tested with Triton's interpreter; how fast it is on a GPU is unmeasured.

A source is projected at its own resolution and resized along its last axis in plain torch; the results stand in one
buffer, one (B, C, depth, height, W of the read) after the other, so that all loads of a kernel run along the last
axis; the rows are padded there, so that the loads are wide at every W. A kernel program takes a part of a row with all
its channels and interpolates along the two other axes. The softmax over the sources is online: running maximum, sum
and total. A map of two axes is seen as one of three.

Only the inputs and the log-sum-exp L of the scores are kept for the backward. With q = w * g,
rho_k = rsqrt(mean_c v_k^2 + eps), l_k = <q, v_k> rho_k and a_k = exp(l_k - L), it needs one number more per position,
delta = sum over k of a_k <dr, v_k>, and then each source stands alone:

    n_k = a_k (<dr, v_k> - delta) rho_k
    dv_k = a_k dr - (n_k l_k rho_k / C) v_k + n_k q,    dq = sum over k and x of n_k v_k

The gradient of a resize gathers: a program owns some rows of the coarse map, and sums over the rows of the read that
have one of them as their left neighbour; what it finds for the first row of the next program is added afterwards. The
other axes follow as products with the transposed matrices. There are no atomics: the same bits every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from nnunet_xattnres.common.autocast import without_autocast
from nnunet_xattnres.ops import kernels
from nnunet_xattnres.ops.reference import widest_dtype
from nnunet_xattnres.ops.resize import resize_axis

_LEAST_EPS = 1e-30  # lanes behind a row hold zeros, and 0 * rsqrt(0) would make NaN of the query's gradient


def available() -> bool:
    """Whether Triton can be imported, for NVIDIA's GPUs; the kernels run on CUDA tensors only."""
    return kernels.available() and torch.version.hip is None


def _three_axes(size: Sequence[int]) -> tuple[int, int, int]:
    depth, height, width = (1,) * (3 - len(size)) + tuple(size)
    return depth, height, width


@lru_cache(maxsize=256)
def _table(rows: tuple[tuple[int, int, int], ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64).to(device)


class _Packed:
    """Projected sources, resized along their last axis, in one buffer of the maps' dtype.

    The products are in that dtype, too, as those of a convolution under autocast: each adds up in float32 on a GPU, and
    is rounded to that dtype; so is a projection's gradient of each sample, and the samples add up in float32.
    """

    def __init__(
        self, maps: Sequence[Tensor], projections: Sequence[Tensor | None], query: Tensor, size: Sequence[int]
    ) -> None:
        self.depth, self.height, self.width = _three_axes(size)
        self.stride = kernels.row_stride(self.width)
        dtype = widest_dtype(maps) if maps else query.dtype
        self.maps, self.projections, self.query = maps, _all_to(projections, dtype), query
        shapes = [(len(h), len(query), *_three_axes(h.shape[2:])[:2], self.stride) for h in maps]
        starts = [0, *accumulate(map(prod, shapes))]
        new = torch.empty if self.stride == self.width else torch.zeros
        self.buffer = new(starts[-1], dtype=dtype, device=query.device)
        self.table = _table(tuple((n, *s[2:4]) for n, s in zip(starts, shapes, strict=False)), query.device)
        self.sources = [self.buffer[n : n + prod(s)].view(s) for n, s in zip(starts, shapes, strict=False)]
        for source, h, projection in zip(self.sources, maps, self.projections, strict=True):
            x = h.to(dtype)
            if projection is not None:
                x = self._project(x, projection, source)
            if x is not source:
                resize_axis(x.reshape(*source.shape[:4], -1), 4, self.width, out=source[..., : self.width])

    def _project(self, h: Tensor, projection: Tensor, source: Tensor) -> Tensor:
        """The projected map, in ``source`` if it has its size already, and rows without padding."""
        same = h.shape[-1] == self.width == self.stride
        out = source if same else h.new_empty(*source.shape[:4], h.shape[-1])
        torch.bmm(projection.expand(len(h), -1, -1), h.flatten(2), out=out.flatten(2))
        return out

    def programs(self) -> list[int]:
        """Of each source, in the backward."""
        n_blocks = -(-self.width // kernels.blocks(len(self.query), self.width)["BLOCK"])
        heights = [source.shape[3] for source in self.sources]
        groups = [-(-n // kernels.group_rows(n, self.height)) for n in heights]
        return [len(s) * self.depth * n * n_blocks for s, n in zip(self.sources, groups, strict=True)]

    def backward(
        self, grad: Tensor, log_sum: Tensor, delta: Tensor, eps: float, d_query_parts: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        """The gradients of the projected maps, (B, C, positions), in the dtype of the buffer.

        That of the query is written in parts, (programs, C) for each source.
        """
        channels, blocks = len(self.query), kernels.blocks(len(self.query), self.width)
        for source, h, d_query in zip(self.sources, self.maps, d_query_parts, strict=True):
            batch, _, in_depth, in_height, _ = source.shape
            rows, has_next = kernels.group_rows(in_height, self.height), in_height != self.height
            groups = -(-in_height // rows)
            grid = batch * self.depth * groups, -(-self.width // blocks["BLOCK"])
            d = source.new_empty(batch, channels, self.depth, in_height, self.width)
            d_next = self.query.new_empty(batch, channels, self.depth, groups, self.width) if has_next else d
            sizes = in_depth, in_height, self.depth, self.height, self.width, self.stride, rows
            before = grad.shape[1] - channels
            kernels.backward_source[grid](
                *(source, self.query, grad, log_sum, delta, d, d_next, d_query, eps, channels, before, *sizes),
                **{"HAS_NEXT": has_next, **blocks},
            )
            if has_next:
                d[:, :, :, rows::rows] += d_next[:, :, :, : groups - 1]
            d = resize_axis(resize_axis(d, 2, in_depth, adjoint=True), 4, h.shape[-1], adjoint=True)
            yield d.flatten(2)


def _all_to(projections: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """The projections, (C, C_k), in a dtype: cast at once, for each alone is a launch."""
    given = [p for p in projections if p is not None]
    if all(p.dtype == dtype for p in given):
        return list(projections)
    parts = iter(torch.cat(given, 1).to(dtype).split([p.shape[1] for p in given], 1))
    return [None if p is None else next(parts) for p in projections]


def _d_projected(d: Tensor, h: Tensor, projection: Tensor, d_h: Tensor, d_projection: Tensor) -> None:
    """Write the gradients of a map and of its projection, from that of the projected map, (B, C, positions)."""
    transposed = projection.T.expand(len(d), -1, -1)
    if d_h.dtype == d.dtype:
        torch.bmm(transposed, d, out=d_h.flatten(2))
    else:
        d_h.copy_(torch.bmm(transposed, d).view_as(d_h))
    per_sample = torch.bmm(d, h.flatten(2).to(d.dtype).mT)
    if d_projection.dtype == d.dtype:
        torch.sum(per_sample, 0, out=d_projection)
    else:
        torch.sum(per_sample, 0, dtype=d_projection.dtype, out=d_projection)


def _order(projections: Sequence[Tensor | None], skip: int | None) -> list[int]:
    """The sources without a projection first, and of them the skip: the first one is never copied.

    The softmax does not care for the order.
    """
    return sorted(range(len(projections)), key=lambda k: (projections[k] is not None, k != skip))


def forward(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    query: Tensor,
    size: Sequence[int],
    *,
    skip: int | None,
    eps: float,
    out: Tensor,
    log_sum: Tensor,
) -> None:
    """Write the read of a pool; the arguments are ``tiled.forward``'s. Projected maps are kept in the maps' dtype."""
    order = _order(projections, skip)
    has_direct = projections[order[0]] is None
    first, rest = (pool[order[0]].contiguous(), order[1:]) if has_direct else (query, order)
    channels, blocks = len(query), kernels.blocks(len(query), size[-1])
    before = out.shape[1] - channels
    with without_autocast(query.device.type), torch.cuda.device_of(query):
        packed = _Packed([pool[k] for k in rest], [projections[k] for k in rest], query, size)
        grid = len(out) * prod(size[:-1]), -(-size[-1] // blocks["BLOCK"])
        sizes = channels, before, packed.depth, packed.height, packed.width, packed.stride
        kernels.forward[grid](
            *(first, packed.buffer, packed.table, query, out, log_sum, len(packed.maps), eps, *sizes),
            **{"HAS_DIRECT": has_direct, "SKIP": skip is not None, **blocks},
        )


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
) -> None:
    """Write the gradients of a read; the arguments are ``tiled.backward``'s."""
    eps = max(eps, _LEAST_EPS)
    size, grad = grad.shape[2:], grad.contiguous()
    order = _order(projections, skip)
    has_direct = projections[order[0]] is None
    first, rest = (pool[order[0]].contiguous(), order[1:]) if has_direct else (query, order)
    d_first = d_pool[order[0]] if has_direct else query
    channels, blocks = len(query), kernels.blocks(len(query), size[-1])
    delta = torch.empty_like(log_sum)
    grid = len(grad) * prod(size[:-1]), -(-size[-1] // blocks["BLOCK"])
    with without_autocast(query.device.type), torch.cuda.device_of(query):
        packed = _Packed([pool[k] for k in rest], [projections[k] for k in rest], query, size)
        programs = [prod(grid) if has_direct else 0, *packed.programs()]
        d_queries = query.new_empty(sum(programs), channels)
        d_query_parts = d_queries.split(programs)
        before = grad.shape[1] - channels
        sizes = channels, before, packed.depth, packed.height, packed.width, packed.stride
        kernels.backward_positions[grid](
            *(first, packed.buffer, packed.table, query, grad, log_sum, delta, d_first, d_query_parts[0]),
            *(len(packed.maps), eps, *sizes),
            **{"HAS_DIRECT": has_direct, "SKIP": skip is not None, **blocks},
        )
        d_maps = packed.backward(grad, log_sum, delta, eps, d_query_parts[1:])
        for k, d, projection in zip(rest, d_maps, packed.projections, strict=True):
            d_projection = d_projections[k]
            if projection is None or d_projection is None:
                d_pool[k].copy_(d.view_as(d_pool[k]))
            else:
                _d_projected(d, pool[k], projection, d_pool[k], d_projection)
        torch.sum(d_queries, 0, out=d_query)
