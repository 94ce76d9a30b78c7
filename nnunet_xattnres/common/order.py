"""The order of names with numbers in them."""

import re


def by_number(name: str) -> list[str | int]:
    """A key to sort names by, in which numbers count as numbers: ``fold_2`` is before ``fold_10``."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]
