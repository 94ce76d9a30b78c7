"""What a comparison says, in plain words."""

import math
from collections.abc import Iterator, Sequence

from nnunet_xattnres.commands.compare.measure import DICE, Measure
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.statistics import Difference
from nnunet_xattnres.commands.compare.table import Comparison, Row, rows_of


def summary(comparison: Comparison, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """For each further model a verdict by the comparison's measure, and what it rests on: the mean over the labels."""
    first, measure = comparison.models[0].name, comparison.measure
    means = {row.model: row for row in rows_of(comparison, rows) if row.is_mean}
    found = []
    for model in comparison.models[1:]:
        row = means[model.name]
        d = row.difference
        only = comparison.one_sided(model)
        if d is None or math.isnan(d.mean):
            why = f"No case has {measure.one} in both{f': {only}' if only else ''}."
            found.append((f"{model.name} cannot be compared with {first}", why))
            continue
        missing = _missing(comparison, rows, model)
        both = f"both have {measure.one}"
        values = (measure.number(of.value) for of in (row, means[first]))
        unit = f" {measure.unit}" if measure.unit else ""
        numbers = (
            f"Mean {measure.name} {' against '.join(values)}{unit}, a difference of "
            f"{measure.signed(d.mean)}{f' where {both}' if only else ''}"
            f"{' (less is better)' if measure.less_is_better else ''}. "
            f"Of {d.better + d.equal + d.worse} cases {d.better} are better, {d.equal} equal and {d.worse} worse."
        )
        verdict, over_cases = _verdict(row, d, first), _over_cases(d, measure)
        if only or missing:
            verdict = f"Where {both}: {verdict}{f'; {only}' if only else ''}"
        if missing:
            numbers += (
                f" {missing} pairs are left out, in which one of the two, or both, have no {measure.name}: look at the "
                f"Dice, too."
            )
        found.append((verdict, " ".join((numbers, over_cases, *_over_repeats(row, means[first])))))
    return found


def _missing(comparison: Comparison, rows: Sequence[Row], model: Model) -> int:
    """How many cases and labels have a Dice in both and no value of the measure in one or in both."""
    of_measure, of_dice = (
        sum(row.difference.left_out for row in rows_of(one, rows, model) if row.difference and not row.is_mean)
        for one in (comparison, comparison.by(DICE))
    )
    return max(0, of_measure - of_dice)


def _verdict(row: Row, d: Difference, first: str) -> str:
    model, over = row.model, row.over_repeats
    sides = {_side(d.low, d.high), *([] if over is None or over.missing else [_side(over.low, over.high)])}
    if len(sides) > 1 or sides == {0}:
        return f"No clear difference between {model} and {first}"
    better = "better" if sides == {row.measure.direction} else "worse"
    if over is None or over.doubt or over.missing:
        return f"These networks of {model} are {better} than those of {first}; other trainings may differ"
    return f"{model} is {better} than {first} on this data"


def _over_cases(d: Difference, measure: Measure) -> str:
    if math.isnan(d.low):
        return "From one case nothing follows for others."
    bounds = f"The 95% interval over cases, {measure.interval(d.low, d.high)},"
    if _side(d.low, d.high):
        return f"{bounds} does not include 0: other cases would probably show it."
    return f"{bounds} includes 0: other cases may show the opposite."


def _over_repeats(row: Row, first: Row) -> Iterator[str]:
    over, measure = row.over_repeats, row.measure
    if over is None:
        return
    if over.missing:
        yield f"Whether other trainings would show it is not known: {over.missing}."
        return
    bounds = f"The one over repeats, {measure.interval(over.low, over.high)},"
    if _side(over.low, over.high):
        yield f"{bounds} does not include 0{'' if over.doubt else ': other trainings would probably show it'}."
    else:
        yield f"{bounds} includes 0: other trainings may show the opposite."
    if over.doubt:
        ranges = (f"{of.model} from {' to '.join(map(measure.number, of.repeats_range or ()))}" for of in (first, row))
        yield f"This interval may mislead, for {over.doubt}. The repeats themselves: {', '.join(ranges)}."


def _side(low: float, high: float) -> int:
    """On which side of 0 an interval lies: 1 above, -1 below, 0 for one that includes it or is not known."""
    return int(low > 0) - int(high < 0)
