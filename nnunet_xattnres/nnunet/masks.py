"""Masks: what their values are called, and the Dice of two of them as nnU-Net computes it."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray


def values_in_masks(labels: Mapping[str, Any]) -> dict[int, str]:
    """What the values in a mask are called, without the background; of overlapping regions all that hold the value.

    Args:
        labels: as in a dataset.json.
    """
    held: dict[int, list[str]] = {}
    for name, value in labels.items():
        for number in value if isinstance(value, list) else [value]:
            held.setdefault(int(number), []).append(name)
    return {value: " and ".join(held[value]) for value in sorted(held) if value}


def dice_of(labels: Any, mask: NDArray[Any], reference: NDArray[Any]) -> dict[str, float]:
    """The Dice of every label or region, by its key in a summary.json; NaN where neither mask has it.

    Args:
        labels: nnU-Net's LabelManager.
        mask, reference: of the same shape.
    """
    from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask

    ignore = None if labels.ignore_label is None else reference == labels.ignore_label
    dice = {}
    for label in labels.foreground_regions if labels.has_regions else labels.foreground_labels:
        both = (region_or_label_to_mask(x, label) for x in (reference, mask))
        tp, fp, fn, _ = compute_tp_fp_fn_tn(*both, ignore)
        dice[str(label)] = float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")
    return dice
