"""The model folders that are meant: which trainers on which plans, and what to do where one is missing."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.order import by_number
from nnunet_xattnres.nnunet.plans import REPEAT
from nnunet_xattnres.nnunet.results import folds_of


class _Folder(NamedTuple):
    """A model folder, TRAINER__PLANS__CONFIGURATION."""

    path: Path
    trainer: str
    plans: str
    configuration: str

    @property
    def repeated(self) -> str:
        """The plans, without the ``_repN`` of a repeat."""
        return REPEAT.sub("", self.plans)


def find_models(
    results: Path, configuration: str, trainers: Sequence[str], plans: Sequence[str]
) -> list[tuple[str, list[Path]]]:
    """The model folders of every trainer on every plans for which there are some, with a name for each group.

    Args:
        results: a data set's folder in nnUNet_results.
        configuration: ``3d_fullres``, for example.
        trainers, plans: their names. Plans stand for themselves and all their repeats, ``PLANS_repN``; the name of a
            repeat stands for that one alone.

    Raises:
        UserError: for a configuration, a trainer or plans without any folder, and for plans that are named together
            with a repeat of theirs.
    """
    for repeat in plans:
        if REPEAT.sub("", repeat) in set(plans) - {repeat}:
            raise UserError(
                f"-p: {REPEAT.sub('', repeat)} stands for all its repeats, {repeat} among them; name it alone, "
                f"or the repeats that you want to compare with each other"
            )
    folders = _of_configuration(results, configuration)
    found = {(trainer, name): _chosen(folders, trainer, name) for trainer in trainers for name in plans}
    found = {key: chosen for key, chosen in found.items() if chosen}
    _refuse_missing_trainers(results, folders, trainers, plans, list(found))
    for name in plans:
        if not any(key[1] == name for key in found):
            there = {folder.plans for folder in folders if folder.trainer in trainers}
            raise UserError(f"{results} has no results on the plans {name!r} for {configuration}; {_list(name, there)}")
    return [(_name(key, list(found)), paths) for key, paths in found.items()]


def with_folds(repeats: Sequence[Path]) -> list[Path]:
    """The repeats that have a validated fold: others have only begun. All where none has one."""
    return [folder for folder in repeats if folds_of(folder)] or list(repeats)


def left_out_repeats(folders: Sequence[Path]) -> list[str]:
    """Which repeats are left out because they have no validated fold, in words; nothing where there are none."""
    names = ", ".join(folder.name for folder in folders)
    return [f"Left out: {names}, without any validated fold. To have it, too, finish it."] if names else []


def common_folds(models: Sequence[Sequence[Path]]) -> tuple[list[str], list[str]]:
    """The validated folds that all model folders have; and in words, which others are left out because of which folder.

    Fold ``all`` is among them only where it is the only one: its cases are those of the others, and it was trained on
    them.

    Args:
        models: the folders of the repeats of each.

    Raises:
        UserError: when there is none.
    """
    there = {folder.name: folds_of(folder) for repeats in models for folder in repeats}
    common = set.intersection(*map(set, there.values()))
    if not common:
        have = "; ".join(f"{name}: {', '.join(folds) or 'none'}" for name, folds in there.items())
        every = set().union(*there.values())
        way_out = _or_move_away([name for name, folds in there.items() if set(folds) < every], models)
        raise UserError(f"these models have no validated fold in common: {have}. Train a fold in all of them{way_out}")
    lacking: dict[tuple[str, ...], list[str]] = {}
    for fold in sorted(set().union(*there.values()) - common - {"all"}, key=by_number):
        without = tuple(name for name, folds in there.items() if fold not in folds)
        lacking.setdefault(without, []).append(fold)
    left_out = [
        f"Fold {', '.join(folds)} left out: not validated in {', '.join(without)}. Train it there, or validate what is "
        f"trained with --val, to have it, too{_or_move_away(without, models)}."
        for without, folds in lacking.items()
    ]
    return sorted(common - {"all"} or common, key=by_number), left_out


def _or_move_away(names: Sequence[str], models: Sequence[Sequence[Path]]) -> str:
    """The other way out for those of the folders that are one of several repeats: the others need not wait for it."""
    repeats = [folder.name for repeats in models if len(repeats) > 1 for folder in repeats if folder.name in names]
    return f"; or, to compare without a repeat, move it out of nnUNet_results: {', '.join(repeats)}" if repeats else ""


def cases_of_folds(n: int, folds: Sequence[str]) -> str:
    """How many cases of which folds, in words."""
    of_folds = f" of fold {', '.join(folds)}" if folds else ""
    return f"{n} case{'' if n == 1 else 's'}{of_folds}"


def _of_configuration(results: Path, configuration: str) -> list[_Folder]:
    paths = sorted((path for path in results.iterdir() if path.name.count("__") == 2), key=lambda p: by_number(p.name))
    all_folders = [_Folder(path, *path.name.split("__")) for path in paths if path.is_dir()]
    found = [folder for folder in all_folders if folder.configuration == configuration]
    if not found:
        there = {folder.configuration for folder in all_folders}
        raise UserError(
            f"{results} has no results of the configuration {configuration!r}; {_list(configuration, there)}"
        )
    return found


def _chosen(folders: Sequence[_Folder], trainer: str, plans: str) -> list[Path]:
    return [f.path for f in folders if f.trainer == trainer and plans in (f.plans, f.repeated)]


def _refuse_missing_trainers(
    results: Path,
    folders: Sequence[_Folder],
    trainers: Sequence[str],
    plans: Sequence[str],
    found: Sequence[tuple[str, str]],
) -> None:
    missing = [trainer for trainer in trainers if not any(key[0] == trainer for key in found)]
    elsewhere = {t: [folder for folder in folders if folder.trainer == t] for t in missing}
    for trainer, there in elsewhere.items():
        if not there:
            names = _list(trainer, {folder.trainer for folder in folders})
            configuration = folders[0].configuration
            raise UserError(f"{results} has no results of the trainer {trainer!r} for {configuration}; {names}")
    if missing:
        kept = [name for name in plans if any(key[1] == name for key in found)]
        of_each = [{folder.repeated for folder in there} for there in elsewhere.values()]
        ways = [[name] for name in sorted(set.intersection(*of_each))] or [sorted(set.union(*of_each))]
        options = " or ".join(f"-p {' '.join([*kept, *way])}" for way in ways)
        told = "; ".join(f"{t} on {', '.join(folder.plans for folder in there)}" for t, there in elsewhere.items())
        raise UserError(f"{results} has no results on the plans {', '.join(plans)}, but of {told}: add {options}")


def _list(name: str, there: set[str]) -> str:
    """What there is, and which of it is probably meant."""
    close = get_close_matches(name, sorted(there), 1)
    return f"there is: {', '.join(sorted(there)) or 'nothing'}" + (f". Did you mean {close[0]}?" if close else "")


def _name(key: tuple[str, str], all_keys: Sequence[tuple[str, str]]) -> str:
    trainer, plans = key
    if len({p for _, p in all_keys}) == 1:
        return trainer
    return plans if len({t for t, _ in all_keys}) == 1 else f"{trainer}, {plans}"
