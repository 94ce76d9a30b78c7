"""In a project that is under way: plans with reads for any trainer, and a start from a trained network."""

import csv
import json

import pytest
import torch
from helpers.workspace import assert_same_masks, read_masks

pytestmark = pytest.mark.nnunet

PLANS = "nnUNetXAttnResPlans"


@pytest.fixture(scope="module")
def plans_with_network(workspace):
    output = workspace.run("nnunet-xattnres", "plan", "-d", 901)
    assert f"{PLANS}.json" in output
    return PLANS


@pytest.mark.parametrize(
    ("trainer", "configuration", "travels"),
    [
        ("nnUNetTrainerDA5_quick", "3d_fullres", True),
        ("nnUNetTrainerDiceCELoss_noSmooth_quick", "2d", False),
        pytest.param("nnUNetTrainerNoMirroring_quick", "2d", False, marks=pytest.mark.thorough),
    ],
)
def test_any_trainer_of_nnunets_and_a_model_travels_in_a_zip(
    workspace, plans_with_network, held_out, tmp_path, trainer, configuration, travels
):
    dataset = workspace.preprocessed / "Dataset901_Anatomy"
    preprocessed = {folder for folder in dataset.iterdir() if folder.is_dir()}
    model = workspace.train(901, configuration, trainer, PLANS)
    weights = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    queries = [key for key in weights if key.endswith("pseudo_query")]
    assert queries and all(weights[key].any() for key in queries), "there is a read that was not trained, or none"
    assert {folder for folder in dataset.iterdir() if folder.is_dir()} == preprocessed

    options = ("-d", 901, "-c", configuration, "-tr", trainer, "-p", PLANS, "-f", 0)
    elsewhere = {}
    if travels:
        workspace.run("nnUNetv2_export_model_to_zip", *options, "-o", tmp_path / "model.zip")
        elsewhere = {"nnUNet_results": str(tmp_path / "results"), "nnUNet_raw": str(tmp_path / "raw")}
        workspace.run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip", **elsewhere)
    assert len(workspace.predict(f"{trainer} {PLANS}", *options, cases=held_out, **elsewhere)) == 2


def test_plans_with_network_and_a_trainer_with_reads_is_one_too_many(workspace, plans_with_network):
    output = workspace.fail(
        "nnUNetv2_train", 901, "2d", 0, "-tr", "nnUNetTrainerXAttnRes", "-p", PLANS, "-device", "cpu"
    )
    assert "Drop one of the two" in output


STOCK, GATED = "nnUNetTrainer_quick", "nnUNetTrainerXAttnResGated"


def test_a_model_folder_with_reads_predicts_what_the_stock_model_predicts(workspace, held_out, tmp_path):
    model = workspace.train(901, "3d_fullres", STOCK)
    out = workspace.results / "Dataset901_Anatomy" / f"{GATED}__nnUNetPlans__3d_fullres"
    workspace.run("nnunet-xattnres", "upgrade", "--model-folder", model, out)
    masks = {
        trainer: workspace.predict(f"upgrade {trainer}", "-d", 901, "-c", "3d_fullres", "-tr", trainer, "-f", 0,
                                   cases=held_out)
        for trainer in (STOCK, GATED)
    }  # fmt: skip
    assert_same_masks(masks[STOCK], masks[GATED])
    options = ("-d", 901, "-c", "3d_fullres", "-tr", GATED, "-f", 0)
    workspace.run("nnUNetv2_export_model_to_zip", *options, "-o", tmp_path / "model.zip")


