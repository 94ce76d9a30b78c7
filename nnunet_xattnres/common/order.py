"""The order of names: by the numbers in them, and as lists that have some in common put them."""

import re
from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise


def by_number(name: str) -> list[str | int]:
    """A key to sort names by, in which numbers count as numbers: ``fold_2`` is before ``fold_10``."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def merged(lists: Iterable[Sequence[str]]) -> list[str]:
    """All names of several lists, each once, in an order that is every list's own.

    Raises:
        graphlib.CycleError: where two lists put the same names in another order.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for names in lists:
        for name in names:
            sorter.add(name)
        for before, after in pairwise(names):
            sorter.add(after, before)
    return list(sorter.static_order())
