"""The kinds of networks that have golden files, and the plans and images that they are made of."""

import json
from itertools import product
from pathlib import Path

import torch

from nnunet_xattnres.commands.plan import plans_with_reads
from nnunet_xattnres.reads.config import ReadConfig

HERE = Path(__file__).resolve().parent
KINDS = {
    "add": ({"skip_mode": "add"}, "nnUNetTrainerXAttnRes"),
    "replace": ({"skip_mode": "replace"}, "nnUNetTrainerXAttnResReplace"),
    "decoder_reads": ({"skip_mode": "add", "encoder_reads": False}, "nnUNetTrainerXAttnResDecoderReads"),
    "gated": ({"skip_mode": "add", "read_gate": "zero"}, "nnUNetTrainerXAttnResGated"),
    "none": ({"skip_mode": "none"}, "nnUNetTrainerNoSkip"),
    "plain": ({"skip_mode": "plain"}, None),  # by plans only
}
CONFIGURATIONS = [f"{dimension}d_{encoder}" for dimension, encoder in product((2, 3), ("plain", "residual"))]
DATASET = {
    "channel_names": {"0": "MRI", "1": "CT"},
    "labels": {"background": 0, "organ": 1, "duct": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def _configuration(dimension: int, encoder: str) -> dict:
    strides = [[1] * dimension, [1, *[2] * (dimension - 1)], [2] * dimension]
    blocks = {"plain": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[encoder]
    return {
        "data_identifier": f"nnUNetPlans_{dimension}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [4, 8, 8][-dimension:],
        "spacing": [1.0] * dimension,
        "normalization_schemes": ["ZScoreNormalization"] * 2,
        "use_mask_for_norm": [False] * 2,
        "batch_dice": True,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet."
            + {"plain": "PlainConvUNet", "residual": "ResidualEncoderUNet"}[encoder],
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [2, 3, 4],
                "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
                "kernel_sizes": [[1, *[3] * (dimension - 1)], *[[3] * dimension] * 2],
                "strides": strides,
                blocks: [1] * 3,
                "n_conv_per_stage_decoder": [1] * 2,
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


STOCK_PLANS = {
    "dataset_name": "Dataset001_Golden",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {},
    "configurations": {
        f"{dimension}d_{encoder}": _configuration(dimension, encoder)
        for dimension, encoder in product((2, 3), ("plain", "residual"))
    },
}


def plans_of(kind: str) -> dict:
    """The stock plans with a network of that kind."""
    return plans_with_reads(STOCK_PLANS, f"nnUNetXAttnResPlans_{kind}", ReadConfig(**KINDS[kind][0]))[0]


def trainer_of(kind: str) -> str | None:
    """The trainer whose network that is."""
    return KINDS[kind][1]


def image_of(configuration: str) -> torch.Tensor:
    """A smooth image, (2, 2, *patch), the same on every machine."""
    size = STOCK_PLANS["configurations"][configuration]["patch_size"]
    positions = torch.arange(4 * torch.Size(size).numel(), dtype=torch.float64).view(2, 2, *size)
    return torch.sin(positions * 12.9898).float()


def write_json(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
