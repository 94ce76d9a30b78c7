"""The sources of a tiled read: how some samples of a map are aligned with a tile of the read, and the way back (ours).

They are seen as (channels, rows, middle, samples, columns), in a tile as (rows, middle, channels, samples * columns).
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_xattnres.ops.resize import band, resize_axis

_PART = 2**22  # numbers of a map in half precision that stand there in float32 at a time


class Tile(NamedTuple):
    """Some rows and middle positions of the target, with all of its columns."""

    rows: slice
    middle: slice


class DirectSource:
    """A map that is read as it is.

    Args:
        h: (C, rows, middle, samples, columns).
        query: q, (C).
    """

    def __init__(self, h: Tensor, query: Tensor) -> None:
        self.h, self.query, self.samples = h, query, h.shape[3]

    def align(self, tile: Tile, out: Tensor) -> None:
        """Write the aligned map and <q, v> into ``out``, (rows, middle, C + 1, samples * columns)."""
        values, numerator = out[..., :-1, :], out[..., -1, :]
        values.unflatten(3, self.h.shape[3:]).copy_(self._part(tile))
        numerator.copy_(torch.matmul(self.query, values))

    def start_backward(self, d_h: Tensor, d_query: Tensor) -> None:
        """The gradient of the map will be written to ``d_h``, that of the query added to ``d_query``."""
        self.d_h, self.d_query = d_h, d_query

    def collect(self, tile: Tile, d_out: Tensor) -> None:
        """Take the gradient of what ``align`` wrote."""
        d_values, d_numerator = d_out[..., :-1, :], d_out[..., -1:, :]
        d_h = torch.addcmul(d_values, self.query.unsqueeze(1), d_numerator)
        self.d_h[:, tile.rows, tile.middle] = d_h.unflatten(3, self.h.shape[3:]).permute(2, 0, 1, 3, 4)
        values = self._part(tile).flatten(3).to(d_out.dtype)
        self.d_query += torch.matmul(values, d_numerator.transpose(2, 3)).sum((0, 1)).squeeze(1)

    def finish_backward(self) -> None:
        """Nothing is left to do once all tiles are collected."""

    def _part(self, tile: Tile) -> Tensor:
        return self.h[:, tile.rows, tile.middle].permute(1, 2, 0, 3, 4)


class ProjectedSource:
    """A map of any size, projected at its own resolution.

    Args:
        h: (C_k, rows, middle, samples, columns).
        projection: P_k and below it q^T P_k, (C + 1, C_k).
        size: rows, middle and columns of the target.
    """

    def __init__(self, h: Tensor, projection: Tensor, size: Sequence[int]) -> None:
        narrow, n_rows = h.dtype != projection.dtype, h.shape[1]
        self.h, self.projection = h if narrow else h.contiguous(), projection
        self.size, self.samples = size, h.shape[3]
        self.parts = cut(n_rows, max(1, _PART * n_rows // h.numel()) if narrow else n_rows)  # of its rows
        # (rows, middle, C + 1, samples, columns)
        self.projected = projection.new_empty(n_rows, h.shape[2], len(projection), *h.shape[3:])
        for rows in self.parts:
            projected = torch.mm(projection, self._wide(rows)).unflatten(1, (-1, *h.shape[2:]))
            self.projected[rows] = projected.permute(1, 2, 0, 3, 4)

    def align(self, tile: Tile, out: Tensor) -> None:
        """Write the aligned map and <q, v> into ``out``, (rows, middle, C + 1, samples * columns)."""
        (rows, row_weights), (middle, middle_weights) = self._bands(tile)
        part = resize_axis(self.projected[rows, middle], 4, self.size[2])
        if middle_weights is not None:
            part = torch.bmm(middle_weights.expand(len(part), -1, -1), part.flatten(2))
        if row_weights is None:
            out.copy_(part.view_as(out))
        else:
            torch.mm(row_weights, part.flatten(1), out=out.flatten(1))

    def start_backward(self, d_h: Tensor, d_projection: Tensor) -> None:
        """The gradient of the map will be written to ``d_h``, that of the projection added to ``d_projection``."""
        self.d_h, self.d_projection = d_h, d_projection
        self.d_projected: Tensor | None = None

    def collect(self, tile: Tile, d_out: Tensor) -> None:
        """Take the gradient of what ``align`` wrote."""
        (rows, row_weights), (middle, middle_weights) = self._bands(tile)
        if row_weights is not None:
            d_out = torch.mm(row_weights.T, d_out.flatten(1)).view(-1, *d_out.shape[1:])
        if middle_weights is not None:
            weights = middle_weights.T.expand(len(d_out), -1, -1)
            d_out = torch.bmm(weights, d_out.flatten(2)).unflatten(2, d_out.shape[2:])
        d_out = d_out.unflatten(3, (self.samples, -1))
        d_projected = resize_axis(d_out, 4, self.projected.shape[4], adjoint=True)
        if self.d_projected is None and d_projected.shape == self.projected.shape:
            self.d_projected = d_projected  # there is one tile only
            return
        if self.d_projected is None:
            self.d_projected = torch.zeros_like(self.projected)
        self.d_projected[rows, middle].add_(d_projected)

    def finish_backward(self) -> None:
        """All tiles are collected: what remains is the gradient of the projection."""
        assert self.d_projected is not None
        d_projected = self.d_projected.permute(2, 0, 1, 3, 4).flatten(1)
        if self.d_h.is_contiguous() and self.d_h.dtype == d_projected.dtype:
            torch.mm(self.projection.T, d_projected, out=self.d_h.flatten(1))
        else:
            self.d_h.copy_(torch.mm(self.projection.T, d_projected).view_as(self.d_h))
        row = self.h.shape[2:].numel()
        for rows in self.parts:
            self.d_projection.addmm_(d_projected[:, rows.start * row : rows.stop * row], self._wide(rows).T)

    def _wide(self, rows: slice) -> Tensor:
        """Some rows in the dtype of the projection, (C_k, positions)."""
        part = self.h[:, rows]
        return part.to(self.projection.dtype, memory_format=torch.contiguous_format).flatten(1)

    def _bands(self, tile: Tile) -> list[tuple[slice, Tensor | None]]:
        """What a tile depends on along the rows and the middle axis, and the weights; None where nothing is resized."""
        like = self.projected.dtype, self.projected.device
        return [
            (part, None) if n == n_out else band(n, n_out, (part.start, part.stop), *like)
            for n, n_out, part in zip(self.projected.shape, self.size, tile, strict=False)
        ]


def cut(n: int, at_most: int) -> list[slice]:
    """The range of n in parts that differ by one at most."""
    n_parts = ceil(n / at_most)
    return [slice(i * n // n_parts, (i + 1) * n // n_parts) for i in range(n_parts)]
