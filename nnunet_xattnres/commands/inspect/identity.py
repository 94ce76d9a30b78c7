"""What the model of an inspection is."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from nnunet_xattnres.common.files import sha256_of
from nnunet_xattnres.nnunet.checkpoints import origin_of, read_checkpoint


def identity_of(model_folder: Path, checkpoints: Sequence[Path]) -> dict[str, str]:
    """What the model is: its training, its files by their hash, and the versions that computed."""
    origin = origin_of(read_checkpoint(checkpoints[0]))
    versions = {name: importlib.metadata.version(name) for name in ("nnunet-xattnres", "nnunetv2", "torch")}
    return {
        "folder": str(model_folder),
        **origin._asdict(),
        **{f"{file.parent.name}/{file.name}": f"sha256 {sha256_of(file)}" for file in checkpoints},
        **versions,
    }
