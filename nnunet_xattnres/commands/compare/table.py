"""The rows of a comparison: what each model reached, how it differs from the first, and what it cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np

from nnunet_xattnres.commands.compare.measure import DICE, Measure
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.statistics import (
    Array,
    Difference,
    OverRepeats,
    compare_paired,
    foreground_mean,
    over_repeats,
)
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.results import Run, label_names

MEAN = "mean"  # the row of the mean over the labels; a label of that name gets its number
TEST = "test"  # what stands for a fold where folders of predictions are compared
FEW_CASES = 20


@dataclass(frozen=True)
class Comparison:
    """Models on the cases and the labels that all of them have.

    Attributes:
        models: the first is what the others are compared with.
        cases: the names of their files.
        labels: what tables call each key of a summary.json.
        notes: what a reader must know.
        measure: what is compared here.
        further: the measures beside the Dice that the models have values of.
        published: measures of a convention that the models have values of, too. They stand beside published tables and
            do not say which model is better.
    """

    models: Sequence[Model]
    cases: Sequence[str]
    labels: Mapping[str, str]
    notes: Sequence[str]
    measure: Measure = DICE
    further: Sequence[Measure] = ()
    published: Sequence[Measure] = ()

    @classmethod
    def of(cls, models: Sequence[Model], notes: Sequence[str]) -> "Comparison":
        """Compare ``models``.

        Raises:
            UserError: when they have no case or no label in common.
        """
        all_dice = [run.dice for model in models for run in model.runs]
        cases = [case for case in all_dice[0] if all(case in dice for dice in all_dice)]
        keys = [k for k in next(iter(all_dice[0].values())) if all(k in d for dice in all_dice for d in dice.values())]
        if not cases or not keys:
            raise UserError(f"the models have no {'case' if not cases else 'label'} in common")
        names = label_names(models[0].runs[0].labels)
        labels = {key: names.get(key, key) for key in keys}
        labels = {key: f"{name} (label {key})" if name == MEAN else name for key, name in labels.items()}
        found = cls(models, cases, labels, notes)
        return cls(models, cases, found.labels, [*notes, *_warnings(found)])

    def each(self) -> "list[Comparison]":
        """The same comparison by each of its measures, the Dice first."""
        return [self.by(measure) for measure in (DICE, *self.further)]

    def by(self, measure: Measure) -> "Comparison":
        """The same comparison by another of its measures."""
        return replace(self, measure=measure)

    def values(self, of: Model | Run) -> Array:
        """Of the measure, (cases, labels), NaN where there is none."""
        values = of.values(self.measure.key)
        return np.array([[values[case][key] for key in self.labels] for case in self.cases], dtype=np.float64)


@dataclass(frozen=True)
class Row:
    """One model and one label, or the mean over the labels.

    Attributes:
        value: of the measure, the mean over the cases that have one.
        repeats: ``value`` of each run.
        n_cases: cases that have a value; for the mean over the labels, cases with any.
        difference: to the first model, with its interval over the cases; None for the first model itself.
        over_repeats: the difference, with its interval over the repeats; None where one of the two models has a single
            run, or a run without a value, and for the first model itself.
        measure: what ``value`` is of.
    """

    model: str
    label: str
    value: float
    repeats: Sequence[float]
    n_cases: int
    difference: Difference | None
    over_repeats: OverRepeats | None
    measure: Measure = DICE

    @property
    def spread(self) -> float | None:
        """The standard deviation between the repeats; None for a single run."""
        return float(np.std(self.repeats, ddof=1)) if len(self.repeats) > 1 else None

    @property
    def repeats_range(self) -> tuple[float, float] | None:
        """From the lowest repeat to the highest; None for a single run."""
        return (float(np.min(self.repeats)), float(np.max(self.repeats))) if len(self.repeats) > 1 else None

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean over the labels."""
        return self.label == MEAN


def make_rows(comparison: Comparison) -> list[Row]:
    """All rows of the table: measure after measure, model after model, the labels and then their mean."""
    return [row for one in [*comparison.each(), *map(comparison.by, comparison.published)] for row in _rows(one)]


def rows_of(comparison: Comparison, rows: Sequence[Row], model: Model | None = None) -> list[Row]:
    """Of the comparison's measure, and of one model where it is named."""
    return [row for row in rows if row.measure == comparison.measure and (model is None or row.model == model.name)]


def _rows(comparison: Comparison) -> Iterator[Row]:
    first, measure = comparison.models[0], comparison.measure
    first_values, first_runs = comparison.values(first), [comparison.values(run) for run in first.runs]
    for model in comparison.models:
        values, runs = comparison.values(model), [comparison.values(run) for run in model.runs]
        differences: Sequence[Difference | None] = [None] * (values.shape[1] + 1)
        if model is not first:
            differences = compare_paired(first_values, values, measure.direction)
        for i, label in enumerate([*comparison.labels.values(), MEAN]):
            columns = slice(None) if label == MEAN else slice(i, i + 1)
            before, after = ([foreground_mean(run[:, columns]) for run in of] for of in (first_runs, runs))
            yield Row(
                model=model.name,
                label=label,
                value=foreground_mean(values[:, columns]),
                repeats=after,
                n_cases=int((~np.isnan(values[:, columns])).any(axis=1).sum()),
                difference=differences[i],
                over_repeats=None if model is first else over_repeats(before, after),
                measure=measure,
            )


def costs(model: Model) -> dict[str, Any]:
    """Parameters, mean seconds of an epoch, and peak GPU memory in MiB; None for what is not known."""
    folds = [fold for run in model.runs for fold in run.folds.values()]

    def known(name: str) -> list[float]:
        return [getattr(fold, name) for fold in folds if getattr(fold, name) is not None]

    seconds, memory, parameters = known("epoch_seconds"), known("gpu_memory"), known("parameters")
    return {
        "parameters": int(max(parameters)) if parameters else None,
        "epoch_seconds": mean(seconds) if seconds else None,
        "gpu_memory": max(memory) if memory else None,
    }


def _warnings(comparison: Comparison) -> list[str]:
    models, folds = comparison.models, comparison.models[0].runs[0].folds
    found = []
    if "all" in folds:
        found.append('Fold "all" is validated on the cases that it was trained on: this says nothing about new cases.')
    elif len(folds) == 1 and TEST not in folds:
        found.append("One fold only: the differences say nothing about other splits of the data.")
    if len(comparison.cases) < FEW_CASES:
        found.append(f"Only {len(comparison.cases)} cases: the intervals and the p-values say little.")
    if TEST not in folds and all(len(model.runs) == 1 for model in models):
        found.append(
            "One run of each: how much a repetition would differ is not known. "
            "`nnunet-xattnres repeat` makes plans for more."
        )
    rare = [
        name
        for name, column in zip(comparison.labels.values(), comparison.values(models[0]).T, strict=True)
        if np.isnan(column).all()
    ]
    if rare:
        found.append(f"No case has a Dice for {', '.join(rare)}.")
    return found
