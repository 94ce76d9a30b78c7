"""The Triton kernels of ``fused``, and what size of a tile they take (ours).

A program takes a part of a row of the read with all its channels and goes through the sources; ``fused`` says what it
computes. What Triton makes of each kernel for each GPU is in benchmarks/results/kernels.md.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from math import gcd
from typing import Any

try:
    import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
except Exception:  # not there (macOS, Windows), or not usable
    triton = None


def available() -> bool:
    """Whether Triton can be imported; the kernels run on CUDA tensors only."""
    return triton is not None


def version() -> str:
    """Triton's own, whatever its distribution is called; "none" where it cannot be imported."""
    return getattr(triton, "__version__", "none")


def _jit(kernel: Callable[..., Any]) -> Any:
    """Compile, but not anew where 16 divides a number of rows or planes, or a group has one row, as Triton would.

    No load is wider for it, and what proves itself on a small read is then what runs on the real one.
    """
    if triton is None:
        return kernel
    general = {
        "do_not_specialize": ["rows"],
        "do_not_specialize_on_alignment": ["depth", "height", "in_depth", "in_height"],
    }
    known = signature(triton.jit).parameters  # older Triton has only the former
    return triton.jit(kernel, **{name: names for name, names in general.items() if name in known})


@_jit
def _linear(position, n_in, n_out, dtype: tl.constexpr):  # type: ignore[no-untyped-def]
    """The left of the two neighbours of a position, and the weight of the right one: (1), from exact integers."""
    numerator = tl.maximum((2 * position + tl.full([1], 1, tl.int32)) * n_in - n_out, 0)
    left = numerator // (2 * n_out)
    right_weight = (numerator - left * (2 * n_out)).to(dtype) / (2 * n_out)
    return left, tl.where(left < n_in - 1, right_weight, 0.0)


@_jit
def _aligned(source, channel, z_left, z_weight, y_left, y_weight, x, mask, in_depth, in_height, stride):  # type: ignore[no-untyped-def]
    """v_k at a block of positions, (channels, positions). A neighbour of weight zero is not loaded."""
    plane = in_height * stride
    here = source + channel[:, None] * (in_depth * plane) + (z_left * plane + y_left * stride + x)[None, :]
    z1, y1 = z_weight[None, :], y_weight[None, :]
    mask_y, mask_z = mask & (y1 > 0), mask & (z1 > 0)
    v = tl.load(here, mask=mask, other=0).to(z1.dtype) * (1 - y1)
    v += tl.load(here + stride, mask=mask_y, other=0).to(z1.dtype) * y1
    v_right = tl.load(here + plane, mask=mask_z, other=0).to(z1.dtype) * (1 - y1)
    v_right += tl.load(here + (plane + stride), mask=mask_z & mask_y, other=0).to(z1.dtype) * y1
    return v * (1 - z1) + v_right * z1


@_jit
def _score(v, query, share, eps):  # type: ignore[no-untyped-def]
    """l_k and rho_k, (positions); ``share`` is 1 / C."""
    rho = tl.rsqrt(tl.sum(v * v, 0) * share + eps)
    return tl.sum(v * query[:, None], 0) * rho, rho


@_jit
def _gradient(v, d_read, query, log_sum, delta, share, eps):  # type: ignore[no-untyped-def]
    """dv_k, (channels, positions), and n_k, (positions)."""
    score, rho = _score(v, query, share, eps)
    weight = tl.exp(score - log_sum)
    n = weight * (tl.sum(v * d_read, 0) - delta) * rho
    d_v = weight[None, :] * d_read - (n * score * rho * share)[None, :] * v + n[None, :] * query[:, None]
    return d_v, n


