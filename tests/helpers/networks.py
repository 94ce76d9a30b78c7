"""Small U-Nets of every kind that nnU-Net's planner emits, for the tests."""

import pydoc
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, product
from math import prod
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_xattnres.networks.configs import BlockConfig, EMCADConfig, ReadConfig, UCTransNetConfig, UNet3PlusConfig
from nnunet_xattnres.networks.registry import counterpart


@dataclass(frozen=True)
class Kind:
    """A row of the shared network tester.

    Attributes:
        config: the arguments of the network beyond upstream's.
        trainer: whose network it is; None for one that only plans can ask for.
        counts_all_maps: whether compute_conv_feature_map_size counts what all convolutions put out; otherwise it is
            upstream's number, as for networks whose additions are no maps of convolutions.
        n_blocks: of every stage, encoder's and decoder's.
        rounding: by how much of the largest logit another processor, or another number of threads, may differ.
    """

    config: Any
    trainer: str | None
    counts_all_maps: bool = False
    n_blocks: int = 1
    rounding: float = 1e-5

    def feature_maps(self, network, upstream, size=(16, 16, 16)):
        """What compute_conv_feature_map_size must say."""
        if not self.counts_all_maps:
            return upstream.compute_conv_feature_map_size(size)
        found, hooks = [network.encoder.compute_conv_feature_map_size(size)], []
        for name, module in network.named_modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and not name.startswith("encoder."):
                hooks.append(module.register_forward_hook(lambda _, __, out: found.append(out[0].numel())))
        with torch.no_grad():
            network(torch.zeros(1, 2, *size))
        for hook in hooks:
            hook.remove()
        return sum(found)


KINDS = {
    "add": Kind(ReadConfig("add"), "nnUNetTrainerXAttnRes"),
    "replace": Kind(ReadConfig("replace"), "nnUNetTrainerXAttnResReplace"),
    "decoder_reads": Kind(ReadConfig("add", encoder_reads=False), "nnUNetTrainerXAttnResDecoderReads"),
    "gated": Kind(ReadConfig("add", read_gate="zero"), "nnUNetTrainerXAttnResGated"),
    "none": Kind(ReadConfig("none"), "nnUNetTrainerNoSkip"),
    "plain": Kind(ReadConfig("plain"), None),
    "unet3plus": Kind(UNet3PlusConfig(), "nnUNetTrainerUNet3Plus", counts_all_maps=True),
    # its normalised scores magnify rounding: 1.2e-5 as seen so far
    "uctransnet": Kind(UCTransNetConfig(), "nnUNetTrainerUCTransNet", rounding=1e-4),
    "block": Kind(BlockConfig(), "nnUNetTrainerXAttnResBlock", counts_all_maps=True, n_blocks=3),
    "block_published": Kind(BlockConfig("as_published"), None, counts_all_maps=True, n_blocks=3),
    "block_encoder": Kind(BlockConfig(encoder_isar=True), None, counts_all_maps=True, n_blocks=3),
}
DIMENSIONS, ENCODERS, SHAPES = (2, 3), ("plain conv", "residual"), ("isotropic", "anisotropic")
# What is not made of upstream's networks, and has one dimension and one shape.
OWN = {
    "emcad": EMCADConfig("pvt_v2_b0"),
    "emcad_xattnres": EMCADConfig("pvt_v2_b0", reads=True),
}
ALL_NETWORKS = [*product(DIMENSIONS, ENCODERS, KINDS, SHAPES), *((2, "own", kind, "own") for kind in OWN)]
UPSTREAM = {"plain conv": PlainConvUNet, "residual": ResidualEncoderUNet}


def plan(dimension, encoder, shape="isotropic", *, n_stages=4, input_channels=2, num_classes=3, n_blocks=1):
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
        per_stage: [n_blocks] * n_stages,
        "num_classes": num_classes,
        "n_conv_per_stage_decoder": [n_blocks] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }


def make_network(dimension, encoder, kind, shape="isotropic", **changes):
    """Our network, initialised as nnU-Net does, with what starts at zero, and would be idle, away from there.

    ``changes`` are of the plan, or of the kind's own arguments. What draws random numbers or asks the whole batch is
    set to evaluation.
    """
    torch.manual_seed(0)
    if kind in OWN:
        network_class = "nnunet_xattnres.networks.emcad.EMCAD"
        arguments = {"input_channels": 2, "num_classes": 3, **asdict(OWN[kind]), **changes}
    else:
        config = KINDS[kind].config
        config = replace(config, **{f.name: changes.pop(f.name) for f in fields(config) if f.name in changes})
        upstream = f"{UPSTREAM[encoder].__module__}.{UPSTREAM[encoder].__name__}"
        arguments = {**plan(dimension, encoder, shape, n_blocks=KINDS[kind].n_blocks), **changes}
        network_class, arguments = counterpart(
            upstream, arguments, config, "test plans", size_of_input(dimension, arguments)
        )
    network = pydoc.locate(network_class)(**arguments)
    network.apply(network.initialize)
    for name, p in network.named_parameters():
        if not p.any() and not name.endswith("bias"):
            nn.init.normal_(p)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) or type(module).__name__ == "DropPath":
            module.eval()
    return network


def without_dropout(network):
    """The same network, which computes in training what it computes in prediction."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def size_of_input(dimension, arguments):
    """Twice what the strides of a plan divide, so that the bottleneck has several positions."""
    strides = [[s] * dimension if isinstance(s, int) else s for s in arguments["strides"]]
    return [2 * prod(axis) for axis in zip(*strides)]


def strides_of(network):
    """How much smaller than the input the output of each encoder stage is, for each axis."""
    if not hasattr(network.encoder, "strides"):  # timm's
        return [[n, n] for n in network.encoder.feature_info.reduction()]
    return list(accumulate(network.encoder.strides, lambda a, b: [i * j for i, j in zip(a, b)]))


def output_sizes(network, x):
    """With deep supervision: one for each decoder stage, highest resolution first, or all at full size."""
    if hasattr(network, "padded"):
        return [list(x.shape[2:])] * len(network.decoder.seg_layers)
    return [[n // s for n, s in zip(x.shape[2:], stride)] for stride in strides_of(network)[:-1]]


def make_input(network, batch=2, channels=2):
    """An image as large as ``size_of_input`` says."""
    torch.manual_seed(1)
    return torch.randn(batch, channels, *[2 * d for d in strides_of(network)[-1]])
