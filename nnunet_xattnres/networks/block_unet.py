"""The block-level XAttnRes, the follow-up of the paper by its authors, on nnU-Net's own U-Nets.

Inside a stage, a block reads the outputs of the blocks before it (ISAR). In the place of a skip, a decoder stage reads
the outputs of all blocks of its encoder stage (DKVMR). docs/method.md has the formulas, and what differs from the
authors' code. A block is one convolution with norm and nonlinearity, or a residual block. Stages, transposed
convolutions, heads and their state-dict keys are upstream's; the first convolution of a decoder stage takes the fused
map of C channels, where upstream's takes the upsampled map and the skip, 2C.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn

from nnunet_xattnres.networks.configs import BlockConfig
from nnunet_xattnres.networks.upstream import (
    Encoder,
    block,
    blocks_of,
    check_input,
    drop_skip_half,
    make_picklable,
    strides_of,
    with_idle_heads,
)
from nnunet_xattnres.reads.block_read import DKVMR, ISAR


class _BlockUNet(nn.Module):
    """The reads and the forward pass, for a U-Net of upstream as the next base class."""

    encoder: Encoder
    decoder: UNetDecoder
    unseen = "How much of the upsampled map and how much of the read of a skip a stage takes: a convolution fuses them."

    def __init__(self, *args: Any, memory: str = "all", encoder_isar: bool = False, **kwargs: Any) -> None:
        BlockConfig(memory, encoder_isar)
        super().__init__(*args, **kwargs)
        if len(self.encoder.output_channels) < 2:
            raise ValueError("n_stages is 1; a U-Net needs at least 2 stages")
        self.memory, self.encoder_isar = memory, encoder_isar
        self.strides = strides_of(self.encoder)
        for stage in self.decoder.stages:
            drop_skip_half(stage)
        self.read_sources: dict[str, list[str]] = {}
        self.reads = nn.ModuleDict(self._build_reads())
        make_picklable(self)

    def _build_reads(self) -> dict[str, ISAR | DKVMR]:
        """The reads in the order computed: before blocks, e1_block3 and d1_block2, and in a skip's place, d1_skip."""
        reads: dict[str, ISAR | DKVMR] = {}

        def isar(stage: str, blocks: nn.Sequential, channels: int, has_input: bool) -> None:
            for i in range(2, len(blocks) + 1):
                sources = self._memory_before(i, has_input)
                # A parameter that cannot get a gradient breaks DistributedDataParallel: no read of one map alone
                if len(set(sources) - {"x"}) > 1:
                    reads[_isar(stage, i)] = ISAR(channels, len(sources))
                    self.read_sources[_isar(stage, i)] = sources

        encoder_blocks, channels = [blocks_of(stage) for stage in self.encoder.stages], self.encoder.output_channels
        for s, blocks in enumerate(encoder_blocks if self.encoder_isar else ()):
            first = blocks[0]
            same = first.input_channels == first.output_channels and prod(self.encoder.strides[s]) == 1
            isar(f"e{s + 1}", blocks, channels[s], has_input=same)
        for j, stage in enumerate(self.decoder.stages, 1):
            width, n = channels[-1 - j], len(encoder_blocks[-1 - j])
            fusion = block(self.encoder, 2 * width, width, 1)
            reads[_dkvmr(j)] = DKVMR(width, n, self.encoder.conv_op, fusion)
            self.read_sources[_dkvmr(j)] = [_block(i) for i in range(1, n + 1)]
            isar(f"d{j}", blocks_of(stage), width, has_input=True)
        return reads

    def _memory_before(self, i: int, has_input: bool) -> list[str]:
        """What block i of a stage reads; the last is what it would run on without the read, x."""
        outputs = [_block(k) for k in range(1, i)]
        if self.memory == "as_published":
            return [*outputs, "x"]
        return ["input", *outputs] if has_input else outputs

    @property
    def note(self) -> str:
        """What the log of a training says of it."""
        isar = [name for name, read in self.reads.items() if isinstance(read, ISAR)]
        skips, stages = len(self.reads) - len(isar), [f"d{j}" for j in range(1, len(self.decoder.stages) + 1)]
        line = f"Block-level XAttnRes: {skips} skips are read (DKVMR), {len(isar)} blocks read their stage (ISAR)"
        if without := [stage for stage in stages if not any(name.startswith(f"{stage}_block") for name in isar)]:
            needed = "two blocks" if self.memory == "all" else "three blocks, as it was published"
            line += f"; no ISAR in {', '.join(without)}, for it needs a stage of {needed}"
        return line

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
        stem = getattr(self.encoder, "stem", None)  # the residual encoder has one
        x = x if stem is None else stem(x)
        encoded = []  # the outputs of the blocks of each encoder stage
        for s, stage in enumerate(self.encoder.stages, 1):
            encoded.append(self._stage(f"e{s}", blocks_of(stage), x))
            x = encoded[-1][-1]
        encoded.pop()  # taken out as they are read: in prediction nothing else holds them
        outputs, last = [], len(self.decoder.stages)
        for j, stage in enumerate(self.decoder.stages, 1):
            x = self.reads[_dkvmr(j)](encoded.pop(), self.decoder.transpconvs[j - 1](x))
            x = self._stage(f"d{j}", blocks_of(stage), x)[-1]
            if self.decoder.deep_supervision or j == last:
                outputs.append(self.decoder.seg_layers[j - 1](x))
        if self.decoder.deep_supervision:
            return outputs[::-1]
        return with_idle_heads(self.decoder, outputs[0]) if self.training else outputs[0]

    def _stage(self, name: str, blocks: nn.Sequential, x: Tensor) -> list[Tensor]:
        """The outputs of a stage's blocks, some of which read the memory first."""
        memory, outputs = {"input": x}, []
        for i, module in enumerate(blocks, 1):
            if _isar(name, i) in self.reads:
                memory["x"] = x
                x = self.reads[_isar(name, i)]([memory[source] for source in self.read_sources[_isar(name, i)]])
            x = memory[_block(i)] = module(x)
            outputs.append(x)
        return outputs

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> Any:
        """Numbers in the maps of all convolutions; ``input_size`` is the image's."""
        total = super().compute_conv_feature_map_size(input_size)  # type: ignore[misc]
        for j, strides in enumerate(reversed(self.strides[:-1]), 1):
            read: Any = self.reads[_dkvmr(j)]
            total += read.map_channels * prod(n // d for n, d in zip(input_size, strides, strict=True))
        return total


def _block(i: int) -> str:
    return f"block{i}"


def _isar(stage: str, i: int) -> str:
    return f"{stage}_block{i}"


def _dkvmr(j: int) -> str:
    return f"d{j}_skip"


class XAttnResBlockUNet(_BlockUNet, PlainConvUNet):
    """``PlainConvUNet`` whose blocks read their stage, and whose skips are reads of the encoder's blocks.

    Args:
        *args: as ``PlainConvUNet``'s.
        memory: what a block of a stage reads: ``"all"`` the stage's input, where it has the shape of the outputs, and
            the outputs of the blocks before it; ``"as_published"`` these outputs, the last of them twice, as the
            authors' code does. Its second block then has one map to read, which is no read.
        encoder_isar: whether blocks of the encoder read their stage, too; otherwise only those of the decoder do.
        **kwargs: as ``PlainConvUNet``'s.

    Attributes:
        reads: the ``ISAR`` before each block that has one (d1_block2), and the ``DKVMR`` of each decoder stage
            (d1_skip), in the order computed. e1 is the first encoder stage, d1 the decoder stage after the bottleneck.
        read_sources: the names of the maps that each of them reads, in order: "input", "block1", ..., "x".
    """


class XAttnResBlockResidualEncoderUNet(_BlockUNet, ResidualEncoderUNet):
    """``ResidualEncoderUNet`` with the same reads; arguments beyond upstream's as in ``XAttnResBlockUNet``."""
