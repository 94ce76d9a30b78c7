"""The two masks of a label, cut out of the volume, and their surfaces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_xattnres.nnunet.masks import Masks, labels_of

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Pair:
    """The prediction and the true mask of a label, or the part of them that has all of it.

    Attributes:
        prediction, reference: of one shape, with two or three axes.
        spacing: the size of a voxel along each axis.
        ignored: where nobody has looked, in no voxel of the two masks. A part has one voxel more on each side than the
            masks, or a surface could not be told from the edge of what is ignored.
    """

    prediction: Mask
    reference: Mask
    spacing: Sequence[float]
    ignored: Mask | bool = False

    @cached_property
    def surfaces(self) -> tuple[Mask, Mask]:
        """The voxels of each mask of which a neighbour along an axis is outside of it, or of the image.

        What is ignored may be inside as well as outside: both masks are cut off there, and the cuts are no surfaces.
        """
        prediction, reference = (
            mask & ~ndimage.binary_erosion(mask | self.ignored) for mask in (self.prediction, self.reference)
        )
        return prediction, reference

    @property
    def in_both(self) -> bool:
        """Whether both masks have a voxel."""
        return bool(self.prediction.any() and self.reference.any())

    @property
    def in_one(self) -> bool:
        """Whether only one of the masks has a voxel."""
        return bool(self.prediction.any() != self.reference.any())

    @property
    def has_surfaces(self) -> bool:
        """Whether both masks have one."""
        return all(surface.any() for surface in self.surfaces)

    @cached_property
    def distances(self) -> tuple[Any, Any]:
        """MONAI's, as tensors: from each voxel of a surface to the other surface, in both directions."""
        import torch
        from monai.metrics import get_surface_distance

        one, other = map(torch.from_numpy, self.surfaces)
        spacing = list(map(float, self.spacing))  # MONAI takes no list that mixes integers with them
        there, back = (get_surface_distance(*pair, spacing=spacing) for pair in ((one, other), (other, one)))
        return there, back


def pairs_of(masks: Masks, keys: Sequence[str], ignore: int | None) -> Iterator[tuple[str, Pair]]:
    """Each label or region with its two masks, which are empty where neither has it.

    Args:
        keys: as in a summary.json.
        ignore: the label of what does not count; None if there is none.
    """
    prediction, reference = np.pad(masks.prediction, 1), np.pad(masks.reference, 1)
    if ignore is not None:
        prediction[reference == ignore] = ignore  # which is in no label: so nnU-Net's evaluation has it
    boxes = [ndimage.find_objects(mask) for mask in (prediction, reference)]
    for key in keys:
        labels = labels_of(key)
        there = [of_mask[n - 1] for of_mask in boxes for n in labels if 0 < n <= len(of_mask) and of_mask[n - 1]]
        box = _around(there) if there else (slice(0, 0),) * prediction.ndim
        predicted, true = (np.isin(mask[box], labels) for mask in (prediction, reference))
        yield key, Pair(predicted, true, masks.spacing, False if ignore is None else reference[box] == ignore)


def _around(boxes: Sequence[Box]) -> Box:
    """All of them, with one voxel more on each side."""
    along = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in slices) - 1, max(s.stop for s in slices) + 1) for slices in along)
