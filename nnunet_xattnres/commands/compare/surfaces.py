"""Measures of two masks of a label: distances between their surfaces, and what the Synapse papers make of them.

Every measure returns NaN where it has no value.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from nnunet_xattnres.commands.compare.pairs import Pair

Compute = Callable[[Pair], float]
PERCENTILE = 95


def dice(pair: Pair) -> float:
    """nnU-Net's: NaN where both are empty."""
    both = int(pair.prediction.sum()) + int(pair.reference.sum())
    return 2 * int((pair.prediction & pair.reference).sum()) / both if both else math.nan


def hd95(pair: Pair) -> float:
    """As MONAI has it: the larger of the 95th percentiles of the distances from each surface to the other.

    NaN where one of the two has no surface, or both.
    """
    if not pair.has_surfaces:
        return math.nan
    return float(max(distances.quantile(PERCENTILE / 100) for distances in pair.distances))


def surface_dice(pair: Pair, tolerance: float) -> float:
    """As MONAI has it: the part of both surfaces' voxels not farther than ``tolerance`` from the other surface.

    0 where one of the two is empty; else NaN where one has no surface.
    """
    if pair.in_one:
        return 0.0
    if not pair.has_surfaces:
        return math.nan
    near = sum((distances <= tolerance).sum() for distances in pair.distances)
    return float(near / sum(map(len, pair.distances)))


def synapse_dice(pair: Pair) -> float:
    """As the code of the Synapse papers has it: 1 for a prediction where the label is not; 0 where there is none."""
    if pair.prediction.any() and not pair.reference.any():
        return 1.0
    return dice(pair) if pair.prediction.any() else 0.0


def synapse_hd95(pair: Pair) -> float:
    """As the code of the Synapse papers has it, by medpy: in voxels whatever their size; 0 where a mask is empty.

    The 95th percentile of the distances in both directions taken together; NaN where a mask has no surface.
    """
    if not pair.in_both:
        return 0.0
    if not pair.has_surfaces:
        return math.nan
    distances = [ndimage.distance_transform_edt(~other)[one] for one, other in (pair.surfaces, pair.surfaces[::-1])]
    return float(np.percentile(np.concatenate(distances), PERCENTILE))
