"""A preprocessed data set, for the commands that work on plans."""

import copy
import json

import pytest
from helpers.plans import make_plans


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
