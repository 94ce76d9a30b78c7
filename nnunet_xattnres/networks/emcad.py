"""EMCAD (Rahman et al., CVPR 2024), 2D: a PVTv2 encoder and an attention decoder; on request with XAttnRes reads.

With the encoder's maps x1 (stride 4) ... x4 (stride 32): d4 = A(x4), d_i = A(u + gate(u, x_i) + r_i), i = 3, 2, 1.
u is d_(i+1) enlarged, A attends over channels, over positions and over three scales. r_i is there with reads only, as
in the XAttnRes paper's EMCAD: the read of x1 ... x4, d4 ... d_(i+1) at the size and the width of x_i.

Of the plans only the patch counts. Written from the paper. Left out is a shuffle of channels between a depthwise and a
dense convolution, which only puts the weights of the second into another order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.networks.configs import EMCADConfig
from nnunet_xattnres.networks.upstream import with_idle_heads
from nnunet_xattnres.ops.choice import CUSTOM_OPS
from nnunet_xattnres.reads.history import History, HistoryNetwork, Stage
from nnunet_xattnres.reads.history_read import HistoryRead

STRIDES = (4, 8, 16, 32)  # of every PVTv2
_DROP_PATH = 0.1  # timm's default is none


def _encoder(name: str) -> Any:
    """timm's with random weights, on torch's default device."""
    import timm

    device = torch.empty(0).device
    with torch.device("cpu"):  # timm computes drop rates with tensors, which are empty under torch.device("meta")
        return timm.create_model(name, features_only=True, drop_path_rate=_DROP_PATH).to(device)


def pretrained_encoder(name: str, file: str | None = None) -> dict[str, Tensor]:
    """The state dict of ``EMCAD.encoder`` with weights from ImageNet.

    Args:
        name: timm's, such as ``pvt_v2_b2``.
        file: of weights of the whole classifier, in timm's format or in that of PVTv2's authors; None lets timm fetch
            its own, or take them from its cache.

    Raises:
        Exception: whatever timm and torch raise when there are none, or not for every parameter.
    """
    import timm

    # the whole classifier: timm loads it strictly, but an encoder alone from any file, matching or not
    overlay = None if file is None else {"file": file}
    classifier = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    weights = classifier.state_dict().items()
    return {key.replace("stages.", "stages_", 1): value for key, value in weights if not key.startswith("head.")}


class ChannelAttention(nn.Module):
    """CAB: a factor for each channel, (B, C, 1, 1), from its mean and its maximum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 16)
        self.shared = nn.Sequential(
            nn.Conv2d(channels, narrow, 1, bias=False), nn.ReLU(), nn.Conv2d(narrow, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, largest = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return torch.sigmoid(self.shared(mean) + self.shared(largest))


class SpatialAttention(nn.Module):
    """SAB: a factor for each position, (B, 1, H, W), from the mean and the maximum over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)))


class MultiScaleConvolution(nn.Module):
    """MSCB: at twice the width, depthwise convolutions of three sizes beside each other; residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU6(),
            )
            for kernel in (1, 3, 5)
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = self.expand(x)
        small, middle, large = (scale(wide) for scale in self.scales)
        return x + self.project(small + middle + large)


class Enlargement(nn.Sequential):
    """EUCB: to twice the size and to another width."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, out_channels, 1),
        )


class Gate(nn.Module):
    """LGAG: a map of the encoder, times a factor for each position that the decoder's map has a say in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.of_decoder, self.of_encoder = (
            nn.Sequential(nn.Conv2d(channels, half, 3, padding=1, groups=half), nn.BatchNorm2d(half)) for _ in range(2)
        )
        self.factor = nn.Sequential(nn.Conv2d(half, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return self.factor(F.relu(self.of_decoder(g) + self.of_encoder(x))) * x


class EMCADDecoder(nn.Module):
    """From the encoder's maps to the logits.

    Args:
        channels: of the encoder's maps, the finest first.
        num_classes: of each head.
        deep_supervision: whether all stages put out logits.

    Attributes:
        spatial: one for all stages.
        channelwise, convolutions, seg_layers: of each stage, the coarsest (d4) first.
        enlargements, gates: of each stage but the coarsest.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        widths = list(reversed(channels))
        self.spatial = SpatialAttention()
        self.channelwise = nn.ModuleList(map(ChannelAttention, widths))
        self.convolutions = nn.ModuleList(map(MultiScaleConvolution, widths))
        self.enlargements = nn.ModuleList(map(Enlargement, widths, widths[1:]))
        self.gates = nn.ModuleList(map(Gate, widths[1:]))
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in widths)

    def forward(
        self, maps: Sequence[Tensor], stages: Sequence[Stage], reads: Mapping[str, HistoryRead], path: str | None
    ) -> list[Tensor]:
        """The logits of the stages, at their own sizes, the finest first; without deep supervision only that one's.

        Args:
            maps: the encoder's, the finest first.
            stages: of the encoder, in the order of the maps, then of the decoder, the coarsest first.
            reads: by the name of the stage that each feeds; empty for a decoder without.
            path: of the reads, if it is forced.
        """
        history, own = History(path), stages[len(maps) :]
        sizes = [(stage.strides, x.shape[2:]) for stage, x in zip(stages, maps[:-1], strict=False)] if reads else []
        for i, (stage, x) in enumerate(zip(stages, maps, strict=False)):
            history.append(x, stage, coarser=dict(sizes[i + 1 :]))
        decoded = [self._attend(0, maps[-1])]
        for j, (stage, x) in enumerate(zip(own[1:], reversed(maps[:-1]), strict=True)):
            history.append(decoded[-1], own[j], coarser={})
            up = self.enlargements[j](decoded[-1])
            joined = up + self.gates[j](up, x)
            if stage.name in reads:
                joined = joined + reads[stage.name](history.at(stage.strides), x.shape[2:])
            decoded.append(self._attend(j + 1, joined))
        logits = zip(reversed(self.seg_layers), reversed(decoded), strict=True)
        return [head(d) for head, d in (logits if self.deep_supervision else [next(logits)])]

    def _attend(self, stage: int, x: Tensor) -> Tensor:
        """MSCAM."""
        x = self.channelwise[stage](x) * x
        return self.convolutions[stage](self.spatial(x) * x)


class ThreeChannels(nn.Sequential):
    """An image of any channels for an encoder of coloured ones."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU())


class EMCAD(HistoryNetwork, nn.Module):
    """The network.

    Args:
        input_channels: of the image; where they are not three, a 1x1 convolution makes three of them.
        num_classes: of each head.
        deep_supervision: whether all four stages put out logits.
        encoder: timm's name of a PVTv2. Its weights are random: ``pretrained_encoder`` has trained ones.
        reads: whether the decoder reads the history.

    Attributes:
        reads: the ``HistoryRead`` of each stage that has one, by the stage's name: d3, d2, d1.
        history_stages: x1 ... x4, d4 ... d1, as their outputs stand in the history.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = True,
        encoder: str = EMCADConfig.encoder,
        reads: bool = False,
    ) -> None:
        super().__init__()
        # of three channels there is no stem: an idle parameter would stop DistributedDataParallel
        self.stem = nn.Identity() if input_channels == 3 else ThreeChannels(input_channels)
        self.encoder_name, self.encoder = encoder, _encoder(encoder)
        channels = self.encoder.feature_info.channels()
        self.decoder: Any = EMCADDecoder(channels, num_classes, deep_supervision)
        maps = [Stage(f"x{i}", c, (s, s)) for i, (c, s) in enumerate(zip(channels, STRIDES, strict=True), start=1)]
        decoded = [Stage(f"d{i}", *maps[i - 1].shape) for i in range(len(maps), 0, -1)]
        self.history_stages = [*maps, *decoded]
        self.reads = nn.ModuleDict()
        for stage in decoded[1:] if reads else ():
            pool = self.history_stages[: self.history_stages.index(stage)]
            direct = [k for k, source in enumerate(pool) if source.shape == stage.shape]
            self.reads[stage.name] = read = HistoryRead([s.channels for s in pool], stage.channels, nn.Conv2d, direct)
            read.name = stage.name  # type: ignore[assignment, unused-ignore]
        self.apply(self.initialize)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """As ``network.apply`` takes it: all but the encoder anew, whose weights may be trained ones."""
        if isinstance(module, (ThreeChannels, EMCADDecoder, HistoryRead)):
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.normal_(part.weight, std=0.02)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
                elif isinstance(part, nn.BatchNorm2d):
                    part.reset_parameters()

    @staticmethod
    def padded(size: Sequence[int]) -> tuple[int, ...]:
        """The size at which the network computes an image of ``size``: the next multiple of the coarsest stride."""
        return tuple(-(-n // STRIDES[-1]) * STRIDES[-1] for n in size)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``, (B, input channels, H, W), of any size; it is padded with zeros at its end, the logits cut.

        Returns:
            The logits, (B, num_classes, H, W); with ``decoder.deep_supervision`` those of every stage, the finest
            first, all enlarged to that size.

        Raises:
            ValueError: for an input that is not two-dimensional.
        """
        if x.ndim != 4:
            raise ValueError(f"the input has shape {tuple(x.shape)}; expected (batch, channels, 2 axes)")
        height, width = x.shape[2:]
        whole = self.padded((height, width))
        x = self.stem(F.pad(x, (0, whole[1] - width, 0, whole[0] - height)))
        outputs = [
            F.interpolate(logits, whole, mode="bilinear")[..., :height, :width]
            for logits in self.decoder(self.encoder(x), self.history_stages, self.reads, self.path)
        ]
        if self.decoder.deep_supervision:
            return outputs
        return with_idle_heads(self.decoder, outputs[0]) if self.training else outputs[0]


if not CUSTOM_OPS:  # torch.compile fails on the reads before torch 2.4, and leaves the network as it is
    EMCAD.forward = torch.compiler.disable(EMCAD.forward)  # type: ignore[method-assign]
