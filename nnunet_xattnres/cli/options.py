"""Options that several commands have."""

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nnunet_xattnres.common.errors import UserError
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


class Memory(str, Enum):
    """What a block reads in its stage."""

    ALL = "all"
    AS_PUBLISHED = "as_published"


Network = Enum("Network", {name: name for name in KINDS}, type=str)  # type: ignore[misc]
XATTNRES = Network("xattnres")


Dataset = Annotated[str, typer.Option("-d", "--dataset", help="The data set's number or name.")]
Configuration = Annotated[str, typer.Option("-c", "--configuration", help="For example 3d_fullres.")]
ModelFolder = Annotated[Path, typer.Argument(help="A trained model: TRAINER__PLANS__CONFIGURATION.")]
Checkpoint = Annotated[str, typer.Option("-chk", "--checkpoint", help="Which checkpoint.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Plans = Annotated[
    list[str] | None, typer.Option("-p", "--plans", help="One or more names of plans. Default: nnUNetPlans.")
]
Folds = Annotated[
    list[str] | None,
    typer.Option(
        "-f", "--folds", help="One or more. Default: those that every model has; fold all only if it is the only one."
    ),
]
Predictions = Annotated[
    list[str] | None,
    typer.Option("--predictions", help="Folders of masks in the place of trained models, each as NAME=FOLDER."),
]


def folders_by_name(predictions: Sequence[str]) -> dict[str, Path]:
    """What ``--predictions`` names.

    Raises:
        UserError: for what is no NAME=FOLDER, and for a name that comes twice.
    """
    folders: dict[str, Path] = {}
    for text in predictions:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--predictions {text}: it must be NAME=FOLDER")
        if name in folders:
            raise UserError(f"--predictions {text}: {name} is {folders[name]} already; give it another name")
        folders[name] = Path(os.path.expanduser(folder))  # no shell does it behind the equals sign
    return folders
