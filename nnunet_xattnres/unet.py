"""nnU-Net's own U-Nets with reads of the history in the place of, or beside, their skips (XAttnRes, arXiv 2604.03297).

Stages, transposed convolutions, segmentation heads and their state-dict keys are upstream's. Added are the reads
(``network.reads``) and a forward pass that keeps the history. Names follow the paper: with S encoder stages, e1 is the
output of the first (full resolution), eS the bottleneck, and d1 ... d(S-1) are the outputs of the decoder stages.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from nnunet_xattnres.history import HistoryRead
from nnunet_xattnres.ops import resize_to_each

SKIP_MODES = ("add", "replace", "none", "plain")
READ_GATES = ("none", "zero")


class _HistoryUNet(nn.Module):
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
        check_reads(skip_mode, read_gate)
        super().__init__(*args, **kwargs)
        if len(self.encoder.output_channels) < 2:
            raise ValueError("n_stages is 1; a U-Net needs at least 2 stages")
        self.skip_mode, self.read_gate = skip_mode, read_gate
        # How much smaller than the input e1 ... eS are, for each axis; the last is what the input must be divisible by.
        self._strides = list(accumulate(self.encoder.strides, lambda a, b: [i * j for i, j in zip(a, b, strict=True)]))
        self.reads = nn.ModuleDict(self._build_reads(encoder_reads) if skip_mode in ("add", "replace") else {})
        for block in self.modules():
            if isinstance(block, (BasicBlockD, BottleneckD)) and not isinstance(block.skip, nn.Module):
                block.skip = nn.Identity()  # upstream's is a local lambda, which cannot be pickled
        if skip_mode == "none":
            for stage in self.decoder.stages:
                _drop_skip_half(stage)

    def _build_reads(self, encoder_reads: bool) -> dict[str, HistoryRead]:
        """The reads by the stage that they feed: e3 ... eS (e2 has a pool of one, e1 of none), d1 ... d(S-1)."""
        encoder = list(zip(self.encoder.output_channels, self._strides, strict=True))  # what e1 ... eS are
        n_stages = len(encoder)

        def read(pool: list[Any], target: tuple[int, list[int]]) -> HistoryRead:
            direct = [k for k, source in enumerate(pool) if source == target]
            channels = [channels for channels, _ in pool]
            return HistoryRead(channels, target[0], self.encoder.conv_op, direct, gated=self.read_gate == "zero")

        reads = {}
        if encoder_reads:
            for s in range(3, n_stages + 1):
                reads[f"e{s}"] = read(encoder[: s - 1], encoder[s - 2])
        targets = encoder[-2::-1]  # d_j has the size and the channels of e_(S-j)
        for j in range(1, n_stages):
            reads[f"d{j}"] = read(encoder + targets[: j - 1], targets[j - 1])
        return reads

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``, (B, input channels, *spatial).

        Returns:
            The logits, (B, num_classes, *spatial); with ``decoder.deep_supervision`` those of every decoder stage, the
            highest resolution first.

        Raises:
            ValueError: when the spatial size is not divisible by the network's strides.
        """
        self._check_input(x)
        stem = getattr(self.encoder, "stem", None)  # the residual encoder has one
        x = x if stem is None else stem(x)
        history = _History()  # e1 ... eS, d1 ... d(S-1), in the order computed
        sizes = self._read_sizes(x)
        for s, stage in enumerate(self.encoder.stages, 1):  # torch 2.4 cannot compile start=1
            if f"e{s}" in self.reads:
                x = self._input_of_encoder_stage(s, history, x.shape[2:])
            x = stage(x)
            history.append(x, coarser=sizes[s:])

        n_stages = len(history.maps)
        outputs = []
        for j in range(1, n_stages):
            x = self._with_skip_half(j, self.decoder.transpconvs[j - 1](x), history, skip=n_stages - j - 1)
            x = self.decoder.stages[j - 1](x)
            history.append(x)
            if self.decoder.deep_supervision or j == n_stages - 1:
                outputs.append(self.decoder.seg_layers[j - 1](x))
        if self.decoder.deep_supervision:
            return outputs[::-1]
        return self._with_idle_heads(outputs[0]) if self.training else outputs[0]

    def _with_idle_heads(self, logits: Tensor) -> Tensor:
        """``logits``, on which the heads that deep supervision would use have no influence but a gradient: zero.

        DistributedDataParallel, as nnU-Net wraps networks for several GPUs, needs one for every parameter.
        """
        idle = [p.sum() for head in list(self.decoder.seg_layers)[:-1] for p in head.parameters()]
        return logits + 0 * sum(idle)

    def _input_of_encoder_stage(self, s: int, history: "_History", size: torch.Size) -> Tensor:
        """The read of e1 ... e(s-1); if gated, e(s-1) plus the read."""
        previous = s - 2 if self.read_gate == "zero" else None
        return self.reads[f"e{s}"](history.at(size), size, skip=previous)

    def _with_skip_half(self, j: int, x: Tensor, history: "_History", skip: int) -> Tensor:
        """What decoder stage j takes: the upsampled map below it, ``x``, and its skip half."""
        if self.skip_mode == "none":
            return x
        if self.skip_mode == "plain":
            return torch.cat((x, history.maps[skip]), dim=1)
        size = x.shape[2:]
        added = skip if self.skip_mode == "add" else None
        return self.reads[f"d{j}"](history.at(size), size, skip=added, below=x)

    def _read_sizes(self, x: Tensor) -> list[tuple[int, ...]]:
        """The sizes of e1 ... e(S-1), at which the history is read."""
        strides = self._strides[:-1] if self.reads else []
        return [tuple(n // d for n, d in zip(x.shape[2:], divisors, strict=True)) for divisors in strides]

    def _check_input(self, x: Tensor) -> None:
        divisors, size = self._strides[-1], tuple(x.shape[2:])
        if len(size) != len(divisors):
            raise ValueError(f"the input has shape {tuple(x.shape)}; expected (batch, channels, {len(divisors)} axes)")
        if any(n % d for n, d in zip(size, divisors, strict=True)):
            raise ValueError(
                f"the input has the spatial size {size}, which the network's strides do not divide: "
                f"its axes must be multiples of {tuple(divisors)}. Change patch_size in the plans."
            )


if not hasattr(torch.library, "custom_op"):  # torch.compile fails on it before 2.4, and leaves it as it is
    _HistoryUNet.forward = torch.compiler.disable(_HistoryUNet.forward)  # type: ignore[method-assign]


class _History:
    """The stage outputs so far; a map that is read at coarser sizes is resized to them once, for all its readers."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []
        self._resized: list[dict[tuple[int, ...], Tensor]] = []

    def append(self, x: Tensor, coarser: Sequence[tuple[int, ...]] = ()) -> None:
        sizes = [size for size in dict.fromkeys(coarser) if size != tuple(x.shape[2:])]
        self.maps.append(x)
        self._resized.append(dict(zip(sizes, resize_to_each(x, sizes), strict=True)))

    def at(self, size: Sequence[int]) -> list[Tensor]:
        """The pool of a read at ``size``: the maps, in the order computed."""
        return [resized.get(tuple(size), x) for x, resized in zip(self.maps, self._resized, strict=True)]


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


def check_reads(skip_mode: str, read_gate: str) -> None:
    """Raise ValueError, naming the argument, for what no network can have."""
    for name, value, choices in (("skip_mode", skip_mode, SKIP_MODES), ("read_gate", read_gate, READ_GATES)):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
    if read_gate != "none" and skip_mode != "add":
        raise ValueError(f"read_gate is {read_gate!r}: it needs skip_mode 'add', but that is {skip_mode!r}")


def _drop_skip_half(stage: StackedConvBlocks) -> None:
    """Let a decoder stage take the upsampled half alone: its first convolution gets half the input channels."""
    block = stage.convs[0]
    full = block.conv
    block.input_channels = full.in_channels // 2
    block.conv = block.all_modules[0] = type(full)(
        block.input_channels,
        full.out_channels,
        full.kernel_size,
        padding=full.padding,
        bias=full.bias is not None,
    )
