"""What nnU-Net is told: the environment, the commands, and the smaller plans."""

import os
from collections.abc import Mapping
from pathlib import Path

from nnunet_xattnres import autoregister
from nnunet_xattnres.commands.demo.settings import (
    CONFIGURATION,
    DATASET,
    DATASET_ID,
    EXPORTED,
    FEATURES,
    PATCH_SIZE,
    SMALL_PLANS,
    TRAINER,
)
from nnunet_xattnres.common.files import write_json
from nnunet_xattnres.nnunet.plans import read_plans


def nnunet_exports(out: Path, device: str) -> dict[str, str]:
    """The variables of nnU-Net that the demo's commands run with; our trainers are found with them."""
    workers = 1 if device == "cpu" else min(8, os.cpu_count() or 1)
    trainers = os.pathsep.join([*autoregister.search_path(), autoregister.trainers_dir()])
    return {
        **{name: str(out / name) for name in EXPORTED},
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": "1",  # each of nnU-Net's processes first loads torch; there are few and small cases
        "nnUNet_compile": "f",  # compiling would take longer than it saves
        **({} if autoregister.is_registered() else {autoregister.VARIABLE: trainers}),
    }


def child_environment(out: Path, exports: Mapping[str, str]) -> dict[str, str]:
    """The environment of nnU-Net's commands: this one with ``exports``, and with their caches in ``out``."""
    cache = out / ".cache"
    return {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait halve the speed, or worse, of a busy machine
        **os.environ,
        **exports,
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "torchinductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "XDG_CACHE_HOME": str(cache),
        "PYTHONUNBUFFERED": "1",  # into a pipe, Python would print an epoch's lines much later
        "PYTHONIOENCODING": "utf-8",
    }


def step_arguments(out: Path, device: str) -> dict[str, list[str]]:
    """The arguments of each of ``STEPS``."""
    raw, predictions = out / "nnUNet_raw" / DATASET, out / "predictions"
    number, model = str(DATASET_ID), ["-tr", TRAINER, "-p", SMALL_PLANS, "-device", device]
    held_out = ["-i", str(raw / "imagesTs"), "-o", str(predictions)]
    files = ["-djfile", str(raw / "dataset.json"), "-pfile", str(predictions / "plans.json")]
    few = ["-npp", "1", "-nps", "1", "--disable_tta"]
    return {
        "plan": ["-d", number, "-c", CONFIGURATION, "--verify_dataset_integrity", "-npfp", "1", "-np", "1"],
        "train": [number, CONFIGURATION, "0", *model],
        "predict": [*held_out, "-d", number, "-c", CONFIGURATION, "-f", "0", *model, *few],
        "evaluate": [str(raw / "labelsTs"), str(predictions), *files, "-np", "1"],
    }


def write_small_plans(preprocessed: Path) -> Path:
    """Copy nnU-Net's plans with a smaller patch and network, for the same preprocessed data.

    Args:
        preprocessed: the dataset's folder in nnUNet_preprocessed.

    Returns:
        The file of the new plans.
    """
    plans = read_plans(preprocessed / "nnUNetPlans.json")
    plans["plans_name"] = SMALL_PLANS
    # data_identifier stays: it names the preprocessed data
    configuration = plans["configurations"][CONFIGURATION]
    plans["configurations"] = {CONFIGURATION: configuration}
    configuration["batch_size"] = 2
    configuration["patch_size"] = list(PATCH_SIZE)
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [FEATURES[min(i, len(FEATURES) - 1)] for i in range(network["n_stages"])]
    # at full resolution, where most of the time goes, one convolution instead of two
    network["n_conv_per_stage"][0] = network["n_conv_per_stage_decoder"][-1] = 1
    path = preprocessed / f"{SMALL_PLANS}.json"
    write_json(plans, path, indent=4)
    return path


def small_plans_text() -> str:
    return (
        f"To fit a CPU the demo trains with {SMALL_PLANS}, a copy of the plans with a patch of "
        f"{' x '.join(map(str, PATCH_SIZE))}, {', '.join(map(str, FEATURES))} features and fewer convolutions.\n"
        "For your own data keep nnU-Net's plans."
    )


def next_steps() -> str:
    """The commands for a dataset of the user's own."""
    return "\n".join(
        (
            "Next, your own data: set nnUNet_raw, nnUNet_preprocessed and nnUNet_results to folders of yours, put",
            "nnUNet_raw/DatasetXXX_NAME in nnU-Net's format, and with its number for XXX",
            f"  nnUNetv2_plan_and_preprocess -d XXX -c {CONFIGURATION} --verify_dataset_integrity",
            f"  nnUNetv2_train XXX {CONFIGURATION} 0 -tr nnUNetTrainerXAttnRes",
            f"  nnUNetv2_predict -i IMAGES -o SEGMENTATIONS -d XXX -c {CONFIGURATION} -f 0 -tr nnUNetTrainerXAttnRes",
        )
    )
