"""Measures beside the Dice, from the masks of every case."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from nnunet_xattnres.commands.compare.measure import HAS_A_VALUE, Measure
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.pairs import pairs_of
from nnunet_xattnres.commands.compare.surfaces import Compute, dice
from nnunet_xattnres.commands.compare.table import TEST, Comparison, not_in_mean
from nnunet_xattnres.commands.compare.wanted import Wanted
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.nnunet.masks import Files, Reader, files_of_validation
from nnunet_xattnres.nnunet.pool import Progress, outcomes
from nnunet_xattnres.nnunet.results import Run, Values

_NAMED = 5  # of the cases that could not be measured


@dataclass(frozen=True)
class _Job:
    """A case of a run."""

    model: str
    run: Path
    fold: str
    case: str
    files: Files
    dice: Mapping[str, float]


@dataclass(frozen=True)
class _Measured:
    """What was found of a case.

    Attributes:
        values: measure -> label -> value.
        in_one: the labels that only one of the two masks has.
        cut: those that both have, and of which the ignore label leaves no surface in one.
        failure: why there are no values; empty where there are.
    """

    values: Mapping[str, dict[str, float]]
    in_one: Sequence[str] = ()
    cut: Sequence[str] = ()
    failure: str = ""


Results = Sequence[tuple[_Job, _Measured]]


def with_measures(comparison: Comparison, wanted: Wanted, labels: Path | None, progress: Progress) -> Comparison:
    """The comparison with further measures, computed for each of its cases, labels and runs.

    A case that cannot be measured has no values, and a note names it: the others have taken hours, perhaps.

    Args:
        labels: the folder with the true masks, where the models are folders of predictions.

    Raises:
        UserError: when a mask is missing, or no case can be measured.
    """
    if not (wanted.metrics or wanted.convention):
        return replace(comparison, notes=[*comparison.notes, *wanted.notes])
    jobs = list(_jobs(comparison, labels))
    run = comparison.models[0].runs[0]
    plans, dataset = (read_json(run.folder / name) for name in ("plans.json", "dataset.json"))
    reader = Reader(plans, dataset, jobs[0].files.reference)
    further, published = wanted.measures(reader.pictures), wanted.published()
    measures = {**further, **published}
    of_job = partial(
        _measured, keys=list(comparison.labels), reader=reader, ignore=run.labels.get("ignore"), measures=measures
    )
    nothing = {measure.key: dict.fromkeys(comparison.labels, math.nan) for measure in measures}
    results: list[tuple[_Job, _Measured]] = []
    done = progress("measuring", len(jobs))
    for job, outcome in zip(jobs, outcomes(of_job, jobs), strict=True):
        results.append((job, _Measured(nothing, failure=str(outcome)) if isinstance(outcome, UserError) else outcome))
        done()
    models = [
        Model(model.name, tuple(_with(run, results, measures) for run in model.runs)) for model in comparison.models
    ]
    if any(of.failure or of.cut for _, of in results):  # then a value may be missing for no fault of a model's
        further = {replace(measure, has_one=HAS_A_VALUE): compute for measure, compute in further.items()}
    measured = replace(comparison, models=models, further=tuple(further), published=tuple(published))
    notes = *_failures(results, measures), *_without_value(measured, results)
    return replace(measured, notes=[*comparison.notes, *wanted.notes, *notes])


def _jobs(comparison: Comparison, labels: Path | None) -> Iterator[_Job]:
    for model in comparison.models:
        for run in model.runs:
            for name, fold in run.folds.items():
                files = _files(run, name, labels)
                for case in fold.dice:
                    if case in comparison.cases:
                        yield _Job(model.name, run.folder, name, case, files[case], fold.dice[case])


def _files(run: Run, fold: str, labels: Path | None) -> Mapping[str, Files]:
    if labels is None:
        return files_of_validation(run.folder / f"fold_{fold}")
    return {case: Files(run.folder / case, labels / case) for case in run.folds[fold].dice}


def _measured(
    job: _Job, keys: Sequence[str], reader: Reader, ignore: int | None, measures: Mapping[Measure, Compute]
) -> _Measured:
    values: dict[str, dict[str, float]] = {measure.key: {} for measure in measures}
    in_one, cut = [], []
    try:
        for key, pair in pairs_of(reader.read(job.files), keys, ignore):
            _refuse_other_masks(job, key, dice(pair))
            for measure, compute in measures.items():
                values[measure.key][key] = compute(pair)
            if pair.in_one:
                in_one.append(key)
            elif pair.in_both and not pair.has_surfaces:
                cut.append(key)
    except (MemoryError, RuntimeError) as error:  # torch raises the latter when memory does not suffice
        raise UserError(f"{job.files.prediction} cannot be measured: {type(error).__name__}: {error}") from None
    return _Measured(values, in_one, cut)


def _refuse_other_masks(job: _Job, key: str, here: float) -> None:
    there = job.dice[key]
    if not (math.isclose(here, there, rel_tol=1e-6) or (math.isnan(here) and math.isnan(there))):
        masks = f"{job.files.prediction} and {job.files.reference} have a Dice of {here:.6g} for label {key}"
        if job.fold == TEST:
            raise UserError(
                f"{masks}, and a moment ago had {there:.6g}: something writes them. Compare when it has ended"
            )
        raise UserError(
            f"{masks}, and the summary.json in {job.run} says {there:.6g}: they have changed since. Validate again: "
            f"nnUNetv2_train ... --val"
        )


def _with(run: Run, results: Results, measures: Iterable[Measure]) -> Run:
    def values(fold: str, key: str) -> Values:
        return {job.case: of.values[key] for job, of in results if (job.run, job.fold) == (run.folder, fold)}

    folds = {
        name: replace(fold, measured={measure.key: values(name, measure.key) for measure in measures})
        for name, fold in run.folds.items()
    }
    return replace(run, folds=folds)


def _failures(results: Results, measures: Iterable[Measure]) -> list[str]:
    """Which cases could not be measured.

    Raises:
        UserError: when none could.
    """
    failed = [f"{job.case} of {job.model} ({job.run.name}): {of.failure}" for job, of in results if of.failure]
    if not failed:
        return []
    if len(failed) == len(results):
        raise UserError(f"no case could be measured; the first was {failed[0]}")
    names = ", ".join(measure.name for measure in measures)
    more = f", and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    told = "; ".join(failed[:_NAMED])
    return [
        f"{len(failed)} of {len(results)} cases could not be measured and are left out of {names}: {told}{more}. The "
        f"values of the models are then means over different cases; the differences are over the cases of both."
    ]


def _without_value(comparison: Comparison, results: Results) -> list[str]:
    """How often a measure has no value, although one of the two masks has the label."""
    notes = []
    for measure in comparison.further:
        one = comparison.by(measure)
        notes += not_in_mean(one) if (one.in_mean != comparison.in_mean).any() else []
        told = _told(comparison, results, measure, lambda of: of.in_one)
        if told:
            notes.append(
                f"{measure.name} has no value where only one of the two masks has the label, and is left out there. "
                f"{told}. A missed structure counts in the Dice and not in {measure.name}."
            )
        told = _told(comparison, results, measure, lambda of: of.cut)
        if told:
            notes.append(
                f"{measure.name} has no value where the ignore label leaves no surface of one of the two masks, and is "
                f"left out there. {told}."
            )
    return notes


def _told(
    comparison: Comparison, results: Results, measure: Measure, labels_of: Callable[[_Measured], Sequence[str]]
) -> str:
    """How often, of all runs of each model and by label, the measure has no value for one of the labels; or nothing."""
    counts: dict[str, Counter[str]] = {model.name: Counter() for model in comparison.models}
    for job, of in results:
        without = (key for key in labels_of(of) if math.isnan(of.values[measure.key][key]))
        counts[job.model].update(comparison.labels[key] for key in without)
    return "; ".join(f"{name}: {_listed(count)}" for name, count in counts.items()) if any(counts.values()) else ""


def _listed(counts: Counter[str]) -> str:
    return f"{sum(counts.values())} ({', '.join(f'{name} {n}' for name, n in counts.items())})" if counts else "none"
