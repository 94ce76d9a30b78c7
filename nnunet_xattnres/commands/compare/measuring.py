"""Measures beside the Dice, from the masks of every case."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_xattnres.commands.compare.measure import Measure
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.surfaces import Compute, dice
from nnunet_xattnres.commands.compare.table import Comparison, not_in_mean
from nnunet_xattnres.commands.compare.wanted import Wanted
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.nnunet.masks import Files, Reader, files_of_validation, mask_of
from nnunet_xattnres.nnunet.results import Run, Values

Track = Callable[[Sequence["_Job"]], Iterable["_Job"]]


@dataclass(frozen=True)
class _Job:
    """A case of a run."""

    run: Path
    fold: str
    case: str
    files: Files
    dice: Mapping[str, float]


def with_measures(
    comparison: Comparison, wanted: Wanted, labels: Path | None = None, track: Track = iter
) -> Comparison:
    """The comparison with further measures, computed for each of its cases, labels and runs.

    Args:
        labels: the folder with the true masks, where the models are folders of predictions.
        track: goes through the work; to show how far it is.

    Raises:
        UserError: when a mask is missing or cannot be read, or is not the one that the Dice is of.
    """
    if not (wanted.metrics or wanted.convention):
        return replace(comparison, notes=[*comparison.notes, *wanted.notes])
    jobs = [
        _Job(run.folder, name, case, files[case], fold.dice[case])
        for model in comparison.models
        for run in model.runs
        for name, fold in run.folds.items()
        for files in (_files(run, name, labels),)
        for case in fold.dice
        if case in comparison.cases
    ]
    run = comparison.models[0].runs[0]
    plans, dataset = (read_json(run.folder / name) for name in ("plans.json", "dataset.json"))
    reader = Reader(plans, dataset, jobs[0].files.reference)
    ignore = run.labels.get("ignore")
    further, published = wanted.measures(reader.pictures), wanted.published()
    measures = {**further, **published}
    found: dict[tuple[Path, str, str], Values] = defaultdict(dict)
    for job in track(jobs):
        of_job = _measured(job, list(comparison.labels), reader, ignore, measures)
        for key, values in of_job.items():
            found[job.run, job.fold, key][job.case] = values
    models = [
        Model(model.name, tuple(_with(run, found, measures) for run in model.runs)) for model in comparison.models
    ]
    measured = replace(comparison, models=models, further=tuple(further), published=tuple(published))
    return replace(measured, notes=[*comparison.notes, *wanted.notes, *_without_value(measured)])


def _files(run: Run, fold: str, labels: Path | None) -> Mapping[str, Files]:
    if labels is None:
        return files_of_validation(run.folder / f"fold_{fold}")
    return {case: Files(run.folder / case, labels / case) for case in run.folds[fold].dice}


def _measured(
    job: _Job, keys: Sequence[str], reader: Reader, ignore: int | None, measures: Mapping[Measure, Compute]
) -> dict[str, dict[str, float]]:
    """Measure -> label -> value."""
    masks = reader.read(job.files)
    counts = True if ignore is None else masks.reference != ignore  # as in nnU-Net's evaluation
    found: dict[str, dict[str, float]] = {measure.key: {} for measure in measures}
    for key in keys:
        prediction, reference = (mask_of(mask, key) & counts for mask in masks[:2])
        _refuse_other_masks(job, key, dice(prediction, reference))
        for measure, compute in measures.items():
            found[measure.key][key] = compute(prediction, reference, masks.spacing)
    return found


def _refuse_other_masks(job: _Job, key: str, here: float) -> None:
    there = job.dice[key]
    if not (math.isclose(here, there, rel_tol=1e-6) or (math.isnan(here) and math.isnan(there))):
        raise UserError(
            f"{job.files.prediction} and {job.files.reference} have a Dice of {here:.6g} for label {key}, and the "
            f"summary.json in {job.run} says {there:.6g}: they have changed since. Validate again: "
            f"nnUNetv2_train ... --val"
        )


def _with(run: Run, found: Mapping[tuple[Path, str, str], Values], measures: Iterable[Measure]) -> Run:
    folds = {
        name: replace(fold, measured={m.key: found.get((run.folder, name, m.key), {}) for m in measures})
        for name, fold in run.folds.items()
    }
    return replace(run, folds=folds)


def _without_value(comparison: Comparison) -> list[str]:
    """How often a measure has no value, although one of the two masks has the label."""
    notes = []
    for measure in comparison.further:
        one = comparison.by(measure)
        notes += not_in_mean(one) if (one.in_mean != comparison.in_mean).any() else []
        counts = {model.name: _missed(comparison, model, measure) for model in comparison.models}
        if any(counts.values()):
            told = "; ".join(f"{name}: {_listed(count)}" for name, count in counts.items())
            notes.append(
                f"{measure.name} has no value where only one of the two masks has the label, and is left out there. "
                f"{told}. A missed structure counts in the Dice and not in {measure.name}."
            )
    return notes


def _missed(comparison: Comparison, model: Model, measure: Measure) -> Counter[str]:
    """Of all runs, by label."""
    return Counter(
        name
        for run in model.runs
        for case, values in run.values(measure.key).items()
        for key, name in comparison.labels.items()
        if math.isnan(values[key]) and not math.isnan(run.dice[case][key])
    )


def _listed(counts: Counter[str]) -> str:
    return f"{sum(counts.values())} ({', '.join(f'{name} {n}' for name, n in counts.items())})" if counts else "none"
