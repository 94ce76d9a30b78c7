"""What a read costs in multiply-adds, for torch's own FlopCounterMode (ours).

A projection multiplies each position of its map by C + 1 rows, for the query is taken through it beforehand. Squares
and sums are two products of C numbers for each source at each position of the read. The backward aligns the sources
again, and has two products more of the projections' size and four of C numbers. Resizing and softmax are not counted.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

Shapes = Sequence[Sequence[int]]


def register() -> None:
    """For the operators of a read.

    Not by ``register_flop_formula``: in torch 2.4 it registers overloads, which the counter does not look up.
    """
    flop_registry[torch.ops.nnunet_xattnres.history_read] = shape_wrapper(_forward)
    flop_registry[torch.ops.nnunet_xattnres.history_read_backward] = shape_wrapper(_backward)


def _forward(
    pool: Shapes, projections: Shapes, query: Sequence[int], below: Any, direct: Sequence[int], *_: Any, **options: Any
) -> int:
    """Two for each multiply-add; the arguments are the operator's, of each tensor its shape."""
    batch, _, *size = options["out_shape"][0]
    return 2 * (_projecting(pool, direct, *query) + len(pool) * 2 * query[0] * batch * prod(size))


def _backward(
    grad: Any,
    log_sum: Sequence[int],
    pool: Shapes,
    projections: Any,
    query: Sequence[int],
    direct: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    return 2 * (3 * _projecting(pool, direct, *query) + len(pool) * 4 * query[0] * prod(log_sum))


def _projecting(pool: Shapes, direct: Sequence[int], channels: int) -> int:
    projected = [h for k, h in enumerate(pool) if k not in direct]
    return sum(c * (batch * prod(size) * (channels + 1) + channels) for batch, c, *size in projected)
