"""Where a study keeps its files, and what nnU-Net's commands are told of it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.description import Study, Training
from nnunet_xattnres import autoregister
from nnunet_xattnres.common.programs import find_program

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
PLANS = "StudyPlans"
# glibc gives large blocks back to the system at every tensor's end, a quarter of a training step on the CPU; in huge
# pages (glibc 2.35 and newer) a step takes a seventh less
GLIBC_KEEPS_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_TOP_PAD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
}


@dataclass(frozen=True)
class Folders:
    """The folders of one study.

    Attributes:
        raw: nnUNet_raw.
        work: for preprocessed data, checkpoints and logs; may be removed once the study is complete.
        results: for records and reports; what is committed.
    """

    raw: Path
    work: Path
    results: Path

    @property
    def records(self) -> Path:
        """A line of JSON for each training."""
        return self.results / "trainings.jsonl"

    @property
    def dice(self) -> Path:
        """A row for each training, validation case and label."""
        return self.results / "dice.csv"

    @property
    def logs(self) -> Path:
        return self.work / "logs"

    def preprocessed(self, study: Study) -> Path:
        return self.work / "nnUNet_preprocessed" / study.dataset

    def model(self, study: Study, training: Training) -> Path:
        names = f"{class_name(training.trainer)}__{plans_name(training)}__{study.configuration}"
        return self.work / "nnUNet_results" / study.dataset / names

    def fold(self, study: Study, training: Training) -> Path:
        return self.model(study, training) / f"fold_{training.fold}"

    def environment(self, device: str, threads: int) -> dict[str, str]:
        """The variables with which nnU-Net's commands run; the study's trainers are found with them."""
        trainers = [str(Path(__file__).parent / "trainers"), *autoregister.search_path(), autoregister.trainers_dir()]
        python_path = [str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        on_cpu = {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            **GLIBC_KEEPS_MEMORY,
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",  # nnU-Net compiles on CUDA alone
        }
        return {
            **os.environ,
            **(on_cpu if device == "cpu" else {}),
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.work / "nnUNet_preprocessed"),
            "nnUNet_results": str(self.work / "nnUNet_results"),
            "nnUNet_extTrainer": os.pathsep.join(dict.fromkeys(trainers)),
            "PYTHONPATH": os.pathsep.join(python_path),
            "PYTHONUNBUFFERED": "1",
        }


def plans_name(training: Training) -> str:
    return f"{PLANS}_{training.schedule}_rep{training.repeat}"


def class_name(trainer: str) -> str:
    """Of the class in ``scheduled.py``: as long as the plans say."""
    return f"{trainer}_study"


def training_arguments(study: Study, training: Training) -> list[str]:
    """The arguments of nnUNetv2_train."""
    where = [str(int(study.dataset[7:10])), study.configuration, str(training.fold)]
    return [*where, "-tr", class_name(training.trainer), "-p", plans_name(training), "-device", study.device]


def training_command(study: Study, training: Training) -> str:
    """As records have it."""
    return " ".join(["nnUNetv2_train", *training_arguments(study, training)])


def planning_arguments(study: Study) -> list[str]:
    """The arguments of nnUNetv2_plan_and_preprocess."""
    what = ["-d", str(int(study.dataset[7:10])), "-c", study.configuration, "-pl", study.planner]
    memory = [] if study.gpu_memory_target is None else ["-gpu_memory_target", str(study.gpu_memory_target)]
    return [*what, *memory, "-overwrite_plans_name", PLANS]


def leashed(program: str, arguments: list[str]) -> list[str]:
    """One of nnU-Net's commands, so that it ends with the study that started it."""
    return [sys.executable, str(Path(__file__).parent / "leash.py"), str(find_program(program)), *arguments]
