"""What a study is: the content of its YAML file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from benchmarks.study.declared import Hypothesis, check_hypothesis
from nnunet_xattnres.common.errors import UserError

DEVICES = ("cpu", "cuda", "mps")  # of nnUNetv2_train


@dataclass(frozen=True)
class Schedule:
    """How long trainings are.

    Attributes:
        epochs, iterations, validation_iterations: of a training; of an epoch; of the validation after an epoch.
        repeats: trainings of each trainer on each fold, or on one of them where the study's folds rotate.
        repeats_of: another number of them for some trainers.
        trainers: those of the study, unless it has its own. The study's first alone makes a check, of whether longer
            trainings change it.
    """

    epochs: int
    iterations: int
    validation_iterations: int
    repeats: int
    trainers: tuple[str, ...] = ()
    repeats_of: Mapping[str, int] = field(default_factory=dict)

    def n_repeats(self, trainer: str) -> int:
        return self.repeats_of.get(trainer, self.repeats)


@dataclass(frozen=True)
class Training:
    """One run of nnUNetv2_train."""

    schedule: str
    repeat: int
    trainer: str
    fold: int

    @property
    def name(self) -> str:
        return f"{self.schedule}-rep{self.repeat}-{self.trainer}-fold{self.fold}"


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: of its file.
        dataset: the folder in nnUNet_raw.
        configuration: ``3d_fullres``, for example.
        planner, gpu_memory_target: of nnU-Net's planning; the target in GB, None for the planner's own.
        plans: what is put into the planned configuration: batch_size, features_per_stage, ...
        mirroring: whether the validation takes the mean over mirrored images, as nnU-Net's does.
        folds: of nnU-Net's own five.
        rotate_folds: whether a repeat is trained on one fold, the next repeat on the next; else on every fold.
        device: of the trainings, one of ``DEVICES``.
        trainers: the first is what the others are compared with.
        schedules: by name, the one that tells most first.
        cut_down: in words, what is smaller than nnU-Net would have it, and why.
        hypotheses: declared before the first training; the report has what came out.
    """

    name: str
    dataset: str
    configuration: str
    folds: tuple[int, ...]
    device: str
    trainers: tuple[str, ...]
    schedules: Mapping[str, Schedule]
    cut_down: str
    planner: str = "ExperimentPlanner"
    gpu_memory_target: float | None = None
    plans: Mapping[str, Any] | None = None
    mirroring: bool = True
    rotate_folds: bool = False
    hypotheses: tuple[Hypothesis, ...] = ()

    def trainers_of(self, schedule: str) -> tuple[str, ...]:
        return self.schedules[schedule].trainers or self.trainers

    def folds_of(self, repeat: int) -> tuple[int, ...]:
        """On which a repeat is trained."""
        return (self.folds[repeat % len(self.folds)],) if self.rotate_folds else self.folds

    def trainings(self) -> list[Training]:
        """All of them, so ordered that a study that is stopped early has something of everything."""
        most = max(s.n_repeats(trainer) for name, s in self.schedules.items() for trainer in self.trainers_of(name))
        return [
            Training(name, repeat, trainer, fold)
            for repeat in range(most)
            for fold in self.folds_of(repeat)
            for name, schedule in self.schedules.items()
            for trainer in self.trainers_of(name)
            if repeat < schedule.n_repeats(trainer)
        ]

    def iterations(self, schedule: str) -> int:
        """Of a whole training."""
        return self.schedules[schedule].epochs * self.schedules[schedule].iterations

    def settings(self, schedule: str) -> dict[str, Any]:
        """What the result of a training depends on, and what was declared before it, as JSON has it."""
        length = {key: value for key, value in asdict(self.schedules[schedule]).items() if isinstance(value, int)}
        del length["repeats"]
        return {
            "dataset": self.dataset,
            "configuration": self.configuration,
            "planner": self.planner,
            "gpu_memory_target": self.gpu_memory_target,
            "plans": dict(self.plans or {}),
            "mirroring": self.mirroring,
            "hypotheses": self._declared(),
            "tested": self._tested(),
            **length,
        }

    def _declared(self) -> str | None:
        """How many hypotheses there are, and a digest of them; None for a study without any."""
        if not self.hypotheses:
            return None
        text = json.dumps([asdict(hypothesis) for hypothesis in self.hypotheses], sort_keys=True)
        return f"{len(self.hypotheses)}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _tested(self) -> dict[str, Any] | None:
        """How many trainings the tests have, and on which folds: with more or others, each would be another test."""
        if not self.hypotheses:
            return None
        repeats = {
            f"{h.schedule}, {trainer}": self.schedules[h.schedule].n_repeats(trainer)
            for h in self.hypotheses
            for trainer in (self.trainers[0], h.trainer, h.against)
        }
        return {"folds": list(self.folds), "rotate_folds": self.rotate_folds, "repeats": repeats}


