"""Small U-Nets of every kind that nnU-Net's planner emits, for the tests."""

from itertools import product

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet

DIMENSIONS, ENCODERS, SHAPES = (2, 3), ("plain conv", "residual"), ("isotropic", "anisotropic")
MODES = ("add", "replace", "none", "plain", "gated")  # skip_mode, and "add" with read_gate="zero"
ALL_NETWORKS = list(product(DIMENSIONS, ENCODERS, MODES, SHAPES))
UPSTREAM = {"plain conv": PlainConvUNet, "residual": ResidualEncoderUNet}
OURS = {"plain conv": XAttnResUNet, "residual": XAttnResResidualEncoderUNet}


def plan(dimension, encoder, shape="isotropic", *, n_stages=4, input_channels=2, num_classes=3):
    """The keyword arguments that nnU-Net would take from a plans file, for a network of few features."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
    norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimension]
    kernels, strides = [[3] * dimension] * n_stages, [[1] * dimension] + [[2] * dimension] * (n_stages - 1)
    if shape == "anisotropic":
        kernels = [[1, *[3] * (dimension - 1)], *kernels[1:]]
        strides = [strides[0], [1, *[2] * (dimension - 1)], *strides[2:]]
    per_stage = "n_conv_per_stage" if encoder == "plain conv" else "n_blocks_per_stage"
    return {
        "input_channels": input_channels,
        "n_stages": n_stages,
        "features_per_stage": [min(4 * 2**s, 16) for s in range(n_stages)],
        "conv_op": conv,
        "kernel_sizes": kernels,
        "strides": strides,
        per_stage: [1] * n_stages,
        "num_classes": num_classes,
        "n_conv_per_stage_decoder": [1] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }


def make_network(dimension, encoder, mode, shape="isotropic", *, encoder_reads=True, **changes):
    """Our network, initialised as nnU-Net does, with pseudo-queries and gates away from zero so that they matter."""
    torch.manual_seed(0)
    plans = plan(dimension, encoder, shape)
    reads = {"skip_mode": "add", "read_gate": "zero"} if mode == "gated" else {"skip_mode": mode}
    network = OURS[encoder](**{**plans, **changes}, **reads, encoder_reads=encoder_reads)
    network.apply(network.initialize)
    for read in network.reads.values():
        nn.init.normal_(read.pseudo_query)
        if read.gate is not None:
            nn.init.normal_(read.gate)
    return network


def make_input(network, batch=2, channels=2):
    """An image of twice the size that the strides divide, so that the bottleneck has several positions."""
    torch.manual_seed(1)
    return torch.randn(batch, channels, *[2 * d for d in network.encoder_stages[-1].strides])
