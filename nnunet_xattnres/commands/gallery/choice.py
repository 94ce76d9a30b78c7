"""Which cases a gallery shows."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from nnunet_xattnres.commands.gallery.material import Model
from nnunet_xattnres.common.errors import UserError


class Chosen(NamedTuple):
    """A case, and in words why it is shown; empty where it was named."""

    case: str
    why: str = ""


def choose(models: Sequence[Model], n: int) -> list[Chosen]:
    """Half of the cases, rounded up, with the largest differences between models; then the typical ones.

    A difference is between the best and the worst mean Dice of a case. Typical is where the Dice of every model is near
    the median of that model. A single model has no differences: all are typical.

    Raises:
        UserError: when no case has a Dice.
    """
    dice = {case: [model.mean(case) for model in models] for case in sorted(models[0].dice)}
    dice = {case: values for case, values in dice.items() if not any(map(math.isnan, values))}
    if not dice:
        raise UserError("no case has a label in any mask; name cases with --cases to see them nevertheless")
    spread = {case: max(values) - min(values) for case, values in dice.items()}
    by_difference = sorted((case for case in dice if spread[case] > 0), key=lambda case: -spread[case])
    different = by_difference[: math.ceil(n / 2)]
    medians = [median(values[i] for values in dice.values()) for i in range(len(models))]
    away = {case: sum(abs(v - m) for v, m in zip(values, medians, strict=True)) for case, values in dice.items()}
    typical = sorted((case for case in dice if case not in different), key=lambda case: away[case])
    return [
        *(Chosen(case, f"difference {spread[case]:.3f}") for case in different),
        *(Chosen(case, "typical") for case in typical[: n - len(different)]),
    ]