@_jit
def forward(  # type: ignore[no-untyped-def]
    direct,  # (B, C, positions), any pointer without HAS_DIRECT
    packed,
    table,  # for each source in ``packed``: where it starts, its depth, its height
    query,
    out,  # (B, channels before the read + C, positions)
    log_sum,  # (B, positions)
    n_packed,
    eps,
    channels: tl.constexpr,  # few, and all their masks fall away
    channels_before,
    depth,
    height,
    width,
    stride,  # of a row in ``packed``
    ALIGN: tl.constexpr,  # noqa: N803  # divides the width
    HAS_DIRECT: tl.constexpr,  # noqa: N803
    SKIP: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    y, z = row % height, row // height % depth
    sample = (row // height // depth).to(tl.int64)
    width = width // ALIGN * ALIGN  # so the compiler knows it: loads from maps are as wide as their rows allow
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    position = (z * height + y) * width + x
    positions = depth * height * width
    channel = tl.arange(0, BLOCK_C).to(tl.int64)
    mask = (channel < channels)[:, None] & (x < width)[None, :]
    packed_mask = (channel < channels)[:, None] & (x < stride)[None, :]
    q = tl.load(query + channel, mask=channel < channels, other=0)
    share = tl.full([1], 1, q.dtype) / channels
    tile = channel[:, None] * positions + position[None, :]
    direct += sample * channels * positions

    if HAS_DIRECT:
        total = tl.load(direct + tile, mask=mask, other=0).to(q.dtype)
        maximum, _ = _score(total, q, share, eps)
        denominator = tl.full([BLOCK], 1, q.dtype)
    else:
        total = tl.zeros([BLOCK_C, BLOCK], q.dtype)
        maximum = tl.full([BLOCK], float("-inf"), q.dtype)
        denominator = tl.zeros([BLOCK], q.dtype)
    for k in range(n_packed):
        start = tl.multiple_of(tl.load(table + 3 * k), 16)
        in_depth = tl.load(table + 3 * k + 1).to(tl.int32)
        in_height = tl.load(table + 3 * k + 2).to(tl.int32)
        source = packed + start + sample * channels * (in_depth * in_height * stride)
        z_left, z_weight = _linear(z, in_depth, depth, q.dtype)
        y_left, y_weight = _linear(y, in_height, height, q.dtype)
        v = _aligned(source, channel, z_left, z_weight, y_left, y_weight, x, packed_mask, in_depth, in_height, stride)
        score, _ = _score(v, q, share, eps)
        new_maximum = tl.maximum(maximum, score)
        shrink, weight = tl.exp(maximum - new_maximum), tl.exp(score - new_maximum)
        total = total * shrink[None, :] + v * weight[None, :]
        denominator = denominator * shrink + weight
        maximum = new_maximum

    read = total / denominator[None, :]
    if SKIP:
        read += tl.load(direct + tile, mask=mask, other=0).to(q.dtype)
    out += (sample * (channels_before + channels) + channels_before) * positions
    tl.store(out + tile, read.to(out.dtype.element_ty), mask=mask)
    tl.store(log_sum + sample * positions + position, maximum + tl.log(denominator), mask=x < width)


@_jit
def backward_positions(  # type: ignore[no-untyped-def]
    direct,
    packed,
    table,
    query,
    grad,  # (B, channels before the read + C, positions)
    log_sum,
    delta,  # written, (B, positions)
    d_direct,  # written, (B, C, positions)
    d_query,  # written, (programs, C)
    n_packed,
    eps,
    channels: tl.constexpr,  # few, and all their masks fall away
    channels_before,
    depth,
    height,
    width,
    stride,  # of a row in ``packed``
    ALIGN: tl.constexpr,  # noqa: N803  # divides the width
    HAS_DIRECT: tl.constexpr,  # noqa: N803
    SKIP: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """delta, and all there is to know of the direct source."""
    row = tl.program_id(0)
    y, z = row % height, row // height % depth
    sample = (row // height // depth).to(tl.int64)
    width = width // ALIGN * ALIGN  # so the compiler knows it: loads from maps are as wide as their rows allow
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    position = (z * height + y) * width + x
    positions = depth * height * width
    channel = tl.arange(0, BLOCK_C).to(tl.int64)
    mask = (channel < channels)[:, None] & (x < width)[None, :]
    packed_mask = (channel < channels)[:, None] & (x < stride)[None, :]
    q = tl.load(query + channel, mask=channel < channels, other=0)
    share = tl.full([1], 1, q.dtype) / channels
    tile = channel[:, None] * positions + position[None, :]
    grad += (sample * (channels_before + channels) + channels_before) * positions
    d_read = tl.load(grad + tile, mask=mask, other=0).to(q.dtype)
    log_sum_here = tl.load(log_sum + sample * positions + position, mask=x < width, other=0)

    delta_here = tl.zeros([BLOCK], q.dtype)
    for k in range(n_packed):
        start = tl.multiple_of(tl.load(table + 3 * k), 16)
        in_depth = tl.load(table + 3 * k + 1).to(tl.int32)
        in_height = tl.load(table + 3 * k + 2).to(tl.int32)
        source = packed + start + sample * channels * (in_depth * in_height * stride)
        z_left, z_weight = _linear(z, in_depth, depth, q.dtype)
        y_left, y_weight = _linear(y, in_height, height, q.dtype)
        v = _aligned(source, channel, z_left, z_weight, y_left, y_weight, x, packed_mask, in_depth, in_height, stride)
        score, _ = _score(v, q, share, eps)
        delta_here += tl.exp(score - log_sum_here) * tl.sum(v * d_read, 0)
    if HAS_DIRECT:
        here = sample * channels * positions + tile
        v = tl.load(direct + here, mask=mask, other=0).to(q.dtype)
        score, _ = _score(v, q, share, eps)
        delta_here += tl.exp(score - log_sum_here) * tl.sum(v * d_read, 0)
        d_v, n = _gradient(v, d_read, q, log_sum_here, delta_here, share, eps)
        if SKIP:
            d_v += d_read
        tl.store(d_direct + here, d_v.to(d_direct.dtype.element_ty), mask=mask)
        program = row.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
        tl.store(d_query + program * channels + channel, tl.sum(v * n[None, :], 1), mask=channel < channels)
    tl.store(delta + sample * positions + position, delta_here, mask=x < width)


@_jit
def _first(in_y, in_height, height):  # type: ignore[no-untyped-def]
    """The first row of the read whose left neighbour on the coarse axis is ``in_y`` or beyond it."""
    first = ((2 * in_y + 1) * height + in_height - 1) // (2 * in_height)
    return tl.where(in_y > 0, tl.minimum(first, height), 0)


@_jit
def _row(pointer, row, width, x):  # type: ignore[no-untyped-def]
    """Where the positions ``x`` of one row for each channel are, (channels, positions)."""
    return pointer + row.to(tl.int64)[:, None] * width + x[None, :]


@_jit
def _coarse_row(here, z_weight, mask, plane):  # type: ignore[no-untyped-def]
    """A row of a source between two planes, (channels, positions)."""
    z1 = z_weight[None, :]
    row = tl.load(here, mask=mask, other=0).to(z1.dtype) * (1 - z1)
    return row + tl.load(here + plane, mask=mask & (z1 > 0), other=0).to(z1.dtype) * z1


@_jit
def backward_source(  # type: ignore[no-untyped-def]
    source,  # (B, C, in_depth, in_height, stride)
    query,
    grad,
    log_sum,
    delta,
    d_rows,  # written, (B, C, depth, in_height, width)
    d_next,  # written, (B, C, depth, groups, width), what a group finds for the row behind it; with HAS_NEXT
    d_query,  # written, (programs, C)
    eps,
    channels: tl.constexpr,  # few, and all their masks fall away
    channels_before,
    in_depth,
    in_height,
    depth,
    height,
    width,
    stride,
    rows,  # of a group; one without HAS_NEXT
    HAS_NEXT: tl.constexpr,  # noqa: N803  # else no row of the read has a right neighbour
    ALIGN: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One source: the gradient of its aligned map, gathered along the middle axis.

    A program owns a group of coarse rows, and visits once each row y of the read that has one of them as its left
    neighbour; a coarse row is loaded once, too.
    """
    groups = tl.cdiv(in_height, rows)
    row = tl.program_id(0)
    group, z = row % groups, row // groups % depth
    sample = row // groups // depth
    width = width // ALIGN * ALIGN
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, BLOCK_C)
    mask = (channel < channels)[:, None] & (x < width)[None, :]
    packed_mask = (channel < channels)[:, None] & (x < stride)[None, :]
    q = tl.load(query + channel, mask=channel < channels, other=0)
    share = tl.full([1], 1, q.dtype) / channels

    z_left, z_weight = _linear(z, in_depth, depth, q.dtype)
    # numbers of rows: held across the loops they take half as many registers as pointers
    grad_row = ((sample * (channels_before + channels) + channels_before + channel) * depth + z) * height
    source_row = ((sample * channels + channel) * in_depth + z_left) * in_height
    d_row = ((sample * channels + channel) * depth + z) * in_height
    start = group * rows
    stop = tl.minimum(start + rows, in_height)
    left = _coarse_row(_row(source, source_row + start, stride, x), z_weight, packed_mask, in_height * stride)
    d_left = tl.zeros([BLOCK_C, BLOCK], q.dtype)
    d_q = tl.zeros([BLOCK_C], q.dtype)
    for in_y in range(start, stop):
        if HAS_NEXT:
            there = _row(source, source_row + in_y + 1, stride, x)
            right = _coarse_row(there, z_weight, packed_mask & (in_y + 1 < in_height), in_height * stride)
        else:
            right = tl.zeros([BLOCK_C, BLOCK], q.dtype)
        d_right = tl.zeros([BLOCK_C, BLOCK], q.dtype)
        for y in range(_first(in_y, in_height, height), _first(in_y + 1, in_height, height)):
            _, t = _linear(y, in_height, height, q.dtype)
            v = left * (1 - t)[None, :] + right * t[None, :]
            position = ((sample * depth + z) * height + y).to(tl.int64) * width + x
            d_read = tl.load(_row(grad, grad_row + y, width, x), mask=mask, other=0).to(q.dtype)
            log_sum_here = tl.load(log_sum + position, mask=x < width, other=0)
            delta_here = tl.load(delta + position, mask=x < width, other=0)
            # as _gradient, in the order that needs the fewest registers
            slope = tl.sum(v * d_read, 0) - delta_here
            score, rho = _score(v, q, share, eps)
            weight = tl.exp(score - log_sum_here)
            n = weight * slope * rho
            d_v = weight[None, :] * d_read - (n * score * rho * share)[None, :] * v + n[None, :] * q[:, None]
            d_left += (1 - t)[None, :] * d_v
            d_right += t[None, :] * d_v
            d_q += tl.sum(n[None, :] * v, 1)
        tl.store(_row(d_rows, d_row + in_y, width, x), d_left, mask=mask)
        left, d_left = right, d_right

    if HAS_NEXT:
        next_row = ((sample * channels + channel) * depth + z) * groups + group
        tl.store(_row(d_next, next_row, width, x), d_left, mask=mask)
    program = row.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    tl.store(d_query + program * channels + channel, d_q, mask=channel < channels)


def group_rows(in_height: int, height: int) -> int:
    """Coarse rows that a program of ``backward_source`` owns: few, so that there are enough programs.

    One where there are as many as in the read: none is a right neighbour, so that none is handed on to the next.
    """
    return 1 if in_height == height else max(1, min(4, in_height // 8))


ROW = 16  # rows in the packed buffer are padded to a multiple of so many numbers: all its loads have 128 bits


def row_stride(width: int) -> int:
    """Of a row in the packed buffer; what is behind the width are zeros."""
    return -(-width // ROW) * ROW


def blocks(channels: int, width: int) -> dict[str, int]:
    """About 2048 numbers in a tile, and no fewer than 16 positions: one sector of memory in half precision."""
    block_c = triton.next_power_of_2(channels)
    block = max(16, min(64, 2048 // block_c, triton.next_power_of_2(width)))
    found = {"ALIGN": gcd(width, 16), "BLOCK_C": block_c, "BLOCK": block}
    found["num_warps"] = 4 if block_c * block <= 4096 else 8
    # three programs a multiprocessor; left alone, ptxas spills a little to get four
    return found | {"maxnreg": 168} if block_c <= 64 else found
