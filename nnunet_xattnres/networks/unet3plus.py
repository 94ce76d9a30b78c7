"""UNet 3+ (Huang et al., ICASSP 2020) on nnU-Net's encoders: every decoder stage sees every scale.

Decoder stage i takes one map of each of the n levels: the encoder's finer ones, pooled; the encoder's own of level i;
the decoder's coarser ones and the bottleneck, enlarged. Each is reduced to c channels, and one convolution fuses all
n * c. The paper has five levels of max pooling and c = 64. Ours: any number of levels with the strides, kernels, norm
and nonlinearity of the plan; c by what it costs; nnU-Net's heads, 1x1, on the decoder stages at their own sizes. The
paper's classification-guided module is left out: it asks "is the organ in this slice?", which a patch has no label for.
"""

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres.networks.configs import UNet3PlusConfig
from nnunet_xattnres.networks.upstream import (
    Encoder,
    block,
    check_input,
    input_channels,
    kernels_of,
    make_picklable,
    strides_of,
    with_idle_heads,
)

WIDTHS = (64, 32, 16, 8, 4, 2)
LIMIT = 2.5  # of the plain network's multiply-adds


class FullScaleDecoder(nn.Module):
    """From the encoder's maps to the logits.

    Args:
        encoder: nnU-Net's; it is not part of this module.
        num_classes: of each head.
        width: c.
        deep_supervision: whether all stages put out logits.

    Attributes:
        reductions: for each decoder stage, the coarsest first, the block of each level, the finest level first.
        fusions: the block of each decoder stage.
        seg_layers: the head of each decoder stage.
    """

    def __init__(self, encoder: Encoder, num_classes: int, width: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision, self.width, self.num_classes = deep_supervision, width, num_classes
        self.strides, channels = strides_of(encoder), encoder.output_channels
        self.levels = list(reversed(range(len(channels) - 1)))  # of the stages
        n, kernels = len(channels), kernels_of(encoder)
        wide = n * width
        # the bottleneck and the encoder's maps down to the stage's own level come as they are, decoder maps are wide
        self.reductions: Any = nn.ModuleList(
            nn.ModuleList(block(encoder, wide if i < j < n - 1 else channels[j], width, kernels[i]) for j in range(n))
            for i in self.levels
        )
        self.fusions = nn.ModuleList(block(encoder, wide, wide, kernels[i]) for i in self.levels)
        self.seg_layers = nn.ModuleList(encoder.conv_op(wide, num_classes, 1, bias=True) for _ in self.levels)

    def forward(self, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Of the encoder's maps, the finest first; the logits as nnU-Net's decoder gives them."""
        maps, outputs = list(skips), []
        for stage, i in enumerate(self.levels):
            size = skips[i].shape[2:]
            aligned = [self._at(maps[j], j, i, size) for j in range(len(maps))]
            reduced = [reduce(x) for reduce, x in zip(self.reductions[stage], aligned, strict=True)]
            maps[i] = self.fusions[stage](torch.cat(reduced, 1))  # coarser levels are the decoder's from now on
            if self.deep_supervision or i == 0:
                outputs.append(self.seg_layers[stage](maps[i]))
        if self.deep_supervision:
            return outputs[::-1]
        return with_idle_heads(self, outputs[0]) if self.training else outputs[0]

    def _at(self, x: Tensor, level: int, target: int, size: torch.Size) -> Tensor:
        """A map of a level at the size of another."""
        if level < target:
            factor = [b // a for a, b in zip(self.strides[level], self.strides[target], strict=True)]
            return (F.max_pool2d if x.ndim == 4 else F.max_pool3d)(x, factor, factor)
        return x if level == target else F.interpolate(x, size, mode="bilinear" if x.ndim == 4 else "trilinear")

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> Any:
        """Numbers in the maps of all convolutions; ``input_size`` is the image's."""
        total = np.int64(0)
        for i in self.levels:
            channels = 2 * len(self.strides) * self.width
            channels += self.num_classes if self.deep_supervision or i == 0 else 0
            total += np.prod([channels, *(a // b for a, b in zip(input_size, self.strides[i], strict=True))])
        return total


def multiply_adds(encoder: Encoder, size: Sequence[int], width: int, num_classes: int) -> int:
    """Of all convolutions of a ``FullScaleDecoder``, with one head, for one image.

    Args:
        encoder: what it stands on.
        size: of the image.
        width: c.
        num_classes: of the head.
    """
    channels, strides, kernels = encoder.output_channels, strides_of(encoder), kernels_of(encoder)
    n = len(channels)
    total = n * width * num_classes * prod(size)
    for i in range(n - 1):
        read = sum(n * width if i < j < n - 1 else channels[j] for j in range(n))
        positions = prod(a // b for a, b in zip(size, strides[i], strict=True))
        total += positions * prod(kernels[i]) * (read * width + (n * width) ** 2)
    return total


class _FullScaleUNet(nn.Module):
    """The decoder, for a U-Net of upstream as the next base class."""

    encoder: Encoder
    decoder: Any

    def __init__(self, *args: Any, width: int | None = None, **kwargs: Any) -> None:
        UNet3PlusConfig(width)
        super().__init__(*args, **kwargs)
        if len(self.encoder.output_channels) < 2:
            raise ValueError("n_stages is 1; a U-Net needs at least 2 stages")
        self.strides = strides_of(self.encoder)
        plain = self.decoder
        self.width, self.cost = self._choose(width, plain.num_classes)
        self.decoder = FullScaleDecoder(self.encoder, plain.num_classes, self.width, plain.deep_supervision)
        make_picklable(self)

    @property
    def note(self) -> str:
        """What the log of a training says of it."""
        return f"UNet 3+: reductions of {self.width} channels, {self.cost:.2f} times the plain network's multiply-adds"

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``, (B, input channels, *spatial).

        Returns:
            The logits, (B, num_classes, *spatial); with ``decoder.deep_supervision`` those of every decoder stage, the
            highest resolution first.

        Raises:
            ValueError: for another number of axes or of channels, a size that the network's strides do not divide, and
                a dtype that is not floating.
        """
        check_input(x, self.encoder, self.strides[-1])
        return self.decoder(self.encoder(x))

    def _choose(self, width: int | None, num_classes: int) -> tuple[int, float]:
        """The width, and the multiply-adds over the plain network's: of any patch, for all grow with its size."""
        plain = deepcopy(self).to("meta").eval()
        plain.decoder.deep_supervision = False
        channels = input_channels(self.encoder)
        assert channels is not None  # upstream has just built it
        x = torch.empty(1, channels, *(2 * n for n in self.strides[-1]), device="meta")
        of_encoder, of_decoder = _multiply_adds(plain.encoder, x), _multiply_adds(plain.decoder, plain.encoder(x))
        for c in WIDTHS if width is None else (width,):
            ours = of_encoder + multiply_adds(self.encoder, x.shape[2:], c, num_classes)
            cost = ours / (of_encoder + of_decoder)
            if cost <= LIMIT:
                break
        return c, cost


def _multiply_adds(module: nn.Module, x: Any) -> int:
    """As torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops() // 2


class UNet3Plus(_FullScaleUNet, PlainConvUNet):
    """UNet 3+ on ``PlainConvUNet``'s encoder.

    Args:
        *args: as ``PlainConvUNet``'s; ``n_conv_per_stage_decoder`` has no effect.
        width: c, the channels of each reduction. None takes the largest of 64, 32, 16, 8, 4 and 2 with which the
            network needs at most 2.5 times the plain one's multiply-adds, or 2.
        **kwargs: as ``PlainConvUNet``'s.

    Attributes:
        width: c.
        cost: the multiply-adds over the plain network's.
    """


class ResidualEncoderUNet3Plus(_FullScaleUNet, ResidualEncoderUNet):
    """UNet 3+ on ``ResidualEncoderUNet``'s encoder; arguments as in ``UNet3Plus``."""
