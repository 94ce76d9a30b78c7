"""What any network on upstream's encoders and decoders needs; no network itself."""

from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import Tensor, nn


def make_picklable(network: nn.Module) -> None:
    """Put a module in the place of upstream's identity skip in residual blocks: that is a local lambda."""
    for block in network.modules():
        if isinstance(block, (BasicBlockD, BottleneckD)) and not isinstance(block.skip, nn.Module):
            block.skip = nn.Identity()


def with_idle_heads(decoder: UNetDecoder, logits: Tensor) -> Tensor:
    """``logits``, on which the heads that deep supervision would use have no influence but a gradient: zero.

    DistributedDataParallel, as nnU-Net wraps networks for several GPUs, needs one for every parameter.
    """
    idle = [p.sum() for head in list(decoder.seg_layers)[:-1] for p in head.parameters()]
    return logits + 0 * sum(idle)
