"""What docs/other-tools.md says of tools that load a trained model; test_documented_commands runs what it shows."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.models import make_model

from nnunet_xattnres.commands.plan import plans_with_network
from nnunet_xattnres.networks.configs import ReadConfig

LOAD = """
import os, sys
os.environ |= dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), sys.argv[1])
os.environ["nnUNet_extTrainer"] = sys.argv[1]  # the program's own folder of trainers
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=__import__("torch").device("cpu"))
def load():
    predictor.initialize_from_trained_model_folder(sys.argv[2], use_folds=[0], checkpoint_name="checkpoint_final.pth")
try:
    load()
except RuntimeError as error:
    print("first:", "Could not find requested nnunet trainer nnUNetTrainerXAttnRes" in str(error))
import nnunet_xattnres
nnunet_xattnres.register()
load()
print("then:", type(predictor.network).__name__)
"""


def test_a_program_that_sets_the_trainers_folder_itself_must_register(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")}
    command = [sys.executable, "-c", LOAD, str(tmp_path), str(make_model(tmp_path / "results"))]
    done = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"first: True", "then: XAttnResUNet"} <= set(done.stdout.splitlines())


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """MONAI's bundle of a model, by the trainer and by whether its plans have reads."""
    nnunet_bundle = pytest.importorskip("monai.apps.nnunet.nnunet_bundle")
    results = tmp_path / "Dataset001_Test"
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def make(trainer, with_reads=False):
        folder = make_model(results, trainer)
        if with_reads:
            give_reads(folder)
        add_log(folder / "fold_0" / "checkpoint_final.pth")
        shutil.copy(folder / "fold_0" / "checkpoint_final.pth", folder / "fold_0" / "checkpoint_best.pth")
        name, plans, configuration = folder.name.split("__")
        bundle = tmp_path / "bundle"
        (bundle / "models").mkdir(parents=True)
        what = {"dataset_name_or_id": "Dataset001_Test", "nnunet_trainer": name, "nnunet_plans": plans}
        what["nnunet_configuration"] = configuration
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            nnunet_bundle.convert_nnunet_to_monai_bundle(what, str(bundle))
        with torch.serialization.safe_globals(NUMPY):
            nnunet_bundle.convert_nnunet_to_monai_bundle(what, str(bundle))
        return nnunet_bundle, bundle / "models"

    return make


# What must be allowed, for nnU-Net writes numbers of numpy into its checkpoints.
NUMPY = [np.float64(0).__reduce__()[0], np.dtype, type(np.dtype("float64")), type(np.dtype("float32"))]


def add_log(file):
    """As nnU-Net's logger has it."""
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["logging"] = {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)]}
    torch.save(checkpoint, file)


def give_reads(folder):
    """As the page does it: the plans of the folder, of a trainer of ours, have reads, and the trainer is nnU-Net's."""
    plans, _ = plans_with_network(json.loads((folder / "plans.json").read_text()), "nnUNetPlans", ReadConfig())
    (folder / "plans.json").write_text(json.dumps(plans))
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["trainer_name"], checkpoint["init_args"]["plans"] = "nnUNetTrainer", plans
    torch.save(checkpoint, file)


def network(nnunet_bundle, models, plans="plans.json", *weights):
    files = (str(models / plans), str(models / "dataset.json"))
    return nnunet_bundle.get_network_from_nnunet_plans(*files, "3d", *weights)


def test_monai_builds_what_the_plans_name(bundle):
    nnunet_bundle, models = bundle("nnUNetTrainerXAttnRes")
    weights = (str(models / "fold_0" / "model.pt"), "network_weights")
    assert type(network(nnunet_bundle, models)).__name__ == "PlainConvUNet"
    with pytest.raises(RuntimeError, match=r"Unexpected key.*reads"):
        network(nnunet_bundle, models, "plans.json", *weights)
    plans, _ = plans_with_network(json.loads((models / "plans.json").read_text()), "reads", ReadConfig())
    (models / "reads.json").write_text(json.dumps(plans))
    assert type(network(nnunet_bundle, models, "reads.json", *weights)).__name__ == "XAttnResUNet"


def test_monai_takes_a_model_of_plans_with_network(bundle):
    nnunet_bundle, models = bundle("nnUNetTrainerXAttnRes", with_reads=True)
    weights = (str(models / "fold_0" / "model.pt"), "network_weights")
    assert type(network(nnunet_bundle, models, "plans.json", *weights)).__name__ == "XAttnResUNet"


@pytest.mark.parametrize(
    ("trainer", "with_reads", "error"),
    [
        ("nnUNetTrainer", False, TypeError),
        ("nnUNetTrainerXAttnRes", True, TypeError),
        ("nnUNetTrainerXAttnRes", False, RuntimeError),
    ],
)
def test_monais_predictor_takes_no_model_of_this_nnunet(bundle, trainer, with_reads, error):
    """When this fails, MONAI has learned it: mend the page."""
    nnunet_bundle, models = bundle(trainer, with_reads)
    with pytest.raises(error, match=r"enable_deep_supervision|Unable to locate trainer class"):
        nnunet_bundle.get_nnunet_monai_predictor(models / "fold_0")
