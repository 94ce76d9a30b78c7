"""What is compared: a measure of how well a prediction fits the true mask."""

import math
from dataclasses import dataclass

HAS_A_VALUE = "has a value"


@dataclass(frozen=True)
class Measure:
    """How tables, pictures and pages call a measure, and how they write its values.

    Attributes:
        key: the name of its files, and of its column in them.
        name: what a reader calls it.
        one: the same with its article.
        how: how it is computed, a sentence.
        unit: empty where it has none.
        less_is_better: as for a distance.
        digits: behind the point.
        has_one: what a model did that has a value where another has none.
    """

    key: str
    name: str
    one: str
    how: str
    unit: str = ""
    less_is_better: bool = False
    digits: int = 4
    has_one: str = HAS_A_VALUE

    @property
    def title(self) -> str:
        """The name as a heading, with the unit."""
        return self.name[0].upper() + self.name[1:] + (f" ({self.unit})" if self.unit else "")

    @property
    def direction(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.less_is_better else 1

    def number(self, value: float) -> str:
        """A value as text."""
        return "n/a" if math.isnan(value) else f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """A difference as text."""
        return "n/a" if math.isnan(value) else f"{value:+.{self.digits}f}"

    def interval(self, low: float, high: float) -> str:
        """An interval of differences as text; empty where it is not known."""
        return "" if math.isnan(low) else f"{self.signed(low)} to {self.signed(high)}"


PREDICTED_IN_VAIN = "predicted a label that is not there"
DICE = Measure(
    "dice",
    "Dice",
    "a Dice",
    "Dice as nnU-Net computes it; undefined where neither mask has the label.",
    has_one=PREDICTED_IN_VAIN,
)
