"""Whether a comparison is one: what must be the same in all models (nnU-Net Revisited, arXiv 2404.09556)."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.results import Run

CHECKS = {
    "cases": "validation cases",
    "splits": "number of training cases",
    "labels": "labels",
    "epochs": "epochs and iterations",
    "preprocessing": "preprocessed data",
}
_TOLD = {"plans": "patch or batch size"}  # what may differ between plans; the reader is told
_COMPLETE = ("cases", "labels", "preprocessing", "plans")  # of these, what a run does not have is a difference
_PREPROCESSING = ("data_identifier", "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")


def differences(models: Sequence[Model]) -> dict[str, str]:
    """What differs between the models, by the name of the check, in words that name two of them and the difference."""
    found = {}
    runs = [(model.name, run) for model in models for run in model.runs]
    for check, what in (CHECKS | _TOLD).items():
        facts = [(name, run, _facts(check, run)) for name, run in runs]
        for key in dict.fromkeys(key for _, _, of_run in facts for key in of_run):
            there = [(name, run, of_run.get(key)) for name, run, of_run in facts if key in of_run or check in _COMPLETE]
            name, run, value = there[0]
            other = next((other for other in there if other[2] != value), None)
            if other is not None:
                found[check] = (
                    f"{what} differ: {key} is {_short(value)} in {name} ({run.folder.name}) "
                    f"and {_short(other[2])} in {other[0]} ({other[1].folder.name})"
                )
                break
    return found


def gaps(models: Sequence[Model]) -> list[str]:
    """What is not known of the trainings, and was therefore not checked, in words."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in (run for model in models for run in model.runs):
        for name, fold in run.folds.items():
            if fold.gaps:
                found.setdefault((run.folder.name, fold.gaps), []).append(name)
    return [f"{folder}, fold {', '.join(folds)}: {text}." for (folder, text), folds in found.items()]


def refuse_unfair(models: Sequence[Model], allowed: Collection[str]) -> list[str]:
    """What differs and is allowed to, in words; another patch or batch size always is.

    Raises:
        UserError: for what differs and is not allowed to.
    """
    found = differences(models)
    refused = {check: text for check, text in found.items() if check not in (*allowed, *_TOLD)}
    if refused:
        lines = "\n".join(f"  {text}" for text in refused.values())
        options = " ".join(f"--allow {check}" for check in refused)
        raise UserError(f"these models cannot be compared fairly:\n{lines}\nTo compare them all the same: {options}")
    return list(found.values())


def _facts(check: str, run: Run) -> Mapping[str, Hashable | Any]:
    """What must be the same. Of the lengths, without what is not known: logs and checkpoints may be missing."""
    if check == "cases":
        return {f"{case} of fold {name}": "there" for name, fold in run.folds.items() for case in fold.dice}
    if check == "splits":
        trained = {f"fold {name}": fold.n_training_cases for name, fold in run.folds.items()}
        return {name: n for name, n in trained.items() if n is not None}
    if check == "labels":
        return {**{f"label {name}": value for name, value in run.labels.items()}, "regions_class_order": run.regions}
    if check == "epochs":
        epochs = {f"the number of epochs of fold {name}": fold.epochs for name, fold in run.folds.items()}
        iterations = {f"the iterations of an epoch of fold {name}": fold.iterations for name, fold in run.folds.items()}
        return {name: n for name, n in (epochs | iterations).items() if n is not None}
    keys = _PREPROCESSING if check == "preprocessing" else ("patch_size", "batch_size")
    return {key: run.configuration.get(key) for key in keys}


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
