"""The raw numbers of a comparison as a file, from which it can be made again."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from nnunet_xattnres.commands.compare.measure import DICE
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.table import Comparison
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import open_table, replacing
from nnunet_xattnres.nnunet.results import Dice, Fold, Run

COLUMNS = ("model", "run", "fold", "case", "label", "dice")  # of another measure the last is its name


def cases_file(key: str) -> str:
    """The name of the file with the values of every case, by the key of the measure."""
    return "cases.csv" if key == DICE.key else f"{key}_cases.csv"


def write_cases(comparison: Comparison, path: Path) -> None:
    """The Dice, or what else is compared, of every case, label, model and repeat."""
    with replacing(path) as partial, open_table(partial) as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:-1], comparison.measure.key])
        for model in comparison.models:
            for run in model.runs:
                for name, fold in run.folds.items():
                    for case, values in fold.values(comparison.measure.key).items():
                        for key, value in values.items():
                            label = comparison.labels.get(key, key)
                            writer.writerow([model.name, run.folder.name, name, case, label, value])


def read_cases(path: Path) -> list[Model]:
    """The models of a file that ``write_cases`` has written, everything in the file's order.

    The labels' names stand in for the keys of a summary.json; what the file does not hold is not known.

    Raises:
        UserError: when the file cannot be read, is no such file, or does not hold what a comparison needs.
    """
    found: dict[str, dict[str, dict[str, Dice]]] = {}
    for line, row in _rows(path):
        model, run, fold, case, label, text = (row[column] for column in COLUMNS)
        dice = found.setdefault(model, {}).setdefault(run, {}).setdefault(fold, {}).setdefault(case, {})
        if label in dice:
            raise UserError(
                f"{path}, line {line}: {case}, {label} is given a second time for {model}, {run}, fold {fold}; "
                f"remove one of the two"
            )
        other = next((name for name, cases in found[model][run].items() if name != fold and case in cases), None)
        if other is not None:
            raise UserError(
                f"{path}, line {line}: {case} of {model}, {run} is in fold {fold} and in fold {other}; "
                f"remove one of the two"
            )
        dice[label] = _dice(text, f"{path}, line {line}")
    if len(found) < 2:
        raise UserError(f"{path} has {f'only the model {next(iter(found))!r}' if found else 'no lines'}: it takes two")
    return [
        Model(model, tuple(_run(run, folds, f"{path}: {model}, {run}") for run, folds in runs.items()))
        for model, runs in found.items()
    ]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines below the header, with their numbers."""
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark at the start
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path} is no cases.csv of `nnunet-xattnres compare`: it has no column {', '.join(missing)}"
                )
            for row in reader:
                if None in row or None in row.values():  # how the csv module shows too many and too few
                    raise UserError(f"{path}, line {reader.line_num} has not as many cells as the header; correct it")
                rows.append((reader.line_num, row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return rows


def _dice(text: str, where: str) -> float:
    try:
        value = float(text.strip() or "nan")
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise UserError(f"{where}: the Dice {text!r} is no number; where there is none, leave it empty or write nan")
    return value


def _run(name: str, folds: Mapping[str, Dice], where: str) -> Run:
    labels = {label: label for cases in folds.values() for dice in cases.values() for label in dice}
    for fold, cases in folds.items():
        for case, dice in cases.items():
            missing = [label for label in labels if label not in dice]
            if missing:
                raise UserError(
                    f"{where}, fold {fold} has no line for {case}, {missing[0]}, but for other cases; "
                    f"add it, with an empty Dice where there is none"
                )
    return Run(Path(name), {fold: Fold(cases) for fold, cases in folds.items()}, labels, None, {})
