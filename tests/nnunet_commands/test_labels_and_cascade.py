"""Regions, an ignore label and a cascade: what changes the network's inputs and outputs."""

import numpy as np
import pytest
import torch
from helpers.workspace import SHAPE, edit_json, shrink

from nnunet_xattnres.commands.demo.synthetic import write_dataset

pytestmark = pytest.mark.nnunet

TRAINER = "nnUNetTrainerXAttnRes_quick"


def number_of(folder):
    return int(folder.name.removeprefix("Dataset")[:3])


def prepare(workspace, folder):
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", number_of(folder), "-c", "3d_fullres", "-npfp", 1, "-np", 1)
    plans_file = workspace.preprocessed / folder.name / "nnUNetPlans.json"
    shrink(plans_file)
    return plans_file


def assert_trains_and_predicts(workspace, folder, n_outputs):
    """The reads have learned, and the masks of the held-out case hold background, organ and duct at most."""
    prepare(workspace, folder)
    model = workspace.train(number_of(folder), "3d_fullres", TRAINER)
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert_reads_have_learned(weights)
    heads = [key for key in weights if key.startswith("decoder.seg_layers.") and key.endswith(".weight")]
    assert {len(weights[key]) for key in heads} == {n_outputs}
    options = ("-d", number_of(folder), "-c", "3d_fullres", "-tr", TRAINER, "-f", 0)
    masks = workspace.predict(folder.name, *options, cases=folder / "imagesTs")
    assert all(set(np.unique(mask)) <= {0, 1, 2} for mask in masks.values()) and masks


def assert_reads_have_learned(weights):
    """The pseudo-queries start at zero."""
    queries = [key for key in weights if key.endswith("pseudo_query")]
    assert queries and all(weights[key].any() for key in queries), "there is a read that was not trained, or none"


def test_regions(empty_workspace, copy_of_dataset):
    def regions(description):
        description["labels"] = {"background": 0, "organ and duct": [1, 2], "duct": [2]}
        description["regions_class_order"] = [1, 2]

    folder = copy_of_dataset(902, "Regions", regions)
    assert_trains_and_predicts(empty_workspace, folder, n_outputs=2)  # a region each, and none for background


def test_ignore_label(empty_workspace, copy_of_dataset):
    def ignore(description):
        description["labels"]["ignore"] = 3

    def unlabelled_slices(labels):
        labels[::3] = 3
        return labels

    folder = copy_of_dataset(903, "Ignore", ignore, unlabelled_slices)
    assert_trains_and_predicts(empty_workspace, folder, n_outputs=3)  # none for what is ignored


@pytest.mark.parametrize(
    ("trainer", "plans"),
    [
        (TRAINER, "nnUNetPlans"),
        pytest.param("nnUNetTrainer_quick", "nnUNetXAttnResPlans", marks=pytest.mark.thorough),
    ],
)
def test_cascade(empty_workspace, cascade, trainer, plans):
    if plans != "nnUNetPlans":
        empty_workspace.run("nnunet-xattnres", "plan", "-d", 904)
    # fold "all" validates on every case, so that every case has a segmentation from the first stage
    empty_workspace.train(904, "3d_lowres", trainer, plans, fold="all")
    model = empty_workspace.train(904, "3d_cascade_fullres", trainer, plans, fold="all")
    weights = torch.load(model / "fold_all" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert_reads_have_learned(weights)

    options = ("-d", 904, "-tr", trainer, "-p", plans, "-f", "all")
    empty_workspace.predict(f"lowres {plans}", "-c", "3d_lowres", *options, cases=cascade / "imagesTs")
    first_stage = empty_workspace.root / "predictions" / f"lowres {plans}"
    masks = empty_workspace.predict(f"cascade {plans}", "-c", "3d_cascade_fullres", *options,
                                    "-prev_stage_predictions", first_stage, cases=cascade / "imagesTs")  # fmt: skip
    assert set(masks) == {"heldout_000.nii.gz"}


@pytest.fixture(scope="module")
def cascade(empty_workspace):
    """As nnU-Net's own integration tests make one: a 3d_lowres that the planner would not have asked for."""
    folder = empty_workspace.raw / "Dataset904_Cascade"
    write_dataset(empty_workspace.raw, folder.name, n_train=5, n_test=1, shape=SHAPE, seed=904)
    plans_file = prepare(empty_workspace, folder)

    def add_cascade(plans):
        configurations = plans["configurations"]
        fullres = configurations["3d_fullres"]
        configurations["3d_lowres"] = {
            **fullres,
            "data_identifier": "nnUNetPlans_3d_lowres",
            "spacing": [2 * s for s in fullres["spacing"]],
            "median_image_size_in_voxels": [n / 2 for n in fullres["median_image_size_in_voxels"]],
            "patch_size": [(n // 8 + 1) * 4 for n in fullres["patch_size"]],
            "next_stage": "3d_cascade_fullres",
        }
        configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    edit_json(plans_file, add_cascade)
    empty_workspace.run("nnUNetv2_preprocess", "-d", 904, "-c", "3d_lowres", "-np", 1)
    return folder
