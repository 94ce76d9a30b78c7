"""The networks that are timed, the most important one first, and the reads that are proved."""

from itertools import product
from typing import Any

from torch import nn

from benchmarks.cost.configurations import RESENC_BLOCKS, Configuration
from nnunet_xattnres.ops import FUSED_CHANNELS

_SIX: dict[str, Any] = {"features": (32, 64, 128, 256, 320, 320), "strides": ((2, 2, 2),) * 5}
CONFIGURATIONS = [
    Configuration("3D, 6 stages, 128^3, batch 2", 2, (128,) * 3, **_SIX),
    Configuration(
        *("2D, 8 stages, 512^2, batch 12", 12, (512, 512)),
        **{"features": (32, 64, 128, 256, *[512] * 4), "strides": ((2, 2),) * 7},
    ),
    Configuration("ResEnc L, 6 stages, 128^3, batch 2", 2, (128,) * 3, **_SIX, blocks=RESENC_BLOCKS),
    Configuration(
        *("3D, 4 stages, anisotropic, 16x56x40, batch 32", 32, (16, 56, 40), (32, 64, 128, 256)),
        **{"strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2)), "first_kernel": (1, 3, 3)},
    ),
]
TINY = [
    Configuration("tiny 2D", 1, (8, 8), (2, 4, 4), ((2, 2), (2, 2))),
    Configuration("tiny anisotropic", 2, (2, 8, 8), (2, 4), ((1, 2, 2),), first_kernel=(1, 3, 3)),
]
# "chosen": the paths that a training takes.
# "fused": the kernels up to the channels that they are made for, the tiles beyond; "fused everywhere": the kernels
KINDS = ("plain", "chosen", "fused", "tiled", "reference", "fused everywhere")

DTYPES = ("float16", "bfloat16", "float32")
_SIZES = ((4, 6, 128), (4, 6, 40), (5, 7, 20))  # rows that are multiples of 16 bytes, and others
# channels and size; where it is so high, a program of the kernels owns several rows of a coarse source
PROVED = [*product((32, 64, 128, 320), _SIZES), (32, (24, 512)), (64, (12, 56)), (32, (2, 64, 40))]
TINY_PROVED = [(4, (4, 8)), (3, (2, 3, 5))]


def build(configuration: Configuration, kind: str) -> nn.Module:
    """The network of a kind, in mode add; its reads take the kind's path."""
    network = configuration.build(None if kind == "plain" else "add")
    if kind not in ("plain", "chosen"):
        network.use_path(kind.split()[0])
    if kind == "fused":
        for read in network.reads.values():
            read.path = "fused" if read.target_channels <= FUSED_CHANNELS else "tiled"
    return network
