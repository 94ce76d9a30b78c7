"""From a source to nnU-Net's raw format, case by case, so that it may be stopped and goes on."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_xattnres.commands.convert.data_set import Case, DataSet, Found, Pair, SkippedCaseError
from nnunet_xattnres.commands.convert.record import Record
from nnunet_xattnres.commands.convert.sources import stamp_of
from nnunet_xattnres.commands.convert.splits import Fold, folds_of, leaks, parts_of
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import replacing, write_json
from nnunet_xattnres.nnunet.pool import Progress

_FOLDER = {"training": "Tr", "validation": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class Outcome:
    """What became of a source."""

    folder: Path
    parts: dict[str, tuple[int, int]]  # of the official split: how many were converted, of how many
    n_before: int  # cases that an earlier run had converted
    n_training: int
    n_test: int
    skipped: dict[str, list[str]]  # reason -> file or case
    mended: dict[str, int]  # what -> cases
    measured: dict[str, str]
    copies: int  # cases that are an exact copy of another one
    folds: list[Fold]
    warnings: list[str]


def _silent(what: str, n: int) -> Callable[[], None]:
    return lambda: None


def convert(
    data_set: DataSet,
    source: Path,
    out: Path,
    *,
    number: int | None = None,
    size: int | None = None,
    split: str | None = None,
    progress: Progress = _silent,
) -> Outcome:
    """Convert a data set as it is distributed.

    Args:
        data_set: which one, of ``DATA_SETS``.
        source: the folder with its files, in any folders below it.
        out: a folder of nnUNet_raw.
        number: of the new data set; None for the data set's own.
        size: squeeze pictures to ``size`` x ``size`` pixels; None leaves them.
        split: official, random or sequence; None for the data set's first.
        progress: shows how far it is.

    Returns:
        What was found, skipped and mended; a second run says so of all cases, too.

    Raises:
        UserError: when the source or the folder in ``out`` does not fit, or the data set has no such split.
    """
    number, split = data_set.number if number is None else number, split or data_set.splits[0]
    if split not in data_set.splits:
        raise UserError(f"{data_set.title} has no split {split!r}; it has: {', '.join(data_set.splits)}")
    folder = _new_folder(out, number, data_set)
    found = data_set.find(source, size, progress)
    if not found.cases:
        left = "; ".join(f"{len(what)} {reason}" for reason, what in found.skipped.items()) or "nothing"
        raise UserError(f"{source} holds no case of {data_set.title}, but {left}. Expected: {data_set.expected}")
    record = Record(folder, {"data set": data_set.title, "size": size, "split": split, **found.measured})
    parts = parts_of(found.cases, split)
    _same_parts(record, parts, split)
    record.begin()
    n_before = sum(_is_complete(folder, data_set, record, case, parts) for case in found.cases)
    if n_before < len(found.cases):  # one of fewer cases: without it nnU-Net takes none of a part
        record.describe("dataset.json", None)
    _convert_cases(data_set, folder, found, parts, record, progress)
    if not record.cases:
        why = "; ".join(f"{len(what)} {reason}" for reason, what in found.skipped.items())
        raise UserError(f"none of the {len(found.cases)} cases of {source} can be converted: {why}")
    return _finish(data_set, folder, found, parts, record, split, n_before)


def _new_folder(out: Path, number: int, data_set: DataSet) -> Path:
    folder = out / f"Dataset{number:03d}_{data_set.folder}"
    others = [path.name for path in out.glob(f"Dataset{number:03d}_*") if path.name != folder.name]
    if others:
        raise UserError(f"{out} has {others[0]}, which has the number {number}, too; choose another with -d")
    return folder


def _same_parts(record: Record, parts: dict[str, str], split: str) -> None:
    """Nothing that was converted before may be missing now, or belong elsewhere: the folder would hold both."""
    for name, case in record.cases.items():
        if _FOLDER.get(parts.get(name, "")) != case["folder"]:
            what = "is not in the source any more" if name not in parts else "is in another part now"
            why = "A random split is drawn over all cases of the source: one more or less moves others. "
            raise UserError(
                f"{record.path.parent} was made from other cases: {name} {what}. {why if split == 'random' else ''}"
                "To go on, make the source as it was; to convert what there is now, choose another number with -d, or "
                "remove the folder"
            )


def _paths(folder: Path, data_set: DataSet, name: str, part: str) -> tuple[Path, Path]:
    """Of the image and its labels."""
    which, ending = _FOLDER[part], data_set.file_ending
    return folder / f"images{which}" / f"{name}_0000{ending}", folder / f"labels{which}" / f"{name}{ending}"


def _is_complete(folder: Path, data_set: DataSet, record: Record, case: Case, parts: dict[str, str]) -> bool:
    """Whether the case was converted from the very files that are in the source."""
    there = all(path.is_file() for path in _paths(folder, data_set, case.name, parts[case.name]))
    return there and record.cases.get(case.name, {}).get("source") == stamp_of(case.files)


def _convert_cases(
    data_set: DataSet, folder: Path, found: Found, parts: dict[str, str], record: Record, progress: Progress
) -> None:
    one_is_done = progress("converting", len(found.cases))
    for case in found.cases:
        if not _is_complete(folder, data_set, record, case, parts):
            paths, source = _paths(folder, data_set, case.name, parts[case.name]), stamp_of(case.files)
            try:
                pair = case.read()
            except SkippedCaseError as reason:
                found.skip(str(reason), case.name)
                for path in paths:  # of files that were in the source before
                    path.unlink(missing_ok=True)
                record.drop(case.name)
            else:
                _write(pair, paths)
                which = _FOLDER[parts[case.name]]
                facts = {"name": case.name, "folder": which, "source": source}
                record.add({**facts, "mended": pair.mended, "fingerprint": pair.fingerprint})
        one_is_done()


def _write(pair: Pair, paths: tuple[Path, Path]) -> None:
    for content, path in zip((pair.image, pair.label), paths, strict=True):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)


def _finish(
    data_set: DataSet, folder: Path, found: Found, parts: dict[str, str], record: Record, split: str, n_before: int
) -> Outcome:
    """Write what describes the cases, and say what became of them."""
    parts = {name: part for name, part in parts.items() if name in record.cases}
    sequences = {case.name: case.sequence for case in found.cases if case.name in parts}
    copies = {name: str(record.cases[name]["fingerprint"]) or name for name in parts}
    folds = folds_of(split, parts, sequences, copies)
    n_training = sum(part != "test" for part in parts.values())
    record.describe("splits_final.json", folds or None)  # nnU-Net's planner takes it along
    write_json(found.skipped, folder / "skipped.json")
    record.describe("dataset.json", _description(data_set, n_training))  # nnU-Net needs it: last
    counts = Counter(case.part for case in found.cases if case.name in parts)
    return Outcome(
        folder=folder,
        parts={part: (counts[part], n) for part, n in data_set.parts.items()},
        n_before=n_before,
        n_training=n_training,
        n_test=len(parts) - n_training,
        skipped=found.skipped,
        mended=dict(Counter(what for name in parts for what in record.cases[name]["mended"])),
        measured=found.measured,
        copies=len(copies) - len(set(copies.values())),
        folds=folds,
        warnings=[leaks(parts, sequences, copies)] if split == "random" and "sequence" in data_set.splits else [],
    )


def _description(data_set: DataSet, n_training: int) -> dict[str, Any]:
    return {
        "name": data_set.title,
        "reference": data_set.cite,
        "licence": data_set.terms,
        "channel_names": {str(i): name for i, name in enumerate(data_set.channels)},
        "labels": {"background": 0} | {name: i for i, name in enumerate(data_set.labels, start=1)},
        "numTraining": n_training,
        "file_ending": data_set.file_ending,
    }
