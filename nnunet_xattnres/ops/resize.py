"""Linear resize (align_corners=False) as separable small banded matrices, one for each axis (ours).

On the CPU this is several times faster than ``F.interpolate``. The gradient is a product with the transposed matrices:
there are no scattered additions, so it is the same bits every time on every device. Even factors need no matrices: see
``taps.py``.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.common.autocast import without_autocast
from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.arguments import check_resize
from nnunet_xattnres.ops.capture import transformed_gradient
from nnunet_xattnres.ops.taps import add_to_taps, even_factors, mean_of_taps

# Outputs of a band: wider ones multiply more zeros, narrower ones are more matrix products, each a launch on a GPU.
_BAND = {"cpu": 64}
_BAND_ELSEWHERE = 256


def axis_matrix(n_in: int, n_out: int) -> Tensor:
    """The matrix (n_out, n_in), float64, of ``F.interpolate`` along an axis from n_in to n_out positions.

    It is not kept: a mode such as FakeTensorMode may be active, and would then be in every later read.
    """
    with torch.inference_mode(False), torch.no_grad():
        position = ((torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out) - 0.5).clamp(0, n_in - 1)
        left = position.long()
        right = (left + 1).clamp(max=n_in - 1)
        outputs, fraction = torch.arange(n_out), position - left
        matrix = torch.zeros(n_out, n_in, dtype=torch.float64)
        matrix[outputs, left] = 1 - fraction
        matrix[outputs, right] += fraction
        return matrix


@lru_cache(maxsize=16384)
def band(
    n_in: int, n_out: int, outputs: tuple[int, int], dtype: torch.dtype, device: torch.device, adjoint: bool = False
) -> tuple[slice, Tensor]:
    """A range of the outputs of an axis's matrix, or of its transpose: the gradient of an axis from n_out to n_in.

    It looks at the numbers of the matrix, so it fails where they are fake, and keeps nothing of them.

    Returns:
        The inputs that these outputs depend on, and the weights, (outputs, inputs).
    """
    with torch.inference_mode(False), torch.no_grad():  # what is kept here serves training, too
        matrix = axis_matrix(n_out, n_in).T if adjoint else axis_matrix(n_in, n_out)
        rows = matrix[slice(*outputs)]
        used = rows.any(dim=0).nonzero().flatten().tolist() or [0]  # a coarser map can skip inputs
        inputs = slice(used[0], used[-1] + 1)
        return inputs, rows[:, inputs].contiguous().to(dtype).to(device)


def resize_axis(
    x: Tensor, axis: int, size: int, adjoint: bool = False, add_to: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Resize one axis of ``x`` to ``size`` positions; with ``adjoint`` the gradient of resizing it *from* ``size``.

    The result is added to ``add_to`` in place, if that is given, and the axis is not the last one then; it is written
    to ``out``, if that is given.
    """
    n = x.shape[axis]
    if n == size:
        if out is not None:
            return out.copy_(x)
        return x if add_to is None else add_to.add_(x)
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    if add_to is not None:
        out = add_to
    elif out is None:
        out = x.new_empty(*x.shape[:axis], size, *x.shape[axis + 1 :])
    planes, out_planes = x.reshape(outer, n, inner), out.view(outer, size, inner)
    width = _BAND.get(x.device.type, _BAND_ELSEWHERE)
    for start in range(0, size, width):
        stop = min(start + width, size)
        inputs, weights = band(n, size, (start, stop), x.dtype, x.device, adjoint)
        if add_to is not None:
            out_planes[:, start:stop].baddbmm_(weights.expand(outer, -1, -1), planes[:, inputs])
        elif inner == 1:
            torch.mm(planes[:, inputs, 0], weights.T, out=out_planes[:, start:stop, 0])
        else:
            torch.bmm(weights.expand(outer, -1, -1), planes[:, inputs], out=out_planes[:, start:stop])
    return out


