"""A trainer as nnUNetv2_train makes it."""

import pytest
import torch
from helpers.plans import make_plans

from nnunet_xattnres.training.epochs import TRAINERS


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(trainer):
        """By name, or a class."""
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(variable, str(tmp_path))
        dataset = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
        plans = make_plans() | {"continue_training": False}
        monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda _: None)
        return TRAINERS.get(trainer, trainer)(plans, "2d", 0, dataset, torch.device("cpu"))

    return make
