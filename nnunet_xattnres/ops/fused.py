"""The exact read as Triton kernels for CUDA: no aligned map exists outside the registers (ours).

Off by default: its logic is tested with Triton's interpreter; on a GPU it is unmeasured.

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

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.ops import kernels
from nnunet_xattnres.ops.arguments import check_read
from nnunet_xattnres.ops.reference import widest_dtype
from nnunet_xattnres.ops.resize import resize_axis, resized_first


def available() -> bool:
    """Whether Triton can be imported; the kernels run on CUDA tensors only."""
    return kernels.available()


def _three_axes(size: Sequence[int]) -> tuple[int, int, int]:
    depth, height, width = (1,) * (3 - len(size)) + tuple(size)
    return depth, height, width


@lru_cache(maxsize=256)
def _table(rows: tuple[tuple[int, int, int], ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64).to(device)


class _Packed:
    """Projected sources, resized along their last axis, in one buffer."""

    def __init__(
        self, maps: Sequence[Tensor], projections: Sequence[Tensor | None], query: Tensor, size: Sequence[int]
    ) -> None:
        self.depth, self.height, self.width = _three_axes(size)
        self.maps, self.projections, self.query = maps, projections, query
        self.stride = kernels.row_stride(self.width)
        shapes = [(len(h), len(query), *_three_axes(h.shape[2:])[:2], self.stride) for h in maps]
        starts = [0, *accumulate(map(prod, shapes))]
        dtype = widest_dtype(maps) if maps else query.dtype
        new = torch.empty if self.stride == self.width else torch.zeros
        self.buffer = new(starts[-1], dtype=dtype, device=query.device)
        self.table = _table(tuple((n, *s[2:4]) for n, s in zip(starts, shapes, strict=False)), query.device)
        self.sources = [self.buffer[n : n + prod(s)].view(s) for n, s in zip(starts, shapes, strict=False)]
        for source, h, projection in zip(self.sources, maps, projections, strict=True):
            x = h.flatten(2).to(query.dtype)
            if projection is not None:
                x = torch.bmm(projection.to(query.dtype).expand(len(x), -1, -1), x)
            source[..., : self.width] = resize_axis(x.view(*source.shape[:4], -1), 4, self.width)

    def backward(self, grad: Tensor, log_sum: Tensor, delta: Tensor, eps: float) -> tuple[list[Tensor], Tensor]:
        """The gradients of the projected maps, (B, C, positions), and of the query."""
        d_maps, d_query = [], torch.zeros_like(self.query)
        channels, blocks = len(self.query), kernels.blocks(len(self.query), self.width)
        for source, h in zip(self.sources, self.maps, strict=True):
            batch, _, in_depth, in_height, _ = source.shape
            rows, has_next = kernels.group_rows(in_height), in_height != self.height
            groups = -(-in_height // rows)
            grid = batch * self.depth * groups, -(-self.width // blocks["BLOCK"])
            d = self.query.new_empty(batch, channels, self.depth, in_height, self.width)
            d_next = d.new_empty(batch, channels, self.depth, groups, self.width) if has_next else d
            d_query_parts = self.query.new_empty(prod(grid), channels)
            sizes = in_depth, in_height, self.depth, self.height, self.width, self.stride, rows
            before = grad.shape[1] - channels
            kernels.backward_source[grid](
                *(source, self.query, grad, log_sum, delta, d, d_next, d_query_parts, eps, channels, before, *sizes),
                **{"HAS_NEXT": has_next, **blocks},
            )
            if has_next:
                d[:, :, :, rows::rows] += d_next[:, :, :, : groups - 1]
            d_query += d_query_parts.sum(0)
            d = resize_axis(resize_axis(d, 2, in_depth, adjoint=True), 4, h.shape[-1], adjoint=True)
            d_maps.append(d.flatten(2))
        return d_maps, d_query


@torch.library.custom_op(
    "nnunet_xattnres::fused_read",
    mutates_args=(),
    schema="(Tensor[] direct, Tensor[] others, Tensor[] projections, Tensor query, Tensor? below, SymInt[] size, "
    "float eps, bool skip) -> (Tensor, Tensor)",
)
def _read(
    direct: list[Tensor],
    others: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    below: Tensor | None,
    size: list[int],
    eps: float,
    skip: bool,
) -> tuple[Tensor, Tensor]:
    """The read after ``below``, and L; with ``skip`` the first direct map is added to the read."""
    out, log_sum = _read_fake(direct, others, projections, query, below, size, eps, skip)
    channels, blocks = len(query), kernels.blocks(len(query), size[-1])
    before = out.shape[1] - channels
    if below is not None:
        out[:, :before] = below
    first = direct[0].contiguous() if direct else query
    with torch.autocast(query.device.type, enabled=False), torch.cuda.device_of(query):
        packed = _Packed([*direct[1:], *others], [*[None] * len(direct[1:]), *projections], query, size)
        grid = len(out) * prod(size[:-1]), -(-size[-1] // blocks["BLOCK"])
        sizes = channels, before, packed.depth, packed.height, packed.width, packed.stride
        kernels.forward[grid](
            *(first, packed.buffer, packed.table, query, out, log_sum, len(packed.maps), eps, *sizes),
            **{"HAS_DIRECT": bool(direct), "SKIP": skip, **blocks},
        )
    return out, log_sum


@_read.register_fake
def _read_fake(
    direct: list[Tensor],
    others: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    below: Tensor | None,
    size: list[int],
    eps: float,
    skip: bool,
) -> tuple[Tensor, Tensor]:
    pool = direct + others
    batch, before = pool[0].shape[0], 0 if below is None else below.shape[1]
    dtype = widest_dtype(pool if below is None else [*pool, below])
    return query.new_empty(batch, before + len(query), *size, dtype=dtype), query.new_empty(batch, *size)


@torch.library.custom_op(
    "nnunet_xattnres::fused_read_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor[] direct, Tensor[] others, Tensor[] projections, Tensor query, Tensor log_sum, "
    "float eps, bool skip) -> Tensor[]",
)
def _read_backward(
    grad: Tensor,
    direct: list[Tensor],
    others: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    log_sum: Tensor,
    eps: float,
    skip: bool,
) -> list[Tensor]:
    """The gradients of the direct maps, of the others, of the projections and of the query."""
    found = _read_backward_fake(grad, direct, others, projections, query, log_sum, eps, skip)
    size, grad = grad.shape[2:], grad.contiguous()
    channels, blocks = len(query), kernels.blocks(len(query), size[-1])
    first, d_first = (direct[0].contiguous(), found[0]) if direct else (query, query)
    delta = torch.empty_like(log_sum)
    grid = len(grad) * prod(size[:-1]), -(-size[-1] // blocks["BLOCK"])
    d_query_parts = query.new_zeros(prod(grid), channels)
    with torch.autocast(query.device.type, enabled=False), torch.cuda.device_of(query):
        packed = _Packed([*direct[1:], *others], [*[None] * len(direct[1:]), *projections], query, size)
        before = grad.shape[1] - channels
        sizes = channels, before, packed.depth, packed.height, packed.width, packed.stride
        kernels.backward_positions[grid](
            *(first, packed.buffer, packed.table, query, grad, log_sum, delta, d_first, d_query_parts),
            *(len(packed.maps), eps, *sizes),
            **{"HAS_DIRECT": bool(direct), "SKIP": skip, **blocks},
        )
        d_maps, d_query = packed.backward(grad, log_sum, delta, eps)
        found[-1].copy_(d_query + d_query_parts.sum(0))
        n_plain = len(direct[1:])
        for d_h, d in zip(found[1 : len(direct)], d_maps[:n_plain], strict=True):
            d_h.copy_(d.view_as(d_h))
        d_others, d_projections = found[len(direct) :][: len(others)], found[len(direct) + len(others) :]
        for d_h, d_p, d, h, p in zip(d_others, d_projections, d_maps[n_plain:], others, projections, strict=False):
            d_h.copy_(torch.bmm(p.T.to(d.dtype).expand(len(d), -1, -1), d).view_as(d_h))
            d_p.copy_(torch.bmm(d, h.flatten(2).to(d.dtype).mT).sum(0))
    return found


@_read_backward.register_fake
def _read_backward_fake(
    grad: Tensor,
    direct: list[Tensor],
    others: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    log_sum: Tensor,
    eps: float,
    skip: bool,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (*direct, *others, *projections, query)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    direct, others, projections, query, below, _, ctx.eps, ctx.skip = inputs
    ctx.n_direct, ctx.n_others = len(direct), len(others)
    ctx.below = None if below is None else (below.shape[1], below.dtype)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*direct, *others, *projections, query, output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    *maps, query, log_sum = ctx.saved_tensors
    cuts = ctx.n_direct, ctx.n_direct + ctx.n_others
    parts = maps[: cuts[0]], maps[cuts[0] : cuts[1]], maps[cuts[1] :]
    *found, d_query = _read_backward(grad, *parts, query, log_sum, ctx.eps, ctx.skip)
    d_below = None if ctx.below is None else grad[:, : ctx.below[0]].to(ctx.below[1])
    d_parts = found[: cuts[0]], found[cuts[0] : cuts[1]], found[cuts[1] :]
    return *d_parts, d_query, d_below, None, None, None


_read.register_autograd(_backward, setup_context=_setup_context)


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
) -> Tensor:
    """Read a pool as ``reference.history_read`` does; the tensors are CUDA tensors. It can be differentiated once.

    Args:
        pool: N maps, each (B, C_k, *spatial), of any floating dtypes.
        projections: N weights (C, C_k); None for a map of C channels that is read as it is.
        pseudo_query: (C).
        key_scale: (C).
        size: the spatial size of the read, 2 or 3 axes.
        skip: the index of a source without a projection, at ``size``, that is added to the read.
        below: a map (B, C_below, *size) to stand before the result.
        eps: added to the mean square inside the RMSNorm.

    Returns:
        The read, (B, C, *size), or with ``below`` (B, C_below + C, *size), in the widest dtype of the maps. Projected
        maps are kept in that dtype; all else is computed in float32 or wider.

    Raises:
        ValueError: for what is no read; it names the source by its index.
    """
    check_read(pool, projections, pseudo_query, key_scale, size, skip=skip, below=below)
    dtype = torch.promote_types(widest_dtype(pool), torch.float32)  # of all that the kernels compute
    query = pseudo_query.to(dtype) * key_scale.to(dtype)
    direct, others, used = [], [], []
    # the softmax does not care for the order: the skip comes first, because the first direct map is never copied
    for k in sorted(range(len(pool)), key=lambda k: k != skip):
        projection = projections[k]
        h = resized_first(pool[k], projection, size)
        if projection is None:
            direct.append(h)
        else:
            others.append(h)
            used.append(projection)
    return _read(direct, others, used, query, below, list(size), eps, skip is not None)[0]
