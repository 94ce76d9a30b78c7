"""Every nnU-Net command takes our trainers as it takes its own."""

import json

import numpy as np
import pytest
import SimpleITK
import torch
from helpers.networks import KINDS
from helpers.workspace import assert_same_masks, read_masks

from nnunet_xattnres.networks.configs import ReadConfig

pytestmark = pytest.mark.nnunet

TRAINER = "nnUNetTrainerXAttnRes_quick"
OTHER_NETWORKS = [kind for kind in KINDS.values() if kind.trainer and not isinstance(kind.config, ReadConfig)]


thorough = pytest.mark.thorough


@pytest.mark.parametrize(
    ("configuration", "resenc"),
    [
        ("3d_fullres", False),
        ("2d", True),
        pytest.param("2d", False, marks=thorough),
        pytest.param("3d_fullres", True, marks=thorough),
    ],
)
def test_train_and_validate(workspace, resenc_plans, configuration, resenc):
    plans = resenc_plans if resenc else "nnUNetPlans"
    folder = workspace.train(901, configuration, TRAINER, plans)
    summary = json.loads((folder / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
    assert set(summary["mean"]) == {"1", "2"}
    log = workspace.log(folder)
    assert log.count("Parameters: plain network ") == 1 and "reads 0" not in log
    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    queries = [key for key in weights if key.endswith("pseudo_query")]
    assert "reads.e3.pseudo_query" in queries
    assert ("encoder.stem.convs.0.conv.weight" in weights) == resenc
    # the pseudo-queries start at zero: any other value has been learned
    assert all(weights[key].any() for key in queries)


@pytest.mark.parametrize(
    ("trainer", "configuration", "resenc"),
    [
        ("nnUNetTrainerXAttnResReplace_quick", "3d_fullres", False),
        ("nnUNetTrainerXAttnResReplaceNoMirroring_quick", "2d", True),
        pytest.param("nnUNetTrainerXAttnResDecoderReads_quick", "2d", False, marks=thorough),
        pytest.param("nnUNetTrainerNoSkip_quick", "3d_fullres", False, marks=thorough),
        pytest.param("nnUNetTrainerNoSkip_quick", "2d", True, marks=thorough),
        *((f"{kind.trainer}_quick", "3d_fullres", False) for kind in OTHER_NETWORKS),
    ],
)
def test_the_other_trainers_train_and_predict(workspace, resenc_plans, held_out, trainer, configuration, resenc):
    plans = resenc_plans if resenc else "nnUNetPlans"
    folder = workspace.train(901, configuration, trainer, plans)
    log = workspace.log(folder)
    assert log.count("Parameters: plain network ") == 1
    assert ("reads 0 " in log) == (trainer == "nnUNetTrainerNoSkip_quick")
    options = ("-d", 901, "-c", configuration, "-tr", trainer, "-p", plans, "-f", 0)
    masks = workspace.predict(f"{trainer} {plans}", *options, cases=held_out)
    assert set(masks) == {"heldout_000.nii.gz", "heldout_001.nii.gz"}


def test_validation_alone(workspace):
    folder = workspace.train(901, "2d", TRAINER)
    summary = folder / "fold_0" / "validation" / "summary.json"
    before = json.loads(summary.read_text())["foreground_mean"]
    summary.unlink()
    workspace.run("nnUNetv2_train", 901, "2d", 0, "-tr", TRAINER, "-device", "cpu", "--val")
    assert json.loads(summary.read_text())["foreground_mean"] == before


def test_predict_from_the_model_folder(workspace, held_out):
    """tests/test_documented_commands.py predicts through nnU-Net's API, and compares, too."""
    folder = workspace.train(901, "3d_fullres", TRAINER)
    masks = workspace.predict("by name", "-d", 901, "-c", "3d_fullres", "-tr", TRAINER, "-f", 0, cases=held_out)
    by_folder = workspace.predict("by folder", "nnUNetv2_predict_from_modelfolder", "-m", folder, "-f", 0,
                                  cases=held_out)  # fmt: skip
    assert_same_masks(masks, by_folder)


def test_a_model_travels_in_a_zip(workspace, held_out, tmp_path):
    options = ("-d", 901, "-c", "3d_fullres", "-tr", TRAINER, "-f", 0)
    workspace.train(901, "3d_fullres", TRAINER)
    masks = workspace.predict("before", *options, cases=held_out)
    workspace.run("nnUNetv2_export_model_to_zip", *options, "-o", tmp_path / "model.zip")
    elsewhere = {"nnUNet_results": str(tmp_path / "results"), "nnUNet_raw": str(tmp_path / "raw")}
    workspace.run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip", **elsewhere)
    assert_same_masks(masks, workspace.predict("after", *options, cases=held_out, **elsewhere))


def test_find_the_best_configuration_accumulate_and_ensemble(workspace, held_out):
    trainers = ("nnUNetTrainer_quick", TRAINER)
    for trainer in trainers:
        workspace.train(901, "2d", trainer)
    report = workspace.run("nnUNetv2_find_best_configuration", 901, "-c", "2d", "-tr", *trainers, "-f", 0, "-np", 1)
    assert f"{TRAINER}__nnUNetPlans__2d: " in report and "ensemble___nnUNetTrainer_quick__" in report

    merged = workspace.root / "merged"
    workspace.run("nnUNetv2_accumulate_crossval_results", 901, "-c", "2d", "-tr", TRAINER, "-f", 0, "-o", merged)
    assert (merged / "summary.json").is_file()

    members = []
    for trainer in trainers:
        workspace.predict(f"member {trainer}", "-d", 901, "-c", "2d", "-tr", trainer, "-f", 0, "--save_probabilities",
                          cases=held_out)  # fmt: skip
        members.append(workspace.root / "predictions" / f"member {trainer}")
    out = workspace.root / "predictions" / "ensemble"
    workspace.run("nnUNetv2_ensemble", "-i", *members, "-o", out, "-np", 1)
    assert set(read_masks(out)) == {"heldout_000.nii.gz", "heldout_001.nii.gz"}


def test_an_image_with_nan(workspace, held_out, tmp_path):
    """nnU-Net's normalisation spreads it over the image; the command ends well, as it does with a stock network."""
    workspace.train(901, "2d", TRAINER)
    cases = tmp_path / "images"
    cases.mkdir()
    source = held_out / "heldout_000_0000.nii.gz"
    image = SimpleITK.ReadImage(str(source))
    voxels = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    voxels[0, 0, 0] = np.nan
    spoilt = SimpleITK.GetImageFromArray(voxels)
    spoilt.CopyInformation(image)
    SimpleITK.WriteImage(spoilt, str(cases / source.name))
    (mask,) = workspace.predict("nan", "-d", 901, "-c", "2d", "-tr", TRAINER, "-f", 0, cases=cases).values()
    assert mask.shape == voxels.shape and set(np.unique(mask)) <= {0, 1, 2}


def test_without_registration_nnunet_says_what_is_missing(workspace):
    output = workspace.fail("nnUNetv2_train", 901, "2d", 0, "-tr", "nnUNetTrainerXAttnRes", "-device", "cpu",
                            NNUNET_XATTNRES_AUTOREGISTER="0")  # fmt: skip
    assert "Could not find requested nnunet trainer nnUNetTrainerXAttnRes" in output
