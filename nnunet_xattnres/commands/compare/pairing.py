"""Two models on the same cases: where both have a value, and where only one has."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Another model beside the first, over the pairs of case and label in which every run of both has a value.

    What is made of the values and what is made of the repeats is so of the same pairs.

    Attributes:
        first, other: the mean of the runs, (cases, labels), NaN outside of the pairs.
        first_runs, other_runs: the same of each run.
        only_first, only_other: (cases, labels), where more of its runs have a value than of the other model's. Of
            single runs: where it alone has one.
        in_mean: (labels,), whether a label counts in the mean over the labels.
    """

    first: Array
    other: Array
    first_runs: Sequence[Array]
    other_runs: Sequence[Array]
    only_first: Marks
    only_other: Marks
    in_mean: Marks

    @classmethod
    def of(cls, first: tuple[Array, Sequence[Array]], other: tuple[Array, Sequence[Array]], in_mean: Marks) -> "Pairs":
        """From the mean of the runs and each run of both, (cases, labels), NaN where there is no value."""
        (before, first_runs), (after, other_runs) = first, other
        parts = [np.mean([~np.isnan(run) for run in runs], axis=0) for runs in (first_runs, other_runs)]
        outside = np.minimum(*parts) < 1

        def paired(values: Array) -> Array:
            return np.where(outside, np.nan, values)

        return cls(
            paired(before),
            paired(after),
            list(map(paired, first_runs)),
            list(map(paired, other_runs)),
            parts[0] > parts[1],
            parts[1] > parts[0],
            in_mean,
        )

    @property
    def differences(self) -> Array:
        """Of every case, (cases, labels + 1): of each label and, last, of the mean over its labels."""
        difference = self.other - self.first
        return np.column_stack([difference, case_means(difference[:, self.in_mean])])

    def of_repeats(self, labels: Sequence[int]) -> tuple[list[float], list[float]]:
        """For each run of both, the mean over those of the labels that have a pair of their means over the cases."""
        there = [i for i in labels if not np.isnan(self.first[:, i]).all()]
        before, after = (
            [foreground_mean(run[:, there]) for run in runs] for runs in (self.first_runs, self.other_runs)
        )
        return before, after


def foreground_mean(values: Array) -> float:
    """nnU-Net's: of ``values``, (cases, labels), the mean over the labels of the means over the cases that have one.

    NaN where a label has no value in any case, and without labels.
    """
    return float(np.mean([mean_of_those_there(column) for column in values.T] or [np.nan]))


def case_means(values: Array) -> Array:
    """Of ``values``, (cases, labels), each case's mean over the labels that have one; NaN where none has."""
    return np.array([mean_of_those_there(row) for row in values], dtype=np.float64)


def mean_of_those_there(values: Array) -> float:
    """The mean of those that are not NaN; NaN where there is none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else np.nan
