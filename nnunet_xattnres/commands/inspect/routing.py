"""What a trained network reads: the mean weight of every source in every read, over images and within labels."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.commands.inspect.sums import Sums, sums_of
from nnunet_xattnres.common.files import replacing

ALL = "all"


class RoutingWatcher:
    """Sums the weights of the reads, patch by patch; its size does not depend on the images'.

    Every position of every patch counts with nnU-Net's Gaussian. A label's region is where the network's own output for
    the patch has it, brought to the size of the read (the nearest position).

    Attributes:
        sums: by the name of the read and of the region.
    """

    def __init__(self, label_manager: Any, names: dict[str, str]) -> None:
        self.labels, self.names = label_manager, names
        self.sums: dict[tuple[str, str], Sums] = {}
        self._here: dict[tuple[str, str], Sums] = {}

    def start(self, image: Tensor) -> None:
        self._here = {}

    def patch(self, place: tuple[Any, ...], importance: Tensor, logits: Tensor, weights: dict[str, Tensor]) -> None:
        masks = self._masks(logits)
        at: dict[tuple[int, ...], tuple[Tensor, dict[str, Tensor]]] = {}
        for name, a in weights.items():
            size = tuple(a.shape[1:])
            if size not in at:
                small = _nearest(torch.stack([importance, *masks.values()]), size)
                at[size] = small[0], dict(zip(masks, small[1:], strict=True))
            for region, sums in sums_of(a, *at[size]).items():
                _add(self._here, (name, region), sums)

    def end(self) -> None:
        for key, sums in self._here.items():
            _add(self.sums, key, sums)

    def _masks(self, logits: Tensor) -> dict[str, Tensor]:
        """The regions in a patch, (*patch), float, by name."""
        if self.labels.has_regions:
            keys = [str(region) for region in self.labels.foreground_regions]
            masks = (logits > 0).float()  # a sigmoid over one half
        else:
            keys = [str(label) for label in self.labels.all_labels]
            masks = F.one_hot(logits.argmax(0), len(keys)).movedim(-1, 0).float()
        return {self.names.get(key, key): mask for key, mask in zip(keys, masks, strict=True)}


def _nearest(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return x if tuple(x.shape[1:]) == size else F.interpolate(x[None], size=size, mode="nearest-exact")[0]


def _add(sums: dict[tuple[str, str], Sums], key: tuple[str, str], more: Sums) -> None:
    sums[key] = sums[key] + more if key in sums else more


def routing_rows(sums: dict[tuple[str, str], Sums], sources: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One row for each region, read and source; a region without any position has no rows."""
    return [
        {
            "region": region,
            "read": read,
            "source": source,
            "mean_weight": mean,
            "std_over_positions": deviation,
            "uniform_weight": 1 / len(sources[read]),
            "entropy": s.mean_entropy,
            "uniform_entropy": math.log(len(sources[read])),
        }
        for region in dict.fromkeys(region for _, region in sums)
        for read in sources
        if (s := sums[read, region]).importance
        for source, mean, deviation in zip(sources[read], s.mean.tolist(), s.deviation.tolist(), strict=True)
    ]


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a CSV file, and beside it the same as JSON."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
