"""Resizing by even factors: then each output is the mean of the two central inputs of each axis, its taps (ours).

Exactly what linear interpolation with ``align_corners=False`` is there, for its fraction is one half: for a factor f
the taps of output i are f i + f/2 - 1 and f i + f/2. Nothing but slices: no products, no float32 copy of a whole map.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor


def even_factors(size_in: Sequence[int], size_out: Sequence[int]) -> list[int] | None:
    """By how much each axis shrinks; None unless each stays or shrinks by an even number, and one does."""
    factors = [n // m if n % m == 0 else 0 for n, m in zip(size_in, size_out, strict=True)]
    return factors if all(f == 1 or (f and f % 2 == 0) for f in factors) and max(factors) > 1 else None


def mean_of_taps(x: Tensor, factors: Sequence[int], out: Tensor) -> None:
    """Resize ``x``, (B, C, *spatial), into ``out``; sums are in float32 or wider, and rounded once."""
    if x.device.type == "cpu":
        _mean_in_slices(x, factors, out)
    else:
        _mean_at_once(x, factors, out)


def _mean_at_once(x: Tensor, factors: Sequence[int], out: Tensor) -> None:
    """A single kernel, which adds in float32."""
    taps, their_axes = _taps(x, factors)
    torch.mean(taps, their_axes, out=out)


def _mean_in_slices(x: Tensor, factors: Sequence[int], out: Tensor) -> None:
    """One axis after the other, the outermost first: a reduction over axes of two is slow on the CPU."""
    n_taps, total = 1, x
    for axis, f in enumerate(factors, start=2):
        if f > 1:
            first, second = _slices(total, axis, f)
            wide = first.to(torch.promote_types(x.dtype, torch.float32))
            total = torch.add(wide, second) if wide is first else wide.add_(second)
            n_taps *= 2
    torch.mul(total, 1 / n_taps, out=out)


def add_to_taps(grads: Sequence[Tensor], factors: Sequence[Sequence[int]], out: Tensor) -> None:
    """Write the gradient of resizing a map like ``out`` to each of several maps: a share of each to its taps.

    It is added up in the dtype of ``out``, and yet in half precision no sum is rounded twice where the factors are
    powers of two: factors of 4, 8, 16, ... share no taps.
    """
    in_order = sorted(zip(grads, factors, strict=True), key=lambda pair: max(pair[1]))
    add = _add_in_slices if out.device.type == "cpu" else _add_at_once
    for k, (grad, f) in enumerate(in_order):
        covers = k == 0 and max(f) == 2
        if k == 0 and not covers:
            out.zero_()
        add(grad, f, out, covers)


def _add_at_once(grad: Tensor, factors: Sequence[int], out: Tensor, covers: bool) -> None:
    taps, their_axes = _taps(out, factors)
    for axis in their_axes:
        grad = grad.unsqueeze(axis)
    share = 0.5 ** sum(f > 1 for f in factors)
    if covers:
        torch.mul(grad.expand_as(taps), share, out=taps)
    else:
        taps.add_(grad, alpha=share)


def _add_in_slices(grad: Tensor, factors: Sequence[int], out: Tensor, covers: bool) -> None:
    """The last axis first, then whole rows."""
    grad = grad * 0.5 ** sum(f > 1 for f in factors)
    last = len(factors) + 1
    if factors[-1] > 1:
        rows = grad.new_empty(*grad.shape[:-1], out.shape[-1])
        if factors[-1] > 2:
            rows.zero_()
        for taps in _slices(rows, last, factors[-1]):
            taps.copy_(grad)
        grad = rows
    for taps in _each_tap(out, factors[:-1]):
        taps.copy_(grad) if covers else taps.add_(grad)


def _taps(x: Tensor, factors: Sequence[int]) -> tuple[Tensor, list[int]]:
    """A view of ``x`` with one axis of two taps more behind each that shrinks, and those axes."""
    axis, their_axes = 2, []
    for f in factors:
        if f > 1:
            x = x.unflatten(axis, (-1, f)).narrow(axis + 1, f // 2 - 1, 2)
            their_axes.append(axis + 1)
        axis += 1 + (f > 1)
    return x, their_axes


def _slices(x: Tensor, axis: int, factor: int) -> tuple[Tensor, Tensor]:
    """The first and the second taps along an axis."""
    taps = x.unflatten(axis, (-1, factor))
    return taps.select(axis + 1, factor // 2 - 1), taps.select(axis + 1, factor // 2)


def _each_tap(x: Tensor, factors: Sequence[int]) -> Iterator[Tensor]:
    """Every combination of taps of the first spatial axes."""
    for second in product(*[(0, 1) if f > 1 else (0,) for f in factors]):
        taps = x
        for axis, (f, k) in enumerate(zip(factors, second, strict=True), start=2):
            taps = _slices(taps, axis, f)[k] if f > 1 else taps
        yield taps