def read_study(path: Path) -> Study:
    """The study that a file describes.

    Raises:
        UserError: when it cannot be read, or something in it is missing, unknown or of no use.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a study: {' '.join(str(error).split())}") from None
    given = _checked(content, Study, f"{path}", name=path.stem)
    schedules = given["schedules"]
    if not isinstance(schedules, dict) or not schedules:
        raise UserError(f"{path}: schedules must be a mapping from names to lengths of trainings")
    given["schedules"] = {
        str(name): Schedule(**_checked(schedule, Schedule, f"{path}: schedules: {name}"))
        for name, schedule in schedules.items()
    }
    hypotheses = given.get("hypotheses", ())
    if not isinstance(hypotheses, tuple):
        raise UserError(f"{path}: hypotheses must be a list")
    given["hypotheses"] = tuple(
        Hypothesis(**_checked(hypothesis, Hypothesis, f"{path}: hypotheses: {i}"))
        for i, hypothesis in enumerate(hypotheses, start=1)
    )
    study = Study(**given)
    _check(study, path)
    return study


def _checked(content: Any, what: type, where: str, **known: Any) -> dict[str, Any]:
    """The fields of a dataclass from what a YAML file has, lists as tuples."""
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping")
    names = [f.name for f in fields(what)]
    needed = [f.name for f in fields(what) if f.default is MISSING and f.default_factory is MISSING]
    content = {**content, **known}
    if unknown := [key for key in content if key not in names]:
        raise UserError(
            f"{where}: there is no {unknown[0]!r}; there are {', '.join(n for n in names if n not in known)}"
        )
    if missing := [name for name in needed if content.get(name) is None]:
        raise UserError(f"{where}: {missing[0]!r} is missing")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def _check(study: Study, path: Path) -> None:
    for name, schedule in study.schedules.items():
        trainers: Sequence[str] = study.trainers_of(name)
        if not (isinstance(schedule.repeats_of, dict) and set(schedule.repeats_of) <= set(trainers)):
            raise UserError(
                f"{path}: schedules: {name}: repeats_of must be a mapping from some of its trainers to a number, not "
                f"{schedule.repeats_of!r}"
            )
        numbers = {key: value for key, value in asdict(schedule).items() if key not in ("trainers", "repeats_of")}
        for key, value in (*numbers.items(), *schedule.repeats_of.items()):
            if not (type(value) is int and value > 0):
                raise UserError(f"{path}: schedules: {name}: {key} must be a whole number from 1, not {value!r}")
        compared = len(trainers) > 1 or (schedule.trainers and len(study.trainers) > 1)  # the first alone is a check
        if not compared or len(set(trainers)) < len(trainers):
            raise UserError(f"{path}: {name}: name two trainers at least, each once; there is {', '.join(trainers)}")
        if trainers[0] != study.trainers[0]:
            raise UserError(f"{path}: schedules: {name}: {study.trainers[0]} must come first, as in the study")
    if all(len(study.trainers_of(name)) == 1 for name in study.schedules):
        raise UserError(f"{path}: no schedule has two trainers: there is nothing to compare")
    for i, hypothesis in enumerate(study.hypotheses, start=1):
        check_hypothesis(hypothesis, {n: study.trainers_of(n) for n in study.schedules}, f"{path}: hypotheses: {i}")
    if not isinstance(study.rotate_folds, bool):
        raise UserError(f"{path}: rotate_folds must be true or false, not {study.rotate_folds!r}")
    if not study.folds or not set(study.folds) <= set(range(5)):
        raise UserError(f"{path}: folds must be some of 0 to 4, not {list(study.folds)}")
    if study.device not in DEVICES:
        raise UserError(f"{path}: device must be one of {', '.join(DEVICES)}, not {study.device!r}")
    if not (study.dataset[7:10].isdigit() and study.dataset.startswith("Dataset") and study.dataset[10:11] == "_"):
        raise UserError(f"{path}: dataset must be named as in nnUNet_raw, DatasetXXX_NAME, not {study.dataset!r}")
