"""What a read looks like to the operator: all that decides which path computes it fastest (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Positions of a small read along its axes, at most: so many rows that a program of the kernels owns several of a coarse
# source and hands on from one to the next, as on the real read.
_PLANES, _ROWS, _WIDTH = 8, 128, 512


@dataclass(frozen=True)
class ReadShape:
    """Dtype and shapes of one read.

    Attributes:
        dtype: of the widest map.
        batch: samples.
        channels: of the read.
        size: of the read, 2 or 3 axes.
        sources: of each map, its channels and its spatial size.
        direct: the indices of the maps without a projection.
        skip: the index of the source that is added to the read, or None.
        before: channels that stand before the read.
    """

    dtype: str
    batch: int
    channels: int
    size: tuple[int, ...]
    sources: tuple[tuple[int, ...], ...]
    direct: tuple[int, ...]
    skip: int | None
    before: int

    @classmethod
    def of(
        cls, pool: Sequence[Tensor], direct: Sequence[int], channels: int, skip: int | None, out: Tensor
    ) -> ReadShape:
        """Of the operator's arguments and its output (or that one's gradient)."""
        shapes = tuple(tuple(map(int, h.shape[1:])) for h in pool)
        dtype = str(max((h.dtype for h in pool), key=lambda d: d.itemsize)).removeprefix("torch.")
        before = int(out.shape[1]) - channels
        return cls(dtype, int(out.shape[0]), channels, tuple(out.shape[2:]), shapes, tuple(direct), skip, before)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ReadShape:
        """From ``dataclasses.asdict``, also after it has been JSON."""
        sources = tuple(map(tuple, values["sources"]))
        return cls(**{**values, "size": tuple(values["size"]), "sources": sources, "direct": tuple(values["direct"])})

    def small(self) -> ReadShape:
        """A read for a proof: real channels, dtype and row width (by 16, if it is long), but few positions."""
        *planes, rows, width = self.size
        while rows > _ROWS:  # halved, so that a coarse source has as many rows as one of the real sources
            rows = -(-rows // 2)
        limits = [*(min(n, _PLANES) for n in planes), rows, min(width, _WIDTH - -width % 16)]

        def shrunk(size: Sequence[int]) -> tuple[int, ...]:
            return tuple(max(1, -(-n * at // full)) for n, at, full in zip(size, limits, self.size, strict=True))

        sources = tuple((c, *shrunk(size)) for c, *size in self.sources)
        return replace(self, batch=2, size=tuple(limits), sources=sources)

    def tensors(self, device: torch.device) -> dict[str, Any]:
        """Random operands of such a read, and a gradient of its output; the parameters are float32 or wider."""
        generator = torch.Generator(device).manual_seed(0)
        dtype = getattr(torch, self.dtype)
        wide = torch.promote_types(dtype, torch.float32)

        def normal(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device).to(dtype)

        return {
            "pool": [normal(self.batch, *shape, dtype=dtype) for shape in self.sources],
            "projections": [
                None if k in self.direct else normal(self.channels, c, dtype=wide) / c**0.5
                for k, (c, *_) in enumerate(self.sources)
            ],
            "query": normal(self.channels, dtype=wide) / self.channels**0.5,
            "grad": normal(self.batch, self.before + self.channels, *self.size, dtype=dtype),
        }

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        return f"{self.channels} channels at {size}, batch {self.batch}, {len(self.sources)} sources, {self.dtype}"
