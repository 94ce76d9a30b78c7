"""Where subclasses and scripts have always found the trainers; they live in ``training``."""

from typing import Any

from torch import nn

from nnunet_xattnres.networks.configs import ReadConfig as Reads
from nnunet_xattnres.training import build
from nnunet_xattnres.training.epochs import *  # noqa: F403
from nnunet_xattnres.training.epochs import TRAINERS as TRAINERS
from nnunet_xattnres.training.epochs import __all__ as __all__


def build_network(*args: Any, reads: Reads, **kwargs: Any) -> nn.Module:
    """``training.build.build_network``, whose ``config`` was called ``reads`` here."""
    return build.build_network(*args, **kwargs, config=reads)
