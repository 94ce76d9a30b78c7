"""A preprocessed data set, for the commands that work on plans, and results, for those that work on trainings."""

import copy
import json
import pickle
from concurrent.futures import Future

import pytest
from helpers.plans import make_plans
from helpers.trainings import DATASET


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A preprocessed data set with nnUNetPlans of a cascade."""
    plans = make_plans() | {"plans_name": "nnUNetPlans"}
    plans["configurations"] |= {
        "3d_lowres": {**copy.deepcopy(plans["configurations"]["2d"]), "next_stage": "3d_cascade_fullres"},
        "3d_cascade_fullres": {"inherits_from": "2d", "previous_stage": "3d_lowres"},
    }
    folder = tmp_path / "pre processed" / "Dataset001_Test"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(folder.parent))
    return folder


@pytest.fixture
def results(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.setattr(f"nnunetv2.paths.{name}", PathOf(tmp_path / name))
    folder = tmp_path / "nnUNet_results" / DATASET
    folder.mkdir(parents=True)
    (tmp_path / "nnUNet_raw" / DATASET).mkdir(parents=True)
    (tmp_path / "nnUNet_preprocessed" / DATASET).mkdir(parents=True)
    monkeypatch.setattr(
        "nnunetv2.utilities.dataset_name_id_conversion.maybe_convert_to_dataset_name", lambda _dataset: DATASET
    )
    return folder


class PathOf(str):
    """As nnU-Net's paths: a string that knows whether it is set."""

    def is_set(self):
        return True


@pytest.fixture
def pools(monkeypatch):
    """How many processes each pool has that is begun; it works here, on what its processes would be sent."""
    begun = []

    class Pool:
        _processes = None

        def __init__(self, n, mp_context, initializer):
            begun.append(n)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, *arguments):
            future = Future()
            future.set_result(sent(sent(function)(*sent(arguments))))
            return future

    monkeypatch.setattr("nnunet_xattnres.nnunet.pool.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("nnunet_xattnres.nnunet.pool._ALONE", -1.0)
    monkeypatch.setattr("nnunetv2.configuration.default_num_processes", 3)
    return begun


def sent(what):
    return pickle.loads(pickle.dumps(what))