def _cheapest_order(size_in: Sequence[int], size_out: Sequence[int]) -> list[int]:
    """The axes that shrink first, the outermost before the inner ones; then those that grow, the other way round."""
    axes = range(len(size_in))
    return [i for i in axes if size_in[i] > size_out[i]] + [i for i in reversed(axes) if size_in[i] <= size_out[i]]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.library.custom_op(
    "nnunet_xattnres::resize",
    mutates_args=(),
    schema="(Tensor x, SymInt[] sizes) -> Tensor[]",
)
def _resize(x: Tensor, sizes: list[int]) -> list[Tensor]:
    results = _resize_fake(x, sizes)
    with without_autocast(x.device.type):
        for result in results:
            size = result.shape[2:]
            if factors := even_factors(x.shape[2:], size):
                mean_of_taps(x, factors, result)
                continue
            for sample, target in zip(x, result, strict=True):  # one by one: only one is widened at a time
                sample = _wide(sample)
                for axis in _cheapest_order(x.shape[2:], size):
                    sample = resize_axis(sample, axis + 1, size[axis])
                target.copy_(sample)
    return results


@_resize.register_fake
def _resize_fake(x: Tensor, sizes: list[int]) -> list[Tensor]:
    n_axes = x.ndim - 2
    return [x.new_empty(*x.shape[:2], *sizes[i : i + n_axes]) for i in range(0, len(sizes), n_axes)]


@torch.library.custom_op(
    "nnunet_xattnres::resize_backward",
    mutates_args=(),
    schema="(Tensor[] grads, SymInt[] size) -> Tensor",
)
def _resize_backward(grads: list[Tensor], size: list[int]) -> Tensor:
    result = _resize_backward_fake(grads, size)
    factors = [found for grad in grads if (found := even_factors(size, grad.shape[2:]))]
    if len(factors) == len(grads):
        add_to_taps(grads, factors, result)
        return result
    with without_autocast(result.device.type):
        for b, target in enumerate(result):
            total = _wide(target).zero_()
            for grad in grads:
                sample = _wide(grad[b])
                for axis in range(len(size) - 1, 0, -1):
                    sample = resize_axis(sample, axis + 1, size[axis], adjoint=True)
                resize_axis(sample, 1, size[0], adjoint=True, add_to=total)
            if total is not target:
                target.copy_(total)
    return result


@_resize_backward.register_fake
def _resize_backward_fake(grads: list[Tensor], size: list[int]) -> Tensor:
    return grads[0].new_empty(*grads[0].shape[:2], *size)


def _save_size(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.size = list(inputs[0].shape[2:])


def _backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor, None]:
    # a map whose size alone is not asked for has a gradient of zeros, which is no batched one
    compute = _transposed if any(map(transformed_gradient, grads)) else _resize_backward
    return compute(grads, ctx.size), None


def _transposed(grads: list[Tensor], size: list[int]) -> Tensor:
    """What ``_resize_backward`` computes, with torch's own operators."""
    total: Any = 0
    for grad in map(_wide, grads):
        for axis, n in enumerate(size, start=2):
            matrix = axis_matrix(n, grad.shape[axis]).to(grad.device, grad.dtype)
            grad = (grad.movedim(axis, -1) @ matrix).movedim(-1, axis)
        total = total + grad
    return total.to(grads[0].dtype)


def _save_sizes(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.sizes = [grad.shape[2:] for grad in inputs[0]]


def _backward_of_backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None]:
    """The transpose of the transpose is the resize itself."""
    return reference.resize_to_each(grad, ctx.sizes) if transformed_gradient(grad) else resize_to_each(
        grad, ctx.sizes
    ), None


_resize.register_autograd(_backward, setup_context=_save_size)
_resize_backward.register_autograd(_backward_of_backward, setup_context=_save_sizes)


def resize_to_each(x: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Resize ``x``, (B, C, *spatial), to each of several sizes; in the backward the gradients meet in one map.

    Args:
        x: a map of 2 or 3 spatial axes and any floating dtype.
        sizes: spatial sizes, as many axes each.

    Returns:
        A map (B, C, *size) for each size, in the dtype of ``x``; computed in float32 or wider.

    Raises:
        ValueError: for what cannot be resized.
    """
    check_resize(x, sizes)
    return _resize(x, [n for size in sizes for n in size]) if sizes else []


def resized_first(h: Tensor, projection: Tensor | None, size: Sequence[int]) -> Tensor:
    """A source of a read as it is aligned from here on: at ``size`` if it is finer, or has no projection."""
    finer = h.shape[2:].numel() > torch.Size(size).numel()
    if finer or (projection is None and tuple(h.shape[2:]) != tuple(size)):
        return _resize(h, list(size))[0]
    return h
