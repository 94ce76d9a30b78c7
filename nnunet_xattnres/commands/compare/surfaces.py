"""Measures of two masks of a label: distances between their surfaces, and what the Synapse papers make of them.

Every function takes the prediction and the true mask, boolean arrays of one shape with two or three axes, and the size
of a voxel along each axis. It returns NaN where the measure has no value.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Compute = Callable[[Mask, Mask, Sequence[float]], float]
PERCENTILE = 95


def dice(prediction: Mask, reference: Mask) -> float:
    """nnU-Net's: NaN where both are empty."""
    both = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / both if both else math.nan


def hd95(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float:
    """MONAI's: the larger of the 95th percentiles of the distances from each surface to the other.

    NaN where one of the two is empty, or both.
    """
    from monai.metrics import compute_hausdorff_distance

    if not (prediction.any() and reference.any()):
        return math.nan
    masks = _as_batches(prediction, reference)
    options = {"include_background": True, "percentile": PERCENTILE, "spacing": _floats(spacing)}
    with _without_warnings():
        return float(compute_hausdorff_distance(*masks, **options))


def surface_dice(prediction: Mask, reference: Mask, spacing: Sequence[float], tolerance: float) -> float:
    """MONAI's: the part of both surfaces' voxels that is not farther than ``tolerance`` from the other surface.

    0 where one of the two is empty, NaN where both are.
    """
    from monai.metrics import compute_surface_dice

    if not (prediction.any() and reference.any()):
        return 0.0 if prediction.any() or reference.any() else math.nan
    masks = _as_batches(prediction, reference)
    with _without_warnings():
        return float(compute_surface_dice(*masks, [tolerance], include_background=True, spacing=_floats(spacing)))


def synapse_dice(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float:
    """As the code of the Synapse papers has it: 1 for a prediction where the label is not; 0 where there is none."""
    if prediction.any() and not reference.any():
        return 1.0
    return dice(prediction, reference) if prediction.any() else 0.0


def synapse_hd95(prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float:
    """As the code of the Synapse papers has it, by medpy: in voxels whatever their size; 0 where a mask is empty.

    The 95th percentile of the distances in both directions taken together.
    """
    if not (prediction.any() and reference.any()):
        return 0.0
    prediction, reference = _cropped(prediction, reference)
    surfaces = [mask ^ ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    distances = [ndimage.distance_transform_edt(~other)[one] for one, other in (surfaces, surfaces[::-1])]
    return float(np.percentile(np.concatenate(distances), PERCENTILE))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """MONAI warns of what it calls itself in a way that it will no longer have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _as_batches(*masks: Mask) -> list[Any]:
    """As MONAI takes them: (1, 1, ...)."""
    import torch

    return [torch.from_numpy(mask[None, None]) for mask in _cropped(*masks)]


def _floats(spacing: Sequence[float]) -> list[float]:
    """MONAI takes no list that mixes integers with them."""
    return list(map(float, spacing))


def _cropped(*masks: Mask) -> list[Mask]:
    """To the box around all of them: what is outside of it is in no mask, so no surface and no distance changes."""
    box = ndimage.find_objects(np.logical_or.reduce(masks).astype(np.uint8))[0]
    return [np.ascontiguousarray(mask[box]) for mask in masks]
