"""Checkpoints of nnU-Net's: whether one is whole, and which training it is of."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile, is_zipfile

from nnunet_xattnres.common.errors import UserError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # what the containers of torch.save begin with, the legacy one by a pickle
_ENDED = "pickle data was truncated", "unexpected EOF"
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


class Origin(NamedTuple):
    """Which training a checkpoint is of."""

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return f"{self.trainer}, plans {self.plans}, configuration {self.configuration}"


def read_checkpoint(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    """A checkpoint of nnU-Net's.

    nnU-Net keeps objects of Python in its checkpoints: reading one can run what its author put there.

    Args:
        mapped: the tensors stay in the file until they are used, if its container allows that. Not for a file that a
            training of nnU-Net's own may write meanwhile: it writes into the file that is there.

    Raises:
        UserError: when the file is missing, was cut off, holds what cannot be loaded here, or is no checkpoint of
            nnU-Net's; the message says which.
        OSError: when the system does not let it be read.
    """
    import torch  # seconds, which commands that load none need not wait

    if not path.is_file():
        raise UserError(f"{path} does not exist{_others(path)}")
    with path.open("rb") as file:
        start = file.read(4)
    if start == _ZIP and not is_zipfile(path):  # its directory stands at the end
        raise UserError(_damaged(path, "it ends too early"))
    try:
        try:
            checkpoint = torch.load(str(path), map_location="cpu", mmap=mapped and start == _ZIP, weights_only=False)
        except RuntimeError as error:
            if "mmap" not in str(error):  # some network file systems have none
                raise
            checkpoint = torch.load(str(path), map_location="cpu", weights_only=False)
    except (OSError, MemoryError):
        raise
    except (ImportError, AttributeError) as error:
        raise UserError(f"{path} holds something that cannot be loaded here: {error}. {_way_out(error)}") from error
    except Exception as error:  # torch raises one of many kinds
        raise UserError(_why_not_read(path, start, error)) from error
    if not isinstance(checkpoint, dict) or not {"network_weights", "trainer_name", "init_args"} <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of nnU-Net v2: it lacks network_weights, trainer_name or init_args")
    return checkpoint


def _damaged(path: Path, why: str) -> str:
    return (
        f"{path} is damaged, probably cut off while it was written or copied: {why}. If it is a copy, copy it again. "
        f"Otherwise move it away and continue from an earlier checkpoint{_others(path)}, or train anew."
    )


def _why_not_read(path: Path, start: bytes, error: Exception) -> str:
    if start != _ZIP and (isinstance(error, EOFError) or any(sign in str(error) for sign in _ENDED)):
        return _damaged(path, str(error))
    if start == _ZIP and not any(name.endswith("/data.pkl") for name in ZipFile(path).namelist()):
        return (
            f"{path} is a zip archive, but no checkpoint. If nnU-Net exported it, install it first: "
            f"`nnUNetv2_install_pretrained_model_from_zip {path.name}`."
        )
    if start != _ZIP and start[:1] != _PICKLE:
        return f"{path} is no checkpoint: torch did not write such a file ({error})"
    return f"{path} cannot be read: {type(error).__name__}: {error}{_others(path)}"


def _way_out(error: Exception) -> str:
    if "numpy._core" in str(error):
        return "It was written with numpy 2, and here is an older one: pip install -U numpy."
    module = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if module:
        return f"Install the package that has {module.partition('.')[0]!r}, as it was where the file was written."
    return "Install the version of that package with which the file was written."


def _others(path: Path) -> str:
    names = [file.name for file in sorted(path.parent.glob("checkpoint_*.pth")) if file.name != path.name]
    return f" (beside it there is {' and '.join(names)})" if names else ""


def network_weights(checkpoint: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The weights by the names that the network has for them, without DistributedDataParallel's and torch.compile's.

    Args:
        known: the names in the network's state dict.
    """
    weights = checkpoint["network_weights"]
    return {key if key in known else _WRAPPERS.sub("", key): value for key, value in weights.items()}


def origin_of(checkpoint: Mapping[str, Any]) -> Origin:
    """The training that ``checkpoint`` is of."""
    arguments = checkpoint["init_args"]
    plans = arguments.get("plans", {}).get("plans_name", "?")
    return Origin(checkpoint["trainer_name"], plans, arguments.get("configuration", "?"))
