"""Model folders as a training leaves them, of small networks with random weights, and images for them."""

import json

import numpy as np
import SimpleITK
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_xattnres.training.epochs import TRAINERS

LABELS = {"background": 0, "anterior": 1, "posterior": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
SOURCES = {"e3": ["e1", "e2"], "d1": ["e1", "e2", "e3"], "d2": ["e1", "e2", "e3", "d1"]}


def make_plans(dimension, reader):
    """As nnU-Net's planner writes them: anisotropic, transposed, resampled."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "test",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": {2: [16, 16], 3: [8, 16, 16]}[dimension],
        "spacing": {2: [1.0, 1.0], 3: [2.0, 0.8, 0.9]}[dimension],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [4, 8, 8],
                "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
                "kernel_sizes": [[3] * dimension] * 3,
                "strides": [[1] * dimension, [1, 2, 2][-dimension:], [2] * dimension],
                "n_conv_per_stage": [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    transpose = [1, 0, 2] if dimension == 3 else [0, 1, 2]
    return {
        "dataset_name": "Dataset001_Test",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "transpose_forward": transpose,
        "transpose_backward": transpose,
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 0.0, "std": 1.0, "percentile_00_5": -1.0, "percentile_99_5": 1.0}
        },
        "configurations": {f"{dimension}d": configuration},
    }


def make_model(
    root,
    trainer="nnUNetTrainerXAttnRes",
    *,
    dimension=3,
    reader="SimpleITKIO",
    ending=".nii.gz",
    labels=LABELS,
    folds=(0,),
    channels=1,
    convolutions=1,
):
    """A model folder; every fold has other weights. ``convolutions`` are those of each stage."""
    plans = make_plans(dimension, reader)
    (configuration,) = plans["configurations"].values()
    configuration["architecture"]["arch_kwargs"] |= {
        "n_conv_per_stage": [convolutions] * 3,
        "n_conv_per_stage_decoder": [convolutions] * 2,
    }
    for key in ("normalization_schemes", "use_mask_for_norm"):
        configuration[key] *= channels
    statistics = plans["foreground_intensity_properties_per_channel"]
    statistics |= {str(i): statistics["0"] for i in range(channels)}
    dataset = {
        "channel_names": {str(i): f"channel {i}" for i in range(channels)},
        "labels": labels,
        "file_ending": ending,
    }
    if labels is REGIONS:
        dataset["regions_class_order"] = [1, 2]
    folder = root / f"{trainer}__nnUNetPlans__{dimension}d"
    manager = PlansManager(plans)
    trainer_class = {**TRAINERS, "nnUNetTrainer": nnUNetTrainer}[trainer]
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    for fold in folds:
        torch.manual_seed(fold)
        arguments = manager, manager.get_configuration(f"{dimension}d"), channels, heads, False
        network = trainer_class.build_network_architecture(*arguments)
        for name, p in network.named_parameters():
            if name.endswith(("pseudo_query", ".query", "gate")):
                torch.nn.init.normal_(p, std=2.0)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer,
            "init_args": {"plans": plans, "configuration": f"{dimension}d", "fold": fold, "dataset_json": dataset},
            "inference_allowed_mirroring_axes": tuple(range(dimension)),
        }
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def make_image(path, shape=(14, 11, 22), seed=0, empty_border=2):
    """A volume of noise in an empty border, turned and shifted in space."""
    generator = np.random.default_rng(seed)
    voxels = np.zeros(shape, dtype=np.float32)
    inside = tuple(slice(empty_border, n - empty_border) for n in shape)
    voxels[inside] = generator.normal(5, 1, voxels[inside].shape)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing([1.1, 2.3, 0.7])
    image.SetOrigin([3.0, -4.0, 5.0])
    image.SetDirection([0, -1, 0, 1, 0, 0, 0, 0, 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))
    return image


def make_mask(path, like, seed=0):
    """Labels of noise with the geometry of an image."""
    shape = SimpleITK.GetArrayFromImage(like).shape
    mask = SimpleITK.GetImageFromArray(np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8))
    mask.CopyInformation(like)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(mask, str(path))
