"""Data sets that are planned and preprocessed, and the commands run in their folders."""

import json
import shutil
from pathlib import Path

import pytest
import SimpleITK
from helpers.workspace import SHAPE, Workspace, edit_json, shrink

from nnunet_xattnres.commands.demo.synthetic import write_dataset


@pytest.fixture(scope="session")
def empty_workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("nnU-Net Arbeitsfläche 空間"))  # not only ASCII, and a space


@pytest.fixture(scope="session")
def workspace(empty_workspace) -> Workspace:
    """Data set 901 (six cases to train on, two held out), planned and preprocessed for 2d and 3d_fullres."""
    write_dataset(empty_workspace.raw, "Dataset901_Anatomy", n_train=6, n_test=2, shape=SHAPE, seed=1)
    empty_workspace.run("nnUNetv2_plan_and_preprocess", "-d", 901, "-c", "2d", "3d_fullres",
                        "--verify_dataset_integrity", "-npfp", 1, "-np", 1)  # fmt: skip
    shrink(empty_workspace.preprocessed / "Dataset901_Anatomy" / "nnUNetPlans.json")
    return empty_workspace


@pytest.fixture(scope="session")
def resenc_plans(workspace) -> str:
    """Of these two configurations, nnU-Net trains a residual encoder on what is preprocessed for the plain one."""
    workspace.run("nnUNetv2_plan_experiment", "-d", 901, "-pl", "nnUNetPlannerResEncM")
    plans_file = workspace.preprocessed / "Dataset901_Anatomy" / "nnUNetResEncUNetMPlans.json"
    configurations = json.loads(plans_file.read_text())["configurations"]
    for name in ("2d", "3d_fullres"):
        assert configurations[name]["data_identifier"] == f"nnUNetPlans_{name}"
    shrink(plans_file)
    return "nnUNetResEncUNetMPlans"


@pytest.fixture(scope="session")
def held_out(workspace) -> Path:
    return workspace.raw / "Dataset901_Anatomy" / "imagesTs"


@pytest.fixture
def copy_of_dataset(empty_workspace):
    """A new data set made from 901's files, with its dataset.json and labels changed."""

    def make(number: int, name: str, change_description, change_labels=None) -> Path:
        folder = empty_workspace.raw / f"Dataset{number:03d}_{name}"
        if not folder.exists():
            write_dataset(empty_workspace.raw, folder.name, n_train=5, n_test=1, shape=SHAPE, seed=number)
            edit_json(folder / "dataset.json", change_description)
            for file in (folder / "labelsTr").iterdir() if change_labels else ():
                image = SimpleITK.ReadImage(str(file))
                changed = SimpleITK.GetImageFromArray(change_labels(SimpleITK.GetArrayFromImage(image)))
                changed.CopyInformation(image)
                SimpleITK.WriteImage(changed, str(file))
        return folder

    yield make
    shutil.rmtree(empty_workspace.root / "predictions", ignore_errors=True)
