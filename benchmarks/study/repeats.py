"""The repeats of a study, from the records of its trainings."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmarks.study.description import Study, Training
from benchmarks.study.records import Record
from nnunet_xattnres.commands.compare.pairing import foreground_mean


def complete_repeats(study: Study, records: Sequence[Record]) -> list[list[Record]]:
    """The trainings of one trainer on one schedule by repeat, without the repeats that lack a fold."""
    repeats: dict[int, list[Record]] = {}
    for record in records:
        repeats.setdefault(record.training.repeat, []).append(record)
    return [found for number, found in repeats.items() if len(found) == len(study.folds_of(number))]


def dice_of(repeat: Sequence[Record]) -> float:
    """The mean over the labels of the means over the validation cases of all folds of a repeat."""
    cases = [list(dice.values()) for record in repeat for dice in record.dice.values()]
    return foreground_mean(np.array(cases, dtype=np.float64))


def dice_of_repeats(study: Study, records: Sequence[Record]) -> list[float]:
    """The same, of every complete repeat of one trainer on one schedule."""
    return [dice_of(repeat) for repeat in complete_repeats(study, records)]


def spread_of(values: Sequence[float]) -> float:
    """The standard deviation between repeats; NaN where one of them has no value."""
    return float(np.std(values, ddof=1))


def in_rounds(study: Study, records: Sequence[Record]) -> list[Record]:
    """The trainings of one trainer on one schedule whose run of ``compare`` has all folds."""
    sizes = Counter(run_name(study, record.training) for record in records)
    return [record for record in records if sizes[run_name(study, record.training)] == len(study.folds)]


def run_name(study: Study, training: Training) -> str:
    """Of the run of ``compare`` to which a training belongs: all folds, so that every run has the same cases.

    Where the folds rotate, that is a round of as many repeats as there are folds.
    """
    if study.rotate_folds:
        return f"round{training.repeat // len(study.folds)}"
    return f"rep{training.repeat}"
