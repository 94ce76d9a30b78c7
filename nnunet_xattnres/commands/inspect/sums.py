"""Running sums from which the means and the spreads of a network's weights follow."""

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 2**16  # positions at a time: in the cache


@dataclass(frozen=True)
class Sums:
    """Over the positions of one label, each counted by its importance.

    Attributes:
        row: (2 N + 2), float64, of ``sums_of``: of each source's weight, of its square, of the entropy in nats, and of
            the importance.
    """

    row: Tensor

    @property
    def importance(self) -> float:
        return self.row[-1].item()

    @property
    def mean(self) -> Tensor:
        """The mean weight of each source, (N); NaN without any position."""
        return self.row[: len(self.row) // 2 - 1] / self.row[-1]

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each source's weight over the positions, (N)."""
        square = self.row[len(self.row) // 2 - 1 : -2] / self.row[-1]
        return (square - self.mean.square()).clamp(min=0).sqrt()

    @property
    def mean_entropy(self) -> float:
        """The mean over the positions; log N where all sources weigh the same, NaN without any position."""
        return (self.row[-2] / self.row[-1]).item()


def sums_of(weights: Tensor, importance: Tensor, labels: Tensor, n_labels: int) -> Tensor:
    """The sums over the positions of every label, in one pass; how many labels there are costs nothing.

    Args:
        weights: (N, *size).
        importance: how much each position counts, (*size).
        labels: one or several maps of labels, (maps, *size), with integers from 0 to ``n_labels - 1``.

    Returns:
        (maps, n_labels, 2 N + 2), float64, on the CPU: the rows of ``Sums``; they may be added up over patches.
    """
    if weights.device.type == "mps":  # it has no float64
        weights, importance, labels = weights.cpu(), importance.cpu(), labels.cpu()
    a, counts, maps = weights.flatten(1).float(), importance.flatten().float(), labels.flatten(1)
    total = torch.zeros(len(maps), 2 * len(a) + 2, n_labels, dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], _CHUNK):
        here = slice(start, start + _CHUNK)
        part = a[:, here]
        entropy = -torch.special.xlogy(part, part).sum(0, keepdim=True)
        values = (torch.cat((part, part.square(), entropy, torch.ones_like(entropy))) * counts[here]).double()
        for sums, where in zip(total, maps[:, here], strict=True):
            sums.index_add_(1, where.long(), values)
    return total.transpose(1, 2).cpu()
