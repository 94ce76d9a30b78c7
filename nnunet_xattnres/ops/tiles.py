"""A tiled read of a batch: its tiles, and all sources aligned with one of them (ours)."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from nnunet_xattnres.ops.shapes import ReadShape
from nnunet_xattnres.ops.sources import DirectSource, ProjectedSource, Tile, cut

# Numbers of one aligned map in a tile: on a CPU few enough for the cache, and so many that the calls cost little.
# On a GPU a tile is many times the cache, and the fewer the calls the better, as long as there is memory for it.
_TILE = {"cpu": 2**19}
_TILE_ELSEWHERE = 2**24
SMALL_TILE = 2**22
_IN_CACHE = {
    "cpu"
}  # where a source is aligned and reduced before the next one; elsewhere as many as possible by one call
_ROWS = 8  # of a tile with a middle axis: neighbouring tiles resize the same source rows again


class Part(NamedTuple):
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


class Tiling(NamedTuple):
    """How a read is cut.

    Attributes:
        samples: that are computed at once.
        tiles: of their positions.
        groups: of sources, whose products are written before they are added.
    """

    samples: list[slice]
    tiles: list[Tile]
    groups: list[slice]


def tiling(
    batch: int,
    channels: int,
    size: Sequence[int],
    n_sources: int,
    device: torch.device,
    numbers: int | None = None,
) -> Tiling:
    """How a read, (batch, channels, *size), is cut on a device.

    Args:
        numbers: of one aligned map in a tile, at most; the device may take fewer.
    """
    n_rows, n_middle, n_columns = size[0], prod(size[1:-1]), size[-1]
    usual = numbers_of_a_tile(device, n_sources)
    numbers = min(numbers or usual, usual)
    positions = max(1, numbers // ((channels + 1) * n_columns))  # of the samples, rows and the middle axis
    samples = cut(batch, max(1, positions // (n_rows * n_middle)))
    middle = min(n_middle, max(1, positions // min(n_rows, _ROWS)))
    parts = product(cut(n_rows, max(1, positions // middle)), cut(n_middle, middle))
    tiles = [Tile(*part) for part in parts]
    together = max(1, 2 * numbers // max(1, _most_positions(samples, tiles) * channels * n_columns))
    return Tiling(samples, tiles, cut(n_sources, 1 if device.type in _IN_CACHE else together))


def small_tiles_differ(shape: ReadShape, device: torch.device) -> bool:
    """Whether a read is cut otherwise by small tiles: not where it is small itself, or the device takes no others."""
    read = shape.batch, shape.channels, shape.size, len(shape.sources), device
    return tiling(*read, SMALL_TILE) != tiling(*read)


class TiledRead:
    """One read of a batch: its tiles, and its sources for some samples after the other."""

    def __init__(
        self,
        pool: Sequence[Tensor],
        projections: Sequence[Tensor],
        size: Sequence[int],
        eps: float,
        numbers: int | None = None,
    ) -> None:
        self.pool, self.projections = pool, projections
        self.channels, self.dtype = read_channels(projections), projections[0].dtype
        self.eps = self.channels * eps
        self.size = size[0], prod(size[1:-1]), size[-1]
        device = pool[0].device
        cuts = tiling(len(pool[0]), self.channels, size, len(pool), device, numbers)
        self.samples, self.tiles, self.groups = cuts
        self.one_by_one = device.type in _IN_CACHE
        self.groups_in_place = self.groups if self.one_by_one else [slice(0, len(pool))]
        # all aligned maps and some of C channels: allocated once, fresh memory is slow
        n_numbers = len(pool) * (self.channels + 1) + max(map(_length, self.groups)) * self.channels
        n_numbers *= _most_positions(self.samples, self.tiles) * self.size[2]
        self.buffer = pool[0].new_empty(n_numbers, dtype=self.dtype)

    def sources(self, samples: slice) -> list[DirectSource | ProjectedSource]:
        return [
            DirectSource(h, p) if p.ndim == 1 else ProjectedSource(h, p, self.size)
            for h, p in zip((samples_of(h, samples) for h in self.pool), self.projections, strict=True)
        ]

    def align(
        self, sources: Sequence[DirectSource | ProjectedSource], tile: Tile, d_read: Tensor | None = None
    ) -> Part:
        """Align all sources with a tile, and reduce each over its channels while it is in the cache."""
        shape = _length(tile.rows), _length(tile.middle), self.channels, sources[0].samples * self.size[2]
        scratch = self.buffer[: max(map(_length, self.groups)) * prod(shape)].view(-1, *shape)
        aligned = self.buffer[scratch.numel() :][: len(sources) * (prod(shape) + prod(shape) // self.channels)]
        aligned = aligned.view(len(sources), *shape[:2], self.channels + 1, shape[3])
        values, numerator = aligned[..., :-1, :], aligned[..., -1, :]
        squares, d_weights = aligned.new_empty(2, *numerator.shape)
        for group in self.groups:
            for source, out in zip(sources[group], aligned[group], strict=True):
                source.align(tile, out)
            some, products = values[group], scratch[: _length(group)]
            if self.one_by_one:
                torch.sum(torch.mul(some, some, out=products), 3, out=squares[group])
            if d_read is not None:
                torch.sum(torch.mul(some, d_read, out=products), 3, out=d_weights[group])
        if not self.one_by_one:
            torch.linalg.vector_norm(values, dim=3, out=squares).square_()  # reads the maps once, and writes none
        return Part(aligned, values, numerator, squares.add_(self.eps).rsqrt_(), d_weights, scratch[0])


def numbers_of_a_tile(device: torch.device, n_sources: int) -> int:
    """Of one aligned map. On CUDA all maps of a large tile are in float32 at most a sixteenth of the GPU's memory.

    Of all its memory, not of what is free: the same GPU computes the same bits every time.
    """
    numbers = _TILE.get(device.type, _TILE_ELSEWHERE)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        return numbers if 16 * 4 * (n_sources + 2) * numbers <= memory else SMALL_TILE
    return numbers


def read_channels(projections: Sequence[Tensor]) -> int:
    p = projections[0]
    return len(p) if p.ndim == 1 else len(p) - 1


def samples_of(x: Tensor, samples: slice) -> Tensor:
    """(B, C, rows, [middle,] columns) as (C, rows, middle, samples, columns)."""
    x = x[samples]
    return (x.unsqueeze(3) if x.ndim == 4 else x).permute(1, 2, 3, 0, 4)


def _most_positions(samples: Sequence[slice], tiles: Sequence[Tile]) -> int:
    """Of a tile, but for its columns."""
    return max(map(_length, samples), default=0) * max(prod(map(_length, tile)) for tile in tiles)


def _length(part: slice) -> int:
    return part.stop - part.start
