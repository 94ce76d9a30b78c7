"""The trainers against nnU-Net's own contracts; nothing is trained here."""

import copy
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet
from nnunet_xattnres.nnunet_trainer import TRAINERS

FAMILIES = {
    "nnUNetTrainerXAttnRes": ("add", ["e3", "d1", "d2"]),
    "nnUNetTrainerXAttnResReplace": ("replace", ["e3", "d1", "d2"]),
    "nnUNetTrainerXAttnResDecoderReads": ("add", ["d1", "d2"]),
    "nnUNetTrainerNoSkip": ("none", []),
}
EPOCHS = (5, 20, 50, 100, 250)
CLASSES = {
    "dynamic_network_architectures.architectures.unet.PlainConvUNet": XAttnResUNet,
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet": XAttnResResidualEncoderUNet,
}


def make_plans(network_class="dynamic_network_architectures.architectures.unet.PlainConvUNet"):
    """The part of a plans file that a trainer needs, for a 2D network of three stages."""
    blocks = "n_blocks_per_stage" if network_class.endswith("ResidualEncoderUNet") else "n_conv_per_stage"
    return {
        "dataset_name": "Dataset001_Test",
        "plans_name": "nnUNetTestPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "batch_size": 2,
                "batch_dice": True,
                "patch_size": [16, 16],
                "normalization_schemes": ["ZScoreNormalization"],
                "architecture": {
                    "network_class_name": network_class,
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 8, 16],
                        "conv_op": "torch.nn.modules.conv.Conv2d",
                        "kernel_sizes": [[3, 3]] * 3,
                        "strides": [[1, 1], [2, 2], [2, 2]],
                        blocks: [1, 1, 1],
                        "n_conv_per_stage_decoder": [1, 1],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def build(trainer, plans, deep_supervision=True):
    manager = PlansManager(plans)
    return trainer.build_network_architecture(manager, manager.get_configuration("2d"), 1, 2, deep_supervision)


def test_the_public_trainers():
    variants = {f"{family}_{n}epochs" for family in FAMILIES for n in EPOCHS}
    no_mirroring = {"nnUNetTrainerXAttnResNoMirroring", "nnUNetTrainerXAttnResReplaceNoMirroring"}
    assert set(TRAINERS) == set(FAMILIES) | variants | no_mirroring


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_one_and_the_same_class(name):
    found = recursive_find_trainer_class_by_name(name)
    assert found is TRAINERS[name] and found is recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name and issubclass(found, nnUNetTrainer) and "__" not in name


@pytest.mark.parametrize("trainer", TRAINERS.values())
def test_signatures_are_nnunets(trainer):
    for method in ("__init__", "build_network_architecture"):
        ours, theirs = (list(inspect.signature(getattr(t, method)).parameters) for t in (trainer, nnUNetTrainer))
        assert ours == theirs
    assert isinstance(inspect.getattr_static(trainer, "build_network_architecture"), staticmethod)


@pytest.mark.parametrize("network_class", CLASSES)
@pytest.mark.parametrize("name", FAMILIES)
def test_builds_the_network_of_the_plans(name, network_class):
    plans = make_plans(network_class)
    untouched = copy.deepcopy(plans)
    skip_mode, reads = FAMILIES[name]
    on, off = (build(TRAINERS[name], plans, deep_supervision) for deep_supervision in (True, False))
    assert plans == untouched, "the plans were changed"
    assert type(on) is CLASSES[network_class]
    assert (on.skip_mode, list(on.reads)) == (skip_mode, reads)
    assert on.decoder.deep_supervision is True and off.decoder.deep_supervision is False
    off.load_state_dict(on.state_dict(), strict=True)


@pytest.mark.parametrize("network_class", ["my.nets.PlainConvUNet", "dynamic_network_architectures.x.Primus"])
def test_another_network_class_is_refused_by_name(network_class):
    with pytest.raises(ValueError, match=f"'{network_class}'.*PlainConvUNet and ResidualEncoderUNet"):
        build(TRAINERS["nnUNetTrainerXAttnRes"], make_plans(network_class))


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(name):
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(variable, str(tmp_path))
        dataset = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
        plans = make_plans() | {"continue_training": False}
        trainer = TRAINERS[name](plans, "2d", 0, dataset, torch.device("cpu"))
        monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda _: None)
        return trainer

    return make


@pytest.mark.parametrize("name", [n for n in TRAINERS if n.endswith("epochs")])
def test_lengths(make_trainer, name):
    trainer = make_trainer(name)
    assert trainer.num_epochs == int(name.split("_")[1].removesuffix("epochs"))
    assert 1 <= trainer.save_every <= trainer.num_epochs / 5
    assert list(trainer.my_init_kwargs) == ["plans", "configuration", "fold", "dataset_json", "device"]


def test_the_default_length_is_nnunets(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    assert (trainer.num_epochs, trainer.save_every) == (1000, 50)


@pytest.mark.parametrize("name", ["nnUNetTrainerXAttnResNoMirroring", "nnUNetTrainerXAttnResReplaceNoMirroring"])
def test_no_mirroring(make_trainer, name):
    trainer = make_trainer(name)
    *_, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes is None and trainer.inference_allowed_mirroring_axes is None


def test_the_parameter_line(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    log = Path(trainer.log_file).read_text()
    plain = nnUNetTrainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, enable_deep_supervision=True
    )
    n_plain = sum(p.numel() for p in plain.parameters())
    n_reads = sum(p.numel() for p in trainer.network.parameters()) - n_plain
    assert f"Parameters: plain network {n_plain:,}, reads {n_reads:,} (+{100 * n_reads / n_plain:.2f}%)" in log
    assert log.count("Parameters:") == 1


def test_the_parameter_line_sees_through_wrappers(make_trainer):
    trainer = make_trainer("nnUNetTrainerNoSkip")
    trainer.initialize()
    line = trainer._parameter_line()
    assert "reads 0 (+0.00%), this network " in line and "(-" in line
    trainer.is_ddp, network = True, trainer.network
    trainer.network = SimpleNamespace(module=SimpleNamespace(_orig_mod=network))
    assert trainer._parameter_line() == line


def test_attributes_stringify(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    trainer._save_debug_information()
