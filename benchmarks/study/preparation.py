"""Before a study's trainings: planning and preprocessing by nnU-Net, the splits, and plans for every schedule."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks.study.description import Study
from benchmarks.study.folders import PLANS, Folders, leashed, planning_arguments, plans_name
from benchmarks.study.records import Record, other_plan, plan_of
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json, write_json

CHANGES = ("batch_size", "patch_size", "features_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder")
Run = Callable[[list[str], str], None]  # a command, and the name of its log


def prepare(study: Study, folders: Folders, run: Run) -> None:
    """Plan and preprocess, unless that has been done, and write the splits and the plans of every training.

    Raises:
        UserError: when there is no such device or no raw data, or the work folder holds data that were prepared for
            other settings, or trainings that were begun with them.
    """
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[study.device]:
        raise UserError(
            f"{study.name} trains on {study.device}, and torch finds none here: run it on another machine, or a copy "
            f"of its file under another name with another device"
        )
    if not (folders.raw / study.dataset / "dataset.json").is_file():
        raise UserError(f"{folders.raw} has no {study.dataset}: name the folder with nnU-Net's raw data with --raw")
    preprocessed = folders.preprocessed(study)
    wanted = {key: getattr(study, key) for key in ("dataset", "configuration", "planner", "gpu_memory_target")}
    done = folders.work / "prepared.json"
    if not done.is_file():
        n = str(min(8, os.cpu_count() or 1))  # processes; nnU-Net would start eight on two cores, too
        arguments = [*planning_arguments(study), "-npfp", n, "-np", n]
        run(leashed("nnUNetv2_plan_and_preprocess", arguments), "plan_and_preprocess")
        write_json(wanted, done)
    elif read_json(done) != wanted:
        raise UserError(
            f"{folders.work} was prepared for {read_json(done)}, not for {wanted}; name another with --work"
        )
    _write_splits(study, folders)
    planned = read_json(preprocessed / f"{PLANS}.json")
    plans = {t: {**_plans(study, t.schedule, planned), "plans_name": plans_name(t)} for t in study.trainings()}
    for training, its_plans in plans.items():
        begun = folders.model(study, training) / "plans.json"  # nnU-Net's copy of those that it trains with
        if begun.is_file() and read_json(begun) != its_plans:
            raise UserError(
                f"{begun.parent} was trained with other plans than {study.name} now has; name another work folder with "
                f"--work, or move this one away"
            )
    for its_plans in plans.values():
        write_json(its_plans, preprocessed / f"{its_plans['plans_name']}.json")


def refuse_other_data(study: Study, folders: Folders, recorded: Iterable[Record]) -> None:
    """Before anything is trained: the prepared data must be those of the trainings that have a record.

    Raises:
        UserError: when a fold has other cases now, or nnU-Net has made another plan.
    """
    planned = read_json(folders.preprocessed(study) / f"{PLANS}.json")
    splits = read_json(folders.preprocessed(study) / "splits_final.json")
    ending = read_json(folders.raw / study.dataset / "dataset.json")["file_ending"]
    for record in recorded:
        fold = record.training.fold
        cases = {case.removesuffix(ending) for case in record.dice}
        if cases != set(splits[fold]["val"]) or record.facts["training_cases"] != len(splits[fold]["train"]):
            raise UserError(
                f"fold {fold} of {folders.raw / study.dataset} has other cases than the trainings that have a record "
                f"({folders.records}): name the raw data that they had with --raw, with another --work, or another "
                "folder with --results"
            )
        ours = plan_of(study, _plans(study, record.training.schedule, planned))
        if difference := other_plan(record.facts.get("plan", ours), ours):
            raise UserError(
                f"nnU-Net has planned {study.dataset} with {difference} than for the trainings that have a record "
                f"({folders.records}): their raw data or version of nnU-Net was another; take what they had, with "
                "another --work, or name another folder with --results"
            )


def _write_splits(study: Study, folders: Folders) -> None:
    """The raw data's own splits, which the planner copies, or nnU-Net's own five folds.

    nnU-Net would write them in the first training, and there may be several at a time.

    Raises:
        UserError: when there is no fold that the study has; nnU-Net would take random cases.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    path = folders.preprocessed(study) / "splits_final.json"
    if not path.is_file():
        ending = read_json(folders.raw / study.dataset / "dataset.json")["file_ending"]
        labels = (folders.raw / study.dataset / "labelsTr").glob(f"*{ending}")
        splits = generate_crossval_split(sorted(label.name.removesuffix(ending) for label in labels))
        write_json([{part: [str(case) for case in cases] for part, cases in split.items()} for split in splits], path)
    n_folds = len(read_json(path))
    if missing := [fold for fold in study.folds if fold >= n_folds]:
        raise UserError(f"{path} has {n_folds} folds, and {study.name} has fold {missing[0]}: name others")


def _plans(study: Study, schedule: str, planned: dict[str, Any]) -> dict[str, Any]:
    """The planned ones with the study's changes, and with the schedule, which the trainers read there."""
    configuration = dict(planned["configurations"][study.configuration])
    architecture = configuration["architecture"]
    for key, value in (study.plans or {}).items():
        old = configuration if key in ("batch_size", "patch_size") else architecture["arch_kwargs"]
        if key not in CHANGES:
            raise UserError(f"{study.name}: plans: {key} is none of {', '.join(CHANGES)}")
        if isinstance(old[key], list) and len(old[key]) != len(value):
            raise UserError(f"{study.name}: plans: {key} must have {len(old[key])} entries, as planned: {old[key]}")
        if old is configuration:
            configuration[key] = value
        else:
            architecture = {**architecture, "arch_kwargs": {**architecture["arch_kwargs"], key: value}}
    configuration["architecture"] = architecture
    length = {
        key: study.settings(schedule)[key] for key in ("epochs", "iterations", "validation_iterations", "mirroring")
    }
    return {**planned, "configurations": {study.configuration: configuration}, "study": length}
