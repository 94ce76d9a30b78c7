"""Options that several commands have."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nnunet_xattnres.networks.registry import KINDS


class Device(str, Enum):
    """What nnU-Net's ``-device`` takes."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class SkipMode(str, Enum):
    """What stands beside the upsampled map in a decoder stage."""

    ADD = "add"
    REPLACE = "replace"
    NONE = "none"


class ReadGate(str, Enum):
    """Whether reads are scaled by a learned number for each channel that starts at zero."""

    NONE = "none"
    ZERO = "zero"


Network = Enum("Network", {name: name for name in KINDS}, type=str)  # type: ignore[misc]
XATTNRES = Network("xattnres")


Dataset = Annotated[str, typer.Option("-d", "--dataset", help="The data set's number or name.")]
Configuration = Annotated[str, typer.Option("-c", "--configuration", help="For example 3d_fullres.")]
ModelFolder = Annotated[Path, typer.Argument(help="A trained model: TRAINER__PLANS__CONFIGURATION.")]
Checkpoint = Annotated[str, typer.Option("-chk", "--checkpoint", help="Which checkpoint.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