def test_a_training_starts_from_a_stock_checkpoint(workspace, tmp_path):
    model = workspace.train(901, "3d_fullres", STOCK)
    upgraded = tmp_path / "up graded.pth"
    workspace.run("nnunet-xattnres", "upgrade", model / "fold_0" / "checkpoint_final.pth", upgraded)
    trainer = "nnUNetTrainerXAttnResGated_quick"
    output = workspace.train_anew(901, "3d_fullres", trainer, "-pretrained_weights", upgraded)
    assert "Loading pretrained weights from file" in output
    folder = workspace.results / "Dataset901_Anatomy" / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
    weights = torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]
    gates = [key for key in weights if key.endswith(".gate")]
    assert gates and all(weights[key].any() for key in gates), "a gate was not trained"
    assert "foreground_mean" in json.loads((folder / "validation" / "summary.json").read_text())
    assert (folder / "xattnres_routing.csv").is_file() and (folder / "xattnres_routing.png").is_file()


def test_trained_models_are_compared(workspace, held_out, tmp_path):
    gated = f"{GATED}_quick"
    for trainer in (STOCK, gated):
        workspace.train(901, "3d_fullres", trainer)
    output = workspace.run("nnunet-xattnres", "compare", "-d", 901, "-c", "3d_fullres", "-tr", STOCK, gated,
                           "-o", tmp_path / "trained")  # fmt: skip
    assert "One fold only" in output
    for trainer in (STOCK, gated):
        model = workspace.results / "Dataset901_Anatomy" / f"{trainer}__nnUNetPlans__3d_fullres"
        summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
        assert dice_of(tmp_path / "trained", trainer, "mean") == pytest.approx(summary["foreground_mean"]["Dice"])

    for trainer in (STOCK, gated):
        workspace.predict(f"compare {trainer}", "-d", 901, "-c", "3d_fullres", "-tr", trainer, "-f", 0, cases=held_out)
    labels = held_out.with_name("labelsTs")
    folders = {trainer: workspace.root / "predictions" / f"compare {trainer}" for trainer in (STOCK, gated)}
    pairs = [f"{trainer}={folder}" for trainer, folder in folders.items()]
    before = {path: path.read_bytes() for folder in folders.values() for path in folder.iterdir()}
    workspace.run("nnunet-xattnres", "compare", "--predictions", *pairs, "--labels", labels, "-o", tmp_path / "test")
    assert {path: path.read_bytes() for folder in folders.values() for path in folder.iterdir()} == before
    for trainer, folder in folders.items():
        files = ("-djfile", folder / "dataset.json", "-pfile", folder / "plans.json", "-o", tmp_path / "summary.json")
        workspace.run("nnUNetv2_evaluate_folder", labels, folder, *files, "-np", 1)
        mean = json.loads((tmp_path / "summary.json").read_text())["foreground_mean"]["Dice"]
        assert dice_of(tmp_path / "test", trainer, "mean") == pytest.approx(mean)


def dice_of(folder, model, label):
    with (folder / "comparison.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if (row["model"], row["label"]) == (model, label))
    return float(row["dice"])


def test_a_trained_model_is_inspected_and_predicts_as_ever(workspace, held_out, tmp_path):
    model = workspace.train(901, "3d_fullres", f"{GATED}_quick")
    output = workspace.run(
        "nnunet-xattnres", "inspect", model, "-i", held_out, "-o", tmp_path / "out", "--device", "cpu"
    )
    assert "reads most from" in output and (tmp_path / "out" / "report.html").is_file()
    options = ("-d", 901, "-c", "3d_fullres", "-tr", f"{GATED}_quick", "-f", 0, "--disable_tta")
    masks = workspace.predict("as ever", *options, cases=held_out)
    assert_same_masks(read_masks(tmp_path / "out" / "predictions"), masks)


def test_a_repeat_has_a_folder_of_its_own(workspace):
    workspace.run("nnunet-xattnres", "repeat", "-d", 901, "-n", 1)
    dataset = workspace.preprocessed / "Dataset901_Anatomy"
    preprocessed = {folder for folder in dataset.iterdir() if folder.is_dir()}
    model = workspace.train(901, "3d_fullres", STOCK, "nnUNetPlans_rep1")
    assert model.name == f"{STOCK}__nnUNetPlans_rep1__3d_fullres"
    assert {folder for folder in dataset.iterdir() if folder.is_dir()} == preprocessed
