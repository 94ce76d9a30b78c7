"""The rows of a comparison: what each model reached, and how it differs from the first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_xattnres.commands.compare.measure import DICE, Measure
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.pairing import Array, Marks, Pairs, foreground_mean
from nnunet_xattnres.commands.compare.statistics import Difference, OverRepeats, compare_paired, over_repeats
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.results import Run, label_names

MEAN = "mean"  # the row of the mean over the labels; a label of that name gets its number
TEST = "test"  # what stands for a fold where folders of predictions are compared
FEW_CASES = 20
ONE_SIDED = (
    "nnU-Net gives such a prediction a Dice of 0, and none to an empty one, which is right. The Dice of each model has "
    "these zeros in it. The differences, their intervals, p and the numbers of better and worse cases are without them."
)


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

    def of_runs(self, model: Model) -> list[Array]:
        """``values`` of each run."""
        return list(map(self.values, model.runs))

    @property
    def in_mean(self) -> Marks:
        """(labels,): whether the mean over the labels has it, for which every run of every model must have a value."""
        runs = [run for model in self.models for run in self.of_runs(model)]
        return np.all([~np.isnan(run).all(axis=0) for run in runs], axis=0)

    def pairs(self, model: Model) -> Pairs:
        """Of the first model and another."""
        first, other = ((self.values(of), self.of_runs(of)) for of in (self.models[0], model))
        return Pairs.of(first, other, self.in_mean)

    def one_sided(self, model: Model) -> str:
        """How often only one of the first model and another has a value, in words; empty where that is never so."""
        first, pairs = self.models[0], self.pairs(model)
        several = len(first.runs) > 1 or len(model.runs) > 1
        found = []
        for marks, one, other in ((pairs.only_other, model, first), (pairs.only_first, first, model)):
            n = int(marks.sum())
            who = f"more of the repeats of {one.name} than of {other.name}" if several else f"only {one.name}"
            if n:
                found.append(f"in {n} pair{'s' if n > 1 else ''} of case and label {who} {self.measure.has_one}")
        return ", ".join(found)


@dataclass(frozen=True)
class Row:
    """One model and one label, or the mean over the labels.

    Attributes:
        value: of the measure, the mean over the cases that have one; over the labels, of ``Comparison.in_mean``.
        repeats: ``value`` of each run.
        n_cases: cases that have a value; for the mean over the labels, cases with any.
        difference: to the first model, with its interval over the cases; None for the first model itself.
        over_repeats: the same difference, with its interval over the repeats; None for the first model itself.
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
    measure, first = comparison.measure, comparison.models[0]
    rows = [*((label, [i]) for i, label in enumerate(comparison.labels.values()))]
    rows.append((MEAN, np.flatnonzero(comparison.in_mean).tolist()))
    for model in comparison.models:
        values, runs = comparison.values(model), comparison.of_runs(model)
        pairs = None if model is first else comparison.pairs(model)
        differences = [None] * len(rows) if pairs is None else compare_paired(pairs, measure.direction)
        for (label, columns), difference in zip(rows, differences, strict=True):
            yield Row(
                model=model.name,
                label=label,
                value=foreground_mean(values[:, columns]),
                repeats=[foreground_mean(run[:, columns]) for run in runs],
                n_cases=int((~np.isnan(values[:, columns])).any(axis=1).sum()),
                difference=difference,
                over_repeats=None if pairs is None else over_repeats(*pairs.of_repeats(columns)),
                measure=measure,
            )


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
    found += not_in_mean(comparison)
    one_sided = {model.name: comparison.one_sided(model) for model in models[1:]}
    told = "; ".join(f"{name} against {models[0].name}: {words}" for name, words in one_sided.items() if words)
    return [*found, f"{told}. {ONE_SIDED}"] if told else found


def not_in_mean(comparison: Comparison) -> list[str]:
    """Which labels the mean over the labels leaves out, in words."""
    left_out = [name for name, there in zip(comparison.labels.values(), comparison.in_mean, strict=True) if not there]
    if not left_out:
        return []
    return [
        f"The mean over the labels is without {', '.join(left_out)}: not every run has {comparison.measure.one} there."
    ]
