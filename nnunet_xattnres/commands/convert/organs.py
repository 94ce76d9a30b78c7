"""Which label is which organ, and how the axes of an array lie in the patient: measured, for files do not say it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.common.errors import UserError

# The organs of the papers, in the order of their tables: ours.
ORGANS = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
# The numbers that distributions give them. BTCV has 13 organs; of those we keep the eight.
ORDERS: Mapping[str, tuple[int, ...]] = {
    "TransUNet's": (1, 2, 3, 4, 5, 6, 7, 8),
    "BTCV's 13": (8, 4, 3, 2, 6, 11, 1, 7),
    "EMCAD's": (8, 4, 3, 2, 6, 5, 1, 7),
    "SAMed's": (7, 4, 3, 2, 5, 8, 1, 6),
}
N_BTCV = 13

Order = dict[str, int]  # organ -> its number in the source


@dataclass(frozen=True)
class Measured:
    """The organs of one case: how many voxels each label has, and where it lies on each axis, from 0 to 1."""

    case: str
    voxels: NDArray[np.int64]  # (14,)
    centers: NDArray[np.float64]  # (14, 3), NaN for a label that is not there


def measure(case: str, labels: NDArray[np.uint8]) -> Measured:
    """Sizes and places of the labels of a volume.

    Raises:
        UserError: for a label that no distribution has.
    """
    places = np.nonzero(labels)
    values = labels[places]
    voxels = np.bincount(values, minlength=N_BTCV + 1)
    if voxels.size > N_BTCV + 1:
        raise UserError(f"{case} has the label {voxels.size - 1}; BTCV's go up to {N_BTCV}")
    sums = [np.bincount(values, weights=place, minlength=voxels.size) for place in places]
    centers = (np.stack(sums, axis=1) / np.where(voxels, voxels, np.nan)[:, None] + 0.5) / labels.shape
    return Measured(case, voxels, centers)


def label_order(cases: list[Measured]) -> str:
    """The one order of labels that fits the sizes of the organs, summed over the cases: single cases mislead.

    Raises:
        UserError: when none fits, or several.
    """
    voxels = np.sum([case.voxels for case in cases], axis=0)
    has_all = bool(voxels[9:].any())
    names = [name for name in ORDERS if (name == "BTCV's 13") == has_all]
    wrong = {name: _contradiction(voxels, order_of(name)) for name in names}
    fitting = [name for name, reason in wrong.items() if reason is None]
    if len(fitting) == 1:
        return fitting[0]
    sizes = ", ".join(f"{i}: {n}" for i, n in enumerate(voxels) if i and n)
    reasons = "; ".join(f"with {name} numbers {reason}" for name, reason in wrong.items() if reason)
    raise UserError(
        f"the labels fit {' and '.join(fitting) or 'no known order'}. Voxels of each label over {len(cases)} case(s): "
        f"{sizes}. {reasons}. Give all cases at once: single ones may be unusual"
    )


def order_of(name: str) -> Order:
    return dict(zip(ORGANS, ORDERS[name], strict=True))


def _contradiction(voxels: NDArray[np.int64], order: Order) -> str | None:
    """What is unlike any group of patients, if something is."""
    size = {organ: int(voxels[label]) for organ, label in order.items()}
    kidneys = size["left_kidney"], size["right_kidney"]
    checks = {
        "the liver is not the largest": size["liver"] == max(size.values()) > 0,
        "the gallbladder is not the smallest": size["gallbladder"] == min(size.values()),
        "the spleen is not larger than the aorta": size["spleen"] > size["aorta"],
        "the stomach is not larger than the pancreas": size["stomach"] > size["pancreas"],
        "the kidneys are unlike": max(kidneys) < 2 * min(kidneys),
    }
    return next((reason for reason, fits in checks.items() if not fits), None)


@dataclass(frozen=True)
class Axes:
    """Which axis of an array runs left, posterior and up, and whether forwards (1) or backwards (-1)."""

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]

    def __str__(self) -> str:
        names = ("right", "left"), ("anterior", "posterior"), ("down", "up")
        towards = {axis: pair[sign > 0] for axis, sign, pair in zip(self.axes, self.signs, names, strict=True)}
        return ", ".join(towards[axis] for axis in sorted(towards))

    def to_patient(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array with axes that run left, posterior and up."""
        turned = array.transpose(self.axes)
        return np.flip(turned, tuple(i for i, sign in enumerate(self.signs) if sign < 0))


def measure_axes(cases: list[Measured], order: Order, slice_axis: int) -> Axes:
    """How arrays lie in the patient: the spleen is left of the liver, kidneys are behind, the liver is above them.

    Args:
        cases: volumes with the same axes.
        order: the number of each organ.
        slice_axis: the axis of the arrays that runs across slices.

    Raises:
        UserError: when the cases do not agree, or the organs do not lie so.
    """
    vectors = np.array([_directions(case, order) for case in cases])  # (cases, left/posterior/up, axis)
    middle = np.nanmedian(vectors, axis=0)  # one mirrored case must not move it
    left = max({0, 1, 2} - {slice_axis}, key=lambda axis: abs(middle[0, axis]))
    axes = left, 3 - left - slice_axis, slice_axis
    components = [float(middle[i, axis]) for i, axis in enumerate(axes)]
    if not all(abs(component) >= _CLEAR for component in components):  # NaN, too
        shown = "; ".join(f"{name} {row.round(2).tolist()}" for name, row in zip(_NAMES, middle, strict=True))
        raise UserError(f"the organs do not lie as in a patient, in shares of the three axes: {shown}")
    for case, vector in zip(cases, vectors, strict=True):
        if vector[0, left] * components[0] < 0:
            raise UserError(f"{case.case} is a mirror image of the other cases: its spleen lies right of its liver")
    kidneys = np.nanmean([_center(c, order, "left_kidney") - _center(c, order, "right_kidney") for c in cases], axis=0)
    if kidneys[left] * components[0] < 0:
        raise UserError("the left kidney lies on the side of the liver, and the right one on that of the spleen")
    right_way = [1 if component > 0 else -1 for component in components]
    return Axes(axes, (right_way[0], right_way[1], right_way[2]))


_CLEAR = 0.03  # of an axis; the two real cases that we measured have 0.11 and more
_NAMES = ("from the liver to the spleen", "from the front organs to the kidneys", "from the kidneys to the liver")


def _center(case: Measured, order: Order, *organs: str) -> NDArray[np.float64]:
    return np.mean([case.centers[order[organ]] for organ in organs], axis=0)


def _directions(case: Measured, order: Order) -> list[NDArray[np.float64]]:
    kidneys = _center(case, order, "left_kidney", "right_kidney")
    left = _center(case, order, "spleen") - _center(case, order, "liver")
    posterior = kidneys - _center(case, order, "liver", "stomach", "pancreas")
    up = _center(case, order, "liver", "spleen", "stomach") - kidneys
    return [left, posterior, up]
