"""Which path a read takes, and why."""

from typing import Literal

import torch

CUSTOM_OPS = hasattr(torch.library, "custom_op")  # since torch 2.4

if CUSTOM_OPS:
    from nnunet_xattnres.ops import fused

FUSED_ON_CUDA = False  # the Triton kernels are tested with Triton's interpreter only: no GPU has timed them yet
FUSED_CHANNELS = 128  # there a position's channels fit into registers

Path = Literal["reference", "tiled", "fused"]


def read_path(device: torch.device, channels: int, return_weights: bool = False) -> Path:
    """The path of a read of so many channels on a device.

    The reference where the weights are asked for while gradients are recorded, and wherever there is only plain torch;
    the Triton kernels on CUDA, if they are switched on, for at most 128 channels; the tiles everywhere else.
    """
    if only_plain_torch(device) or (return_weights and torch.is_grad_enabled()):
        return "reference"
    if (
        FUSED_ON_CUDA
        and not return_weights
        and device.type == "cuda"
        and channels <= FUSED_CHANNELS
        and fused.available()
    ):
        return "fused"
    return "tiled"


def only_plain_torch(device: torch.device) -> bool:
    """Whether this package's operators are not used on a device.

    So it is where torch is older than 2.4, on MPS, where nobody has run them yet, and in torch.export (ONNX), whose
    result must not need this package.
    """
    exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return not CUSTOM_OPS or device.type == "mps" or (exporting is not None and exporting())
