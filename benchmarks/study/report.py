"""A study's report: compare's tables and pictures for each schedule, learning curves, and RESULTS.md."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.study.curves import Groups, draw_curves, usual_processor
from benchmarks.study.description import Study
from benchmarks.study.folders import Folders
from benchmarks.study.records import Record, other_records, read_records
from benchmarks.study.repeats import dice_of_repeats, in_rounds, run_name
from benchmarks.study.results_page import results_page
from nnunet_xattnres.commands.compare import write_comparison
from nnunet_xattnres.commands.compare.fairness import refuse_unfair
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.statistics import over_repeats
from nnunet_xattnres.commands.compare.table import Comparison, Row
from nnunet_xattnres.common.files import write_text
from nnunet_xattnres.nnunet.results import Fold, Run


def write_report(study: Study, folders: Folders) -> Path | None:
    """Write a folder of tables for each schedule, curves.png and RESULTS.md from the records that there are.

    Returns:
        RESULTS.md; None when there is no record.
    """
    records = read_records(study, folders)
    if not records:
        return None
    groups = grouped(study, records)
    draw_curves(groups, trainers_of(groups), folders.results / "curves.png")
    rows = {}
    for schedule, by_trainer in groups.items():
        comparison = comparison_of(study, by_trainer)
        if comparison is not None:
            title = f"{study.name}, {schedule}: {study.dataset}, {study.configuration}"
            found = write_comparison(comparison, folders.results / schedule, title)
            rows[schedule] = with_repeats(study, by_trainer, found)
    path = folders.results / "RESULTS.md"
    write_text(results_page(study, groups, rows, other_records(study, folders)), path)
    return path


def grouped(study: Study, records: Sequence[Record]) -> Groups:
    """The records by schedule and trainer, in the study's order."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for schedule in study.schedules:
        for trainer in study.trainers_of(schedule):
            here = [r for r in records if (r.training.schedule, r.training.trainer) == (schedule, trainer)]
            if here:
                groups.setdefault(schedule, {})[trainer] = here
    return groups


def trainers_of(groups: Groups) -> list[str]:
    return list(dict.fromkeys(trainer for by_trainer in groups.values() for trainer in by_trainer))


def comparison_of(study: Study, by_trainer: Mapping[str, Sequence[Record]]) -> Comparison | None:
    """The trainers of a schedule on the repeats, or rounds, that have all folds; None while there are not two."""
    models = []
    processor = usual_processor(record for records in by_trainer.values() for record in records)
    for trainer, records in by_trainer.items():
        of_runs: dict[str, dict[str, Fold]] = {}
        for record in records:
            run = of_runs.setdefault(run_name(study, record.training), {})
            run[str(record.training.fold)] = _fold(record, processor)
        runs = [_run(name, folds) for name, folds in of_runs.items() if len(folds) == len(study.folds)]
        if runs:
            models.append(Model(trainer, tuple(runs)))
    if len(models) < 2 or models[0].name != study.trainers[0]:
        return None
    notes = refuse_unfair(models, ())
    if study.rotate_folds:
        notes.append(f"Each run here is a round over the folds: {len(study.folds)} trainings, one on each of them.")
    return Comparison.of(models, notes)


def with_repeats(study: Study, by_trainer: Mapping[str, Sequence[Record]], rows: Sequence[Row]) -> Sequence[Row]:
    """``rows`` of a schedule's comparison; where the folds rotate, with the single repeats.

    That is for the rows of the mean over the labels: ``compare`` has that of rounds there. A repeat whose round is not
    complete is in neither.
    """
    if not study.rotate_folds:
        return rows
    values = {trainer: dice_of_repeats(study, in_rounds(study, records)) for trainer, records in by_trainer.items()}
    first, found = study.trainers[0], []
    for row in rows:
        if row.is_mean:
            here = values[row.model]
            over = None if row.model == first else over_repeats(values[first], here)
            row = replace(row, repeats=here, over_repeats=over)
        found.append(row)
    return found


def _fold(record: Record, processor: str) -> Fold:
    """With the duration of an epoch only if it ran on ``processor``."""
    facts = record.facts
    seconds = record.usual_epoch if record.processor == processor else None
    return Fold(
        dice=record.dice,
        n_training_cases=facts["training_cases"],
        epochs=facts["settings"]["epochs"],
        iterations=facts["settings"]["iterations"],
        epoch_seconds=seconds,
        gpu_memory=facts["gpu_memory"],
        parameters=facts["parameters"],
    )


def _run(name: str, folds: dict[str, Fold]) -> Run:
    labels = next(iter(next(iter(folds.values())).dice.values()))
    return Run(Path(name), folds, {label: label for label in labels}, None, {})
