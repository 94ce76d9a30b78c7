"""The convention of published tables beside the measures of this comparison, and what differs."""

import math
from collections.abc import Sequence

from nnunet_xattnres.commands.compare.measure import DICE
from nnunet_xattnres.commands.compare.table import Comparison, Row

TITLE = "As published for Synapse"
WHAT_DIFFERS = (
    "Tables of the Synapse papers follow the code of TransUNet. Compare them with the columns 'as published' only. "
    "There a label that is in the prediction and not in the true mask has a Dice of 1 and an HD95 of 0; here it has a "
    "Dice of 0 and no HD95. There a label that is not predicted has an HD95 of 0; here it has none. There a label that "
    "is in neither mask has a Dice of 0; here it is left out. There HD95 is in voxels, although the tables say mm, and "
    "takes the distances in both directions together; here it is in mm, and the larger of the two directions counts."
)
EMPTY_HEAD = ("model", "case", "label", "empty", "Dice", "Dice as published", "HD95 as published (voxels)")


def side_by_side(comparison: Comparison, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a table: each model and label by every measure that there are rows of."""
    measures = (*(one.measure for one in comparison.each()), *comparison.published)
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        lines.setdefault((row.model, row.label), []).append(row.measure.number(row.value))
    return ["model", "label", *(m.title for m in measures)], [[*key, *values] for key, values in lines.items()]


def empty_masks(comparison: Comparison) -> list[list[str]]:
    """The lines of a table by ``EMPTY_HEAD``: where a mask is empty, and the convention decides."""
    lines = []
    for model in comparison.models:
        for run in model.runs:
            name = model.name if len(model.runs) == 1 else run.folder.name
            published, distances = run.values("synapse_dice"), run.values("synapse_hd95")
            for case in comparison.cases:
                for key, label in comparison.labels.items():
                    honest, dice, hd95 = run.dice[case][key], published[case][key], distances[case][key]
                    empty = _empty(honest, dice, hd95)
                    if empty:
                        lines.append([name, case, label, empty, DICE.number(honest), DICE.number(dice), f"{hd95:.2f}"])
    return lines


def _empty(honest: float, published: float, hd95: float) -> str:
    """Which of the masks, in words; two masks that are not empty and have nothing in common are apart."""
    if math.isnan(honest):
        return "both"
    if honest == 0 and hd95 == 0:
        return "true mask" if published == 1 else "prediction"
    return ""
