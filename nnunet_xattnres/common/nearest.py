"""Tensors at another size, by their nearest positions."""

import torch
from torch import Tensor


def nearest(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """``x``, (..., *old size), at another size: the nearest positions, of any type of numbers."""
    first = x.ndim - len(size)
    for axis, n in enumerate(size, start=first):
        if x.shape[axis] != n:
            at = (torch.arange(n, device=x.device) + 0.5) * (x.shape[axis] / n)
            x = x.index_select(axis, at.long())
    return x
