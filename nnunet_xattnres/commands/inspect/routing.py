"""What a trained network reads: the mean weight of every source in every read, over images and within labels."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.commands.inspect.sums import Sums, sums_of
from nnunet_xattnres.common.files import open_table, replacing
from nnunet_xattnres.common.nearest import nearest

ALL = "all"  # no label's key in a summary.json: those are numbers, "1", and tuples of them, "(1, 2)"


class RoutingWatcher:
    """Sums the weights of the reads, patch by patch: in a size that no image changes, at a cost that no label does.

    Every position of every patch counts with nnU-Net's Gaussian. A label's region is where the network's own output for
    the patch has it, brought to the size of the read (the nearest position).

    Attributes:
        regions: what the rows of the sums are of: ``ALL``, then the labels' or regions' keys in a summary.json.
        sums: of each read, by its name: (regions, 2 N + 2), rows of ``Sums``.
    """

    def __init__(self, label_manager: Any) -> None:
        self.overlap = label_manager.has_regions
        labels = label_manager.foreground_regions if self.overlap else label_manager.all_labels
        self.regions = [ALL, *map(str, labels)]
        self.sums: dict[str, Tensor] = {}
        self._here: dict[str, Tensor] = {}

    def start(self, image: Tensor) -> None:
        self._here = {}

    def patch(self, place: tuple[Any, ...], importance: Tensor, logits: Tensor, weights: dict[str, Tensor]) -> None:
        # (1, *patch): the label of each position; or (regions, *patch): whether it is in each (a sigmoid over 1/2)
        found = logits > 0 if self.overlap else logits.argmax(0, keepdim=True)
        for name, a in weights.items():
            size = tuple(a.shape[1:])
            n_labels = 2 if self.overlap else len(self.regions) - 1
            sums = sums_of(a, nearest(importance, size), nearest(found, size), n_labels)
            each = sums[:, 1] if self.overlap else sums[0]
            self._add(self._here, name, torch.cat((sums[0].sum(0, keepdim=True), each)))

    def end(self) -> None:
        for name, sums in self._here.items():
            self._add(self.sums, name, sums)

    @staticmethod
    def _add(to: dict[str, Tensor], name: str, sums: Tensor) -> None:
        to[name] = to[name] + sums if name in to else sums


def routing_rows(watcher: RoutingWatcher, sources: dict[str, list[str]], names: dict[str, str]) -> list[dict[str, Any]]:
    """One row for each region, read and source; a region without any position has no rows.

    Args:
        names: of the labels, by their key in a summary.json.
    """
    return [
        {
            "region": region,
            "name": "" if region == ALL else names.get(region, region),
            "read": read,
            "source": source,
            "mean_weight": mean,
            "std_over_positions": deviation,
            "uniform_weight": 1 / len(sources[read]),
            "entropy": s.mean_entropy,
            "uniform_entropy": math.log(len(sources[read])),
        }
        for i, region in enumerate(watcher.regions)
        for read in sources
        if (s := Sums(watcher.sums[read][i])).importance
        for source, mean, deviation in zip(sources[read], s.mean.tolist(), s.deviation.tolist(), strict=True)
    ]


def strongest_of(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each read the row of the source that weighs most over everything."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["region"] == ALL and row["mean_weight"] > found.get(row["read"], {"mean_weight": -1})["mean_weight"]:
            found[row["read"]] = row
    return found


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a CSV file, and beside it the same as JSON, which has no NaN: there it is null."""
    with replacing(path) as partial, open_table(partial) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with replacing(path.with_suffix(".json")) as partial:
        content = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
