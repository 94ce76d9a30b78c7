"""The golden files of every kind of network: read, compared with, and what they are made of."""

import io
import json
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from helpers.networks import KINDS

from nnunet_xattnres.commands.plan import plans_with_network

HERE = Path(__file__).resolve().parent
CONFIGURATIONS = [f"{dimension}d_{encoder}" for dimension, encoder in product((2, 3), ("plain", "residual"))]
DATASET = {
    "channel_names": {"0": "MRI", "1": "CT"},
    "labels": {"background": 0, "organ": 1, "duct": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def _configuration(dimension: int, encoder: str, n_blocks: int) -> dict:
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
                blocks: [n_blocks] * 3,
                "n_conv_per_stage_decoder": [n_blocks] * 2,
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


def stock_plans(n_blocks: int = 1) -> dict:
    """Plans of nnU-Net's own networks, with so many blocks in every stage."""
    return {
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
            f"{dimension}d_{encoder}": _configuration(dimension, encoder, n_blocks)
            for dimension, encoder in product((2, 3), ("plain", "residual"))
        },
    }


STOCK_PLANS = stock_plans()


def plans_of(kind: str) -> dict:
    """The stock plans with a network of that kind."""
    return plans_with_network(stock_plans(KINDS[kind].n_blocks), f"nnUNetXAttnResPlans_{kind}", KINDS[kind].config)[0]


def stored_plans(kind: str) -> dict:
    return json.loads((HERE / f"{kind}.json").read_text(encoding="utf-8"))


def read_checkpoint(kind: str, configuration: str) -> dict:
    """The checkpoint of a network of that kind."""
    with ZipFile(HERE / f"{kind}.zip") as archive:
        return torch.load(io.BytesIO(archive.read(f"{configuration}.pth")), weights_only=False)


def assert_golden(network: Any, kind: str, configuration: str) -> None:
    """The logits of every decoder stage are those stored, to 1e-5 of the largest: processors round differently."""
    with ZipFile(HERE / f"{kind}.zip") as archive:
        stored = np.load(io.BytesIO(archive.read("logits.npz")))
        names = sorted(name for name in stored.files if name.startswith(f"{configuration} "))
        expected = [torch.from_numpy(stored[name]) for name in names]
    network.eval().decoder.deep_supervision = True
    with torch.inference_mode():
        found = network(image_of(configuration))
    assert len(found) == len(expected) > 1
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=KINDS[kind].rounding * b.abs().max().item())
    network.decoder.deep_supervision = False
    with torch.inference_mode():
        assert torch.equal(network(image_of(configuration)), found[0])


def image_of(configuration: str) -> torch.Tensor:
    """A smooth image, (2, 2, *patch), the same on every machine."""
    size = STOCK_PLANS["configurations"][configuration]["patch_size"]
    positions = torch.arange(4 * torch.Size(size).numel(), dtype=torch.float64).view(2, 2, *size)
    return torch.sin(positions * 12.9898).float()


def fixed_weights(network: Any) -> torch.Tensor:
    """Weights by a formula in the place of stored ones, which would be large; an image, (1, 2, 24, 40)."""
    with torch.no_grad():
        for k, (name, value) in enumerate(network.state_dict().items()):
            if value.is_floating_point():
                wave = torch.sin(12.9898 * torch.arange(value.numel(), dtype=torch.float64) + k).view(value.shape)
                small = max(1, value.numel() // value.shape[0]) ** -0.5 if value.ndim > 1 else 0.3
                positive = value.ndim == 1 and name.endswith(("weight", "running_var", "key_scale"))
                value.copy_((1 if positive else 0) + small * wave)
    return torch.sin(12.9898 * torch.arange(1 * 2 * 24 * 40, dtype=torch.float64)).view(1, 2, 24, 40).float()


def write_json(content: dict, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
