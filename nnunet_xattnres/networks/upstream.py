"""What any network on upstream's encoders and decoders needs; no network itself."""

from itertools import accumulate
from typing import Any

from dynamic_network_architectures.building_blocks.helper import maybe_convert_scalar_to_list
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import Tensor, nn

Encoder = Any  # upstream's PlainConvEncoder or ResidualEncoder


def strides_of(encoder: Encoder) -> list[tuple[int, ...]]:
    """How much smaller than the image each stage's output is, for each axis."""
    return list(accumulate(map(tuple, encoder.strides), lambda a, b: tuple(i * j for i, j in zip(a, b, strict=True))))


def kernels_of(encoder: Encoder) -> list[tuple[int, ...]]:
    """The kernel size of each stage."""
    return [tuple(maybe_convert_scalar_to_list(encoder.conv_op, kernel)) for kernel in encoder.kernel_sizes]


def block(encoder: Encoder, input_channels: int, output_channels: int, kernel_size: Any) -> ConvDropoutNormReLU:
    """A convolution with the plan's norm, dropout and nonlinearity, in its order, as upstream's decoder has them."""
    e = encoder
    first = next(module for module in e.modules() if isinstance(module, ConvDropoutNormReLU))
    nonlin_first = first.all_modules[-1] is getattr(first, "norm", None)  # the encoder does not keep what the plan says
    return ConvDropoutNormReLU(
        *(e.conv_op, input_channels, output_channels, kernel_size, 1, e.conv_bias, e.norm_op, e.norm_op_kwargs),
        *(e.dropout_op, e.dropout_op_kwargs, e.nonlin, e.nonlin_kwargs, nonlin_first),
    )


def blocks_of(stage: Any) -> nn.Sequential:
    """The blocks of a stage of upstream's encoders and decoder, one after the other: they are all that it computes."""
    if isinstance(stage, nn.Sequential):  # an encoder stage of plain convolutions
        (stage,) = stage
    blocks: nn.Sequential = stage.convs if isinstance(stage, StackedConvBlocks) else stage.blocks
    return blocks


def drop_skip_half(stage: StackedConvBlocks) -> None:
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


def make_picklable(network: nn.Module) -> None:
    """Put a module in the place of upstream's identity skip in residual blocks: that is a local lambda."""
    for block in network.modules():
        if isinstance(block, (BasicBlockD, BottleneckD)) and not isinstance(block.skip, nn.Module):
            block.skip = nn.Identity()


def with_idle_heads(decoder: Any, logits: Tensor) -> Tensor:
    """``logits``, on which the heads that deep supervision would use have no influence but a gradient: zero.

    DistributedDataParallel, as nnU-Net wraps networks for several GPUs, needs one for every parameter.
    """
    idle = [p.sum() for head in list(decoder.seg_layers)[:-1] for p in head.parameters()]
    return logits + 0 * sum(idle)


def input_channels(encoder: Encoder) -> int | None:
    """Of the first convolution, as it is now; None if something else stands there."""
    stem = getattr(encoder, "stem", None)  # the residual encoder has one
    first = encoder.stages[0][-1] if stem is None else stem
    blocks = getattr(first, "convs", None)
    return None if blocks is None else getattr(getattr(blocks[0], "conv", None), "in_channels", None)


def check_input(x: Tensor, encoder: Encoder, divisors: tuple[int, ...]) -> None:
    """Refuse an input, (B, channels, *spatial), that a network on this encoder cannot take, with what it can.

    Args:
        x: the input.
        encoder: whose first convolution takes it.
        divisors: the strides of the coarsest stage.

    Raises:
        ValueError: for another number of axes or of channels, a size that the strides do not divide, and a dtype that
            is not floating.
    """
    shape = tuple(x.shape)
    if len(shape) != len(divisors) + 2:
        raise ValueError(f"the input has shape {shape}; expected (batch, channels, {len(divisors)} axes)")
    channels = input_channels(encoder)
    if channels not in (None, shape[1]):
        raise ValueError(
            f"the input has shape {shape}, so {shape[1]} channels; the network was built for {channels} "
            "(input_channels; in nnU-Net they follow from dataset.json)"
        )
    if not x.is_floating_point():
        raise ValueError(f"the input is of {x.dtype}; expected a floating dtype, as float() gives")
    if any(n == 0 or n % d for n, d in zip(shape[2:], divisors, strict=True)):
        larger = tuple(max(-(-n // d), 1) * d for n, d in zip(shape[2:], divisors, strict=True))
        raise ValueError(
            f"the input has the spatial size {shape[2:]}, which the network's strides do not divide: its axes must "
            f"be multiples of {divisors}. The nearest such size that holds it is {larger}: pad the input to that, "
            "or, where nnU-Net cuts the patches, change patch_size in the plans."
        )
