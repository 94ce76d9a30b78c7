"""Who trains, who validates and who tests."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_xattnres.commands.convert.data_set import Case

SEED = 12345  # nnU-Net's own
N_FOLDS = 5

Fold = dict[str, list[str]]  # "train" and "val": names of cases


def parts_of(cases: Sequence[Case], split: str) -> dict[str, str]:
    """The part of each case: training, validation or test, which is not trained on at all."""
    if split == "official":
        return {case.name: case.part for case in cases}
    names = sorted(case.name for case in cases)
    parts = dict.fromkeys(names, "training")
    if split == "random":
        tenth = math.ceil(len(names) / 10)
        shuffled = np.random.default_rng(SEED).permutation(names).tolist()
        parts |= dict.fromkeys(shuffled[:tenth], "test") | dict.fromkeys(shuffled[tenth : 2 * tenth], "validation")
    return parts


def folds_of(
    split: str, parts: Mapping[str, str], sequences: Mapping[str, str], copies: Mapping[str, str]
) -> list[Fold]:
    """The folds for ``splits_final.json``: of an official split without validation cases nnU-Net's own five.

    They are written down all the same, for nnU-Net's planner compares the file with the one of an earlier data set.
    None when there is nothing to validate on.

    Args:
        split: official, random or sequence.
        parts: of each case.
        sequences: of each case.
        copies: for each case something that only its exact copies share.
    """
    names = sorted(name for name, part in parts.items() if part != "test")
    if split == "sequence":
        return _cross_validation(_groups(names, sequences, copies))
    if split == "random" or "validation" in parts.values():
        fold = {
            "train": [n for n in names if parts[n] == "training"],
            "val": [n for n in names if parts[n] != "training"],
        }
        return [fold] if all(fold.values()) else []
    if len(names) < N_FOLDS:
        return _cross_validation([[name] for name in names])
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    folds = generate_crossval_split(names, seed=SEED, n_splits=N_FOLDS)
    return [{key: [str(name) for name in fold[key]] for key in ("train", "val")} for fold in folds]


def _groups(names: Sequence[str], sequences: Mapping[str, str], copies: Mapping[str, str]) -> list[list[str]]:
    """Cases that must stay together: of one sequence, or of two that have a copy in common."""
    group_of: dict[str, set[str]] = {}  # sequence -> all sequences of its group
    first: dict[str, str] = {}
    for name in names:
        mine = group_of.setdefault(sequences[name], {sequences[name]})
        mine |= group_of[first.setdefault(copies[name], sequences[name])]
        group_of |= dict.fromkeys(mine, mine)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(min(group_of[sequences[name]]), []).append(name)
    return list(groups.values())


def _cross_validation(groups: Sequence[list[str]]) -> list[Fold]:
    """Folds of whole groups, about as many cases in each: the largest group goes to the smallest fold."""
    parts: list[list[str]] = [[] for _ in range(min(N_FOLDS, len(groups)))]
    for group in sorted(groups, key=lambda group: (-len(group), group)):
        min(parts, key=len).extend(group)
    names = sorted(name for group in groups for name in group)
    folds = [{"train": [n for n in names if n not in set(part)], "val": sorted(part)} for part in parts]
    return folds if len(folds) > 1 else []


def leaks(parts: Mapping[str, str], sequences: Mapping[str, str], copies: Mapping[str, str]) -> str:
    """How far the test cases of a random split are known from the training, in words."""
    training = [name for name, part in parts.items() if part == "training"]
    test = [name for name, part in parts.items() if part == "test"]
    seen, same = {sequences[name] for name in training}, {copies[name] for name in training}
    n_near, n_copies = sum(sequences[name] in seen for name in test), sum(copies[name] in same for name in test)
    return (
        f"a random split leaks: of {len(test)} test frames {n_near} are from a video sequence that is also trained on, "
        f"and {n_copies} are exact copies of training frames. --split sequence keeps sequences and copies together; "
        f"whether two sequences are of one patient is not published"
    )
