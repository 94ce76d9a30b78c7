"""nnU-Net's own U-Nets with reads of the history in the place of, or beside, their skips (XAttnRes, arXiv 2604.03297).

Stages, transposed convolutions, segmentation heads and their state-dict keys are upstream's. Added are the reads
(``network.reads``) and a forward pass that keeps the history. Names follow the paper: with S encoder stages, e1 is the
output of the first (full resolution), eS the bottleneck, and d1 ... d(S-1) are the outputs of the decoder stages.
"""

from collections.abc import Sequence
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.networks.upstream import check_input, drop_skip_half, make_picklable, strides_of, with_idle_heads
from nnunet_xattnres.ops.choice import CUSTOM_OPS
from nnunet_xattnres.reads.history import History, HistoryNetwork, Stage
from nnunet_xattnres.reads.history_read import HistoryRead


class _HistoryUNet(HistoryNetwork, nn.Module):
    """The reads and the forward pass, for a U-Net of upstream as the next base class."""

    encoder: PlainConvEncoder | ResidualEncoder
    decoder: UNetDecoder

    def __init__(
        self,
        *args: Any,
        skip_mode: str = "add",
        encoder_reads: bool = True,
        read_gate: str = "none",
        **kwargs: Any,
    ) -> None:
        config = ReadConfig(skip_mode, encoder_reads, read_gate)
        super().__init__(*args, **kwargs)
        if len(self.encoder.output_channels) < 2:
            raise ValueError("n_stages is 1; a U-Net needs at least 2 stages")
        self.skip_mode, self.read_gate = skip_mode, read_gate
        self.encoder_stages = _encoder_stages(self.encoder)
        self.decoder_stages = [
            Stage(f"d{j}", *stage.shape) for j, stage in enumerate(reversed(self.encoder_stages[:-1]), start=1)
        ]
        self.reads = nn.ModuleDict(self._build_reads(config) if skip_mode in ("add", "replace") else {})
        make_picklable(self)
        if skip_mode == "none":
            for stage in self.decoder.stages:
                drop_skip_half(stage)

    @property
    def history_stages(self) -> list[Stage]:
        """The stages in the order computed, as their outputs stand in the history."""
        return [*self.encoder_stages, *self.decoder_stages]

    def _build_reads(self, config: ReadConfig) -> dict[str, HistoryRead]:
        """The reads by the stage that they feed: e3 ... eS (e2 has a pool of one, e1 of none), d1 ... d(S-1)."""

        def read(pool: Sequence[Stage], target: Stage) -> HistoryRead:
            direct = [k for k, source in enumerate(pool) if source.shape == target.shape]
            channels = [source.channels for source in pool]
            return HistoryRead(
                channels, target.channels, self.encoder.conv_op, direct, gated=config.read_gate == "zero"
            )

        encoder, decoder = self.encoder_stages, self.decoder_stages
        reads = {}
        for s in range(2, len(encoder)) if config.encoder_reads else ():
            reads[encoder[s].name] = read(encoder[:s], encoder[s - 1])
        for j, stage in enumerate(decoder):
            reads[stage.name] = read([*encoder, *decoder[:j]], stage)
        for name, each in reads.items():
            each.name = name  # type: ignore[assignment, unused-ignore]
        return reads

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``, (B, input channels, *spatial).

        Returns:
            The logits, (B, num_classes, *spatial); with ``decoder.deep_supervision`` those of every decoder stage, the
            highest resolution first.

        Raises:
            ValueError: for another number of axes or of channels, a size that the network's strides do not divide, and
                a dtype that is not floating.
        """
        check_input(x, self.encoder, self.encoder_stages[-1].strides)
        stem = getattr(self.encoder, "stem", None)  # the residual encoder has one
        x = x if stem is None else stem(x)
        history = History(self.path)
        sizes = self._read_sizes(x)
        for s, (stage, module) in enumerate(zip(self.encoder_stages, self.encoder.stages, strict=True)):
            if stage.name in self.reads:
                x = self._input_of_encoder_stage(s, history, x.shape[2:])
            x = module(x)
            history.append(x, stage, coarser=dict(sizes[s + 1 :]))

        outputs, last = [], len(self.decoder_stages) - 1
        for j, stage in enumerate(self.decoder_stages):
            x = self._with_skip_half(stage, self.decoder.transpconvs[j](x), history, skip=last - j)
            x = self.decoder.stages[j](x)
            history.append(x, stage, coarser={})
            if self.decoder.deep_supervision or j == last:
                outputs.append(self.decoder.seg_layers[j](x))
        if self.decoder.deep_supervision:
            return outputs[::-1]
        return with_idle_heads(self.decoder, outputs[0]) if self.training else outputs[0]

    def _input_of_encoder_stage(self, s: int, history: History, size: torch.Size) -> Tensor:
        """The read of all maps so far; if gated, the last of them plus the read."""
        previous = s - 1 if self.read_gate == "zero" else None
        pool = history.at(self.encoder_stages[s - 1].strides)
        return self.reads[self.encoder_stages[s].name](pool, size, skip=previous)

    def _with_skip_half(self, stage: Stage, x: Tensor, history: History, skip: int) -> Tensor:
        """What a decoder stage takes: the upsampled map below it, ``x``, and its skip half."""
        if self.skip_mode == "none":
            return x
        if self.skip_mode == "plain":
            return torch.cat((x, history.maps[skip]), dim=1)
        size = x.shape[2:]
        added = skip if self.skip_mode == "add" else None
        return self.reads[stage.name](history.at(stage.strides), size, skip=added, below=x)

    def _read_sizes(self, x: Tensor) -> list[tuple[tuple[int, ...], list[int]]]:
        """The strides and the sizes of e1 ... e(S-1), at which the history is read."""
        strides = [stage.strides for stage in self.encoder_stages[:-1]] if self.reads else []
        return [(each, [n // d for n, d in zip(x.shape[2:], each, strict=True)]) for each in strides]


if not CUSTOM_OPS:  # torch.compile fails on it before torch 2.4, and leaves it as it is
    _HistoryUNet.forward = torch.compiler.disable(_HistoryUNet.forward)  # type: ignore[method-assign]


class XAttnResUNet(_HistoryUNet, PlainConvUNet):
    """``PlainConvUNet`` whose stages read the history.

    Args:
        *args: as ``PlainConvUNet``'s.
        skip_mode: what stands beside the upsampled map in a decoder stage: ``"add"`` the skip plus the read (the
            paper's XAttnRes + skip), ``"replace"`` the read alone (the paper's XAttnRes), ``"none"`` nothing, and no
            reads in the encoder either (the paper's No Skip), ``"plain"`` the skip alone: the upstream network.
        encoder_reads: whether encoder stages from the third on read, too; otherwise only the decoder does.
        read_gate: ``"none"`` as in the paper; ``"zero"``, with ``"add"`` only: every read is scaled by one learned
            number for each channel that starts at zero, and an encoder stage takes e(s-1) plus the read. Such a network
            starts as the upstream network (ours).
        **kwargs: as ``PlainConvUNet``'s.

    Attributes:
        reads: the ``HistoryRead`` of each stage that has one, by the stage's name: e3 ... eS, d1 ... d(S-1).
    """


class XAttnResResidualEncoderUNet(_HistoryUNet, ResidualEncoderUNet):
    """``ResidualEncoderUNet`` whose stages read the history; arguments beyond upstream's as in ``XAttnResUNet``."""


def _encoder_stages(encoder: PlainConvEncoder | ResidualEncoder) -> list[Stage]:
    pairs = zip(encoder.output_channels, strides_of(encoder), strict=True)
    return [Stage(f"e{s}", *shape) for s, shape in enumerate(pairs, start=1)]
