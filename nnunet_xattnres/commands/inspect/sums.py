"""Running sums from which the means and the spreads of a network's weights follow."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 2**16  # positions at a time: in the cache, and few enough for sums in single precision


@dataclass(frozen=True)
class Sums:
    """Over positions, each counted by its importance.

    Attributes:
        weight, square: of each source, (N), float64.
        entropy: of the weights at a position, in nats.
        importance: of all positions.
    """

    weight: Tensor
    square: Tensor
    entropy: float
    importance: float

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.weight + other.weight,
            self.square + other.square,
            self.entropy + other.entropy,
            self.importance + other.importance,
        )

    @property
    def mean(self) -> Tensor:
        """The mean weight of each source, (N); NaN without any position."""
        return self.weight / self.importance

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each source's weight over the positions, (N)."""
        return (self.square / self.importance - self.mean.square()).clamp(min=0).sqrt()

    @property
    def mean_entropy(self) -> float:
        """The mean over the positions; log N where all sources weigh the same."""
        return self.entropy / self.importance if self.importance else float("nan")


def sums_of(weights: Tensor, importance: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Sums]:
    """The sums over all positions, as ``"all"``, and over those of each mask.

    Args:
        weights: (N, *size).
        importance: how much each position counts, (*size).
        masks: of regions, (*size), by name.
    """
    n = len(weights)
    a, counts = weights.flatten(1).float(), importance.flatten().float()
    regions = torch.stack([counts, *(counts * mask.flatten() for mask in masks.values())])  # (regions, positions)
    total = torch.zeros(len(regions), 2 * n + 2, dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], _CHUNK):
        part, weight = a[:, start : start + _CHUNK], regions[:, start : start + _CHUNK]
        entropy = -torch.special.xlogy(part, part).sum(0, keepdim=True)
        total += weight @ torch.cat((part, part.square(), entropy, torch.ones_like(entropy))).T
    names = ("all", *masks)
    return {
        name: Sums(row[:n], row[n : 2 * n], row[-2].item(), row[-1].item())
        for name, row in zip(names, total.cpu(), strict=True)
    }
