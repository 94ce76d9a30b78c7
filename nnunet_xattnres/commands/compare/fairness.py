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
_PREPROCESSING = ("data_identifier", "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")


def differences(models: Sequence[Model]) -> dict[str, str]:
    """What differs between the models, by the name of the check, in words that name two of them and the difference."""
    found = {}
    runs = [(model.name, run) for model in models for run in model.runs]
    first_name, first = runs[0]
    for check in (*CHECKS, *_TOLD):
        expected = _facts(check, first)
        for name, run in runs[1:]:
            facts = _facts(check, run)
            difference = next((key for key in expected if facts.get(key) != expected[key]), None)
            difference = next((key for key in facts if key not in expected), None) if difference is None else difference
            if difference is not None:
                here, there = _short(expected.get(difference)), _short(facts.get(difference))
                found[check] = (
                    f"{(CHECKS | _TOLD)[check]} differ: {difference} is {here} in {first_name} ({first.folder.name}) "
                    f"and {there} in {name} ({run.folder.name})"
                )
                break
    return found


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
    """What must be the same, without what is not known: a fold that only one of two runs has differs in its cases."""
    if check == "cases":
        return {f"{case} of fold {name}": "there" for name, fold in run.folds.items() for case in fold.dice}
    if check == "splits":
        trained = {f"fold {name}": fold.n_training_cases for name, fold in run.folds.items()}
        return {name: n for name, n in trained.items() if n is not None}
    if check == "labels":
        return {**{f"label {name}": value for name, value in run.labels.items()}, "regions_class_order": run.regions}
    if check == "epochs":
        lengths = {f"fold {name}": (fold.epochs, fold.iterations) for name, fold in run.folds.items()}
        return {name: length for name, length in lengths.items() if length != (None, None)}
    keys = _PREPROCESSING if check == "preprocessing" else ("patch_size", "batch_size")
    return {key: run.configuration.get(key) for key in keys}


def _short(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
