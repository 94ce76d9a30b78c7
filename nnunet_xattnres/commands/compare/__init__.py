"""Models against each other on the same cases, from what nnU-Net has left of their trainings."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from nnunet_xattnres.commands.compare.cases import cases_file, read_cases, write_cases
from nnunet_xattnres.commands.compare.curves import draw_curves
from nnunet_xattnres.commands.compare.fairness import CHECKS, gaps, refuse_unfair
from nnunet_xattnres.commands.compare.measure import DICE
from nnunet_xattnres.commands.compare.measuring import with_measures
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.page import write_html
from nnunet_xattnres.commands.compare.picture import draw
from nnunet_xattnres.commands.compare.predictions import evaluated, predicted, without_predictions
from nnunet_xattnres.commands.compare.report import doubts, write_csv, write_markdown
from nnunet_xattnres.commands.compare.screen import compared, tables
from nnunet_xattnres.commands.compare.table import Comparison, Row, make_rows, rows_of
from nnunet_xattnres.commands.compare.wanted import KEYS, Wanted
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import is_same, refuse_no_folder
from nnunet_xattnres.nnunet.find import common_folds, find_models, left_out_repeats, with_folds
from nnunet_xattnres.nnunet.pool import Progress
from nnunet_xattnres.nnunet.results import read_run

__all__ = [
    "CHECKS",
    "FILES",
    "Comparison",
    "Wanted",
    "compare_cases",
    "compare_predictions",
    "compare_trainings",
    "compared",
    "doubts",
    "refuse_to_lose",
    "tables",
    "with_measures",
    "write_comparison",
    "write_page",
]

PAGE, CURVES = "comparison.html", "curves.png"


def compare_trainings(
    results: Path,
    configuration: str,
    trainers: Sequence[str],
    plans: Sequence[str],
    folds: Sequence[str] = (),
    allowed: Collection[str] = (),
) -> Comparison:
    """Trained models, by their validation. A repeat without any validated fold is left out, with a note.

    Args:
        results: a data set's folder in nnUNet_results.
        configuration: ``3d_fullres``, for example.
        trainers, plans: their names; the first trainer on the first plans is what the others are compared with.
        folds: by default as ``common_folds``.
        allowed: differences, of ``CHECKS``, that do not stop the comparison.

    Raises:
        UserError: when a model or a fold is missing, a file cannot be read, a case is in two folds, or something
            differs that must not.
    """
    found = find_models(results, configuration, trainers, plans)
    if len(found) < 2:
        raise UserError(f"there is nothing to compare {found[0][0]!r} with: name a second trainer or second plans")
    taken = {name: with_folds(repeats) for name, repeats in found}
    left_out = left_out_repeats([folder for name, repeats in found for folder in repeats if folder not in taken[name]])
    if not folds:
        folds, of_folds = common_folds(list(taken.values()))
        left_out += of_folds
    models = [Model(name, tuple(read_run(folder, folds) for folder in repeats)) for name, repeats in taken.items()]
    return Comparison.of(models, [*left_out, *refuse_unfair(models, allowed), *gaps(models)])


def compare_predictions(
    predictions: Mapping[str, Path], labels: Path, allowed: Collection[str], progress: Progress
) -> Comparison:
    """Folders of predictions, by the Dice as nnU-Net computes it; nothing is written into them.

    Args:
        predictions: a folder for each name, with the dataset.json and the plans.json that nnU-Net's prediction writes.
        labels: the folder with the true masks. What it has more than all of the folders is left out, with a note.
        allowed: as in ``compare_trainings``.

    Raises:
        UserError: when a folder or a file is missing or a mask cannot be read, a prediction has no true mask, or
            something differs that must not.
    """
    if len(predictions) < 2:
        raise UserError("name two folders of predictions at least: --predictions NAME=FOLDER NAME=FOLDER")
    for folder in (*predictions.values(), labels):
        refuse_no_folder(folder)
    runs = {name: predicted(folder, labels) for name, folder in predictions.items()}
    notes = without_predictions(list(runs.values()), labels)
    notes += refuse_unfair([Model(name, (run,)) for name, run in runs.items()], allowed)  # before what takes hours
    return Comparison.of([Model(name, (evaluated(run, labels, progress),)) for name, run in runs.items()], notes)


def compare_cases(path: Path, allowed: Collection[str] = ()) -> Comparison:
    """A comparison again, from the cases.csv that ``write_comparison`` has written of it.

    Args:
        path: the file; its first model is what the others are compared with.
        allowed: as in ``compare_trainings``; of what the trainings were, the file tells the cases and the labels only.

    Raises:
        UserError: when the file cannot be read or is no such file, or the cases or labels differ.
    """
    models = read_cases(path)
    return Comparison.of(models, refuse_unfair(models, allowed))


def write_comparison(comparison: Comparison, out: Path, title: str) -> list[Row]:
    """Write the tables and a picture of each measure into the folder ``out``; the rows of the tables."""
    rows = make_rows(comparison)
    out.mkdir(parents=True, exist_ok=True)
    for one in [*comparison.each(), *map(comparison.by, comparison.published)]:
        table, cases = _tables_of(one.measure.key)
        write_csv(rows_of(one, rows), out / table)
        write_cases(one, out / cases)
    for one in comparison.each():
        draw(one, rows, out / _picture_of(one.measure.key))
    write_markdown(comparison, rows, out / "comparison.md", title)
    return rows


def write_page(comparison: Comparison, rows: Sequence[Row], out: Path, title: str) -> list[str]:
    """Write the page, and the learning curves where there are any, into the folder ``out``.

    Args:
        rows: as ``write_comparison`` returns them.

    Returns:
        The names of all files of the comparison.
    """
    write_html(comparison, rows, out / PAGE, title)
    written = [*_files_of_comparison(comparison), "comparison.md", PAGE]
    return [*written, CURVES] if draw_curves(comparison.models, out / CURVES) else written


def _tables_of(key: str) -> tuple[str, str]:
    """The table of a measure, and that of its cases."""
    return "comparison.csv" if key == DICE.key else f"{key}.csv", cases_file(key)


def _picture_of(key: str) -> str:
    return "comparison.png" if key == DICE.key else f"{key}.png"


def _files_of(tables: Iterable[str], pictures: Iterable[str]) -> list[str]:
    """Those of the measures with these keys."""
    return [*(name for key in tables for name in _tables_of(key)), *map(_picture_of, pictures)]


def _files_of_comparison(comparison: Comparison) -> list[str]:
    pictures = [one.measure.key for one in comparison.each()]
    return _files_of([*pictures, *(measure.key for measure in comparison.published)], pictures)


_FROM_CASES = ("comparison.md", PAGE, *_files_of([DICE.key], [DICE.key]))  # all that a cases.csv suffices for
FILES = (*_FROM_CASES, CURVES, *_files_of(KEYS, KEYS))


def refuse_to_lose(cases: Path, out: Path) -> None:
    """Refuse to replace the comparison that a cases.csv is of, where it has files that cannot be made from that again.

    Raises:
        UserError: naming them.
    """
    lost = [name for name in FILES if name not in _FROM_CASES and (out / name).exists()]
    if lost and is_same(out, cases.resolve().parent):
        raise UserError(
            f"{out} has {', '.join(lost)}, which {cases} is not enough to make again: name another folder with -o"
        )
