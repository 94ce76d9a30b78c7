"""The networks that are measured: nnU-Net's plans as numbers."""

from dataclasses import dataclass
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet

MODES: dict[str, dict[str, Any]] = {
    "add": {"skip_mode": "add"},
    "replace": {"skip_mode": "replace"},
    "decoder reads only": {"skip_mode": "add", "encoder_reads": False},
}
RESENC_BLOCKS = (1, 3, 4, 6, 6, 6)  # nnU-Net's ResEnc planners, M to XL; they differ in the patch and the batch


@dataclass(frozen=True)
class Configuration:
    """One plan.

    Attributes:
        strides: of the stages after the first.
        first_kernel: the kernel of the first stage; the others have 3 along every axis.
        blocks: residual blocks of the encoder's stages; None for a plain encoder of two convolutions a stage.
        quick: part of ``--quick``. The full run measures the small ones that were made for it in one mode only.
    """

    name: str
    batch: int
    patch: tuple[int, ...]
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    first_kernel: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    modes: tuple[str, ...] = tuple(MODES)
    quick: bool = False
    gpu_only: bool = False

    def build(self, mode: str | None) -> nn.Module:
        """The network with reads, or for no mode the plain one of upstream, as nnU-Net's trainer would have it."""
        torch.manual_seed(0)
        if self.blocks is None:
            network_class, encoder, per_decoder_stage = PlainConvUNet, {"n_conv_per_stage": 2}, 2
        else:
            network_class, encoder, per_decoder_stage = ResidualEncoderUNet, {"n_blocks_per_stage": self.blocks}, 1
        if mode is not None:
            ours = {PlainConvUNet: XAttnResUNet, ResidualEncoderUNet: XAttnResResidualEncoderUNet}
            network_class, encoder = ours[network_class], {**encoder, **MODES[mode]}
        network = network_class(**self._plan(), **encoder, n_conv_per_stage_decoder=per_decoder_stage)
        return network.apply(network.initialize)

    def _plan(self) -> dict[str, Any]:
        dimension, n_stages = len(self.patch), len(self.features)
        conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimension]
        threes = (3,) * dimension
        return {
            "input_channels": 1,
            "n_stages": n_stages,
            "features_per_stage": self.features,
            "conv_op": conv,
            "kernel_sizes": [self.first_kernel or threes, *[threes] * (n_stages - 1)],
            "strides": [(1,) * dimension, *self.strides],
            "num_classes": 3,
            "conv_bias": True,
            "norm_op": norm,
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": nn.LeakyReLU,
            "nonlin_kwargs": {"inplace": True},
            "deep_supervision": True,
        }


_HIPPOCAMPUS: dict[str, Any] = {
    "patch": (40, 56, 40),
    "features": (32, 64, 128, 256),
    "strides": ((2, 2, 2),) * 3,
}
_SIX: dict[str, Any] = {"features": (32, 64, 128, 256, 320, 320)}
_ANISOTROPIC: dict[str, Any] = {**_SIX, "strides": ((1, 2, 2), *[(2, 2, 2)] * 4), "first_kernel": (1, 3, 3)}
_RESENC_L: dict[str, Any] = {**_SIX, "strides": ((2, 2, 2),) * 5, "blocks": RESENC_BLOCKS}
_SEVEN_2D: dict[str, Any] = {
    "patch": (256, 256),
    "features": (32, 64, 128, 256, 512, 512, 512),
    "strides": ((2, 2),) * 6,
}
_FOR_QUICK: dict[str, Any] = {"modes": ("add",), "quick": True}

CONFIGURATIONS = [
    Configuration("hippocampus 3d_fullres, batch 2", 2, **_HIPPOCAMPUS, quick=True),
    Configuration("2D, 7 stages, 256^2, batch 1", 1, **_SEVEN_2D, **_FOR_QUICK),
    Configuration("3D, 6 stages, anisotropic, 32x64x64, batch 1", 1, (32, 64, 64), **_ANISOTROPIC, **_FOR_QUICK),
    Configuration("hippocampus 3d_fullres, batch 9", 9, **_HIPPOCAMPUS),
    Configuration("3D, 6 stages, anisotropic, 64^3, batch 2", 2, (64,) * 3, **_ANISOTROPIC),
    Configuration("3D, 6 stages, anisotropic, 128^3, batch 2", 2, (128,) * 3, **_ANISOTROPIC, gpu_only=True),
    Configuration("2D, 7 stages, 256^2, batch 4", 4, **_SEVEN_2D),
    Configuration("ResEnc M, hippocampus, batch 2", 2, **_HIPPOCAMPUS, blocks=RESENC_BLOCKS[:4]),
    Configuration("ResEnc L, 6 stages, 64^3, batch 2", 2, (64,) * 3, **_RESENC_L),
    Configuration("ResEnc L, 6 stages, 128^3, batch 2", 2, (128,) * 3, **_RESENC_L, gpu_only=True),
]
