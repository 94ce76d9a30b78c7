"""Numbers of which some may be missing."""

import math
from collections.abc import Sequence
from statistics import mean


def mean_of(values: Sequence[float]) -> float:
    """The mean of those that are not NaN, as nnU-Net takes it; NaN if there is none."""
    there = [value for value in values if not math.isnan(value)]
    return mean(there) if there else math.nan
