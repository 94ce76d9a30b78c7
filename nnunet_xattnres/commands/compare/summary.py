"""What a comparison says, in plain words."""

import math
from collections.abc import Sequence

from nnunet_xattnres.commands.compare.report import interval, number
from nnunet_xattnres.commands.compare.statistics import Difference
from nnunet_xattnres.commands.compare.table import Comparison, Row


def summary(comparison: Comparison, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """For each further model a verdict, and what it rests on; by the mean over the labels."""
    first = comparison.models[0].name
    means = {row.model: row for row in rows if row.is_mean}
    found = []
    for model in comparison.models[1:]:
        row = means[model.name]
        d = row.difference
        if d is None or math.isnan(d.mean):
            found.append((f"{model.name} cannot be compared with {first}", "No case has a Dice in both."))
            continue
        numbers = (
            f"Mean Dice {number(row.dice)} against {number(means[first].dice)}, a difference of {d.mean:+.4f}. "
            f"Of {d.better + d.equal + d.worse} cases {d.better} are better, {d.equal} equal and {d.worse} worse."
        )
        text = " ".join((numbers, _over_cases(d), _over_repeats(row.over_repeats)))
        found.append((_verdict(model.name, first, d, row.over_repeats), text))
    return found


def _verdict(model: str, first: str, d: Difference, over_repeats: tuple[float, float] | None) -> str:
    sides = {_side(d.low, d.high), *([] if over_repeats is None else [_side(*over_repeats)])}
    if len(sides) > 1 or sides == {0}:
        return f"No clear difference between {model} and {first}"
    better = "better" if sides == {1} else "worse"
    if over_repeats is None:
        return f"These networks of {model} are {better} than those of {first}; other trainings may differ"
    return f"{model} is {better} than {first} on this data"


def _over_cases(d: Difference) -> str:
    if math.isnan(d.low):
        return "From one case nothing follows for others."
    bounds = f"The 95% interval over cases, {interval(d.low, d.high)},"
    if _side(d.low, d.high):
        return f"{bounds} does not include 0: other cases would probably show it."
    return f"{bounds} includes 0: other cases may show the opposite."


def _over_repeats(bounds: tuple[float, float] | None) -> str:
    if bounds is None:
        return "Whether other trainings would show it is not known: that takes two repeats of both at least."
    if _side(*bounds):
        return f"The one over repeats, {interval(*bounds)}, does not include 0: other trainings would probably show it."
    return f"The one over repeats, {interval(*bounds)}, includes 0: other trainings may show the opposite."


def _side(low: float, high: float) -> int:
    """On which side of 0 an interval lies: 1 above, -1 below, 0 for one that includes it or is not known."""
    return int(low > 0) - int(high < 0)
