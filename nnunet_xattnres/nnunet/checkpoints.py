"""Checkpoints of nnU-Net's: whether one is whole, and which training it is of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_xattnres.common.errors import UserError


class Origin(NamedTuple):
    """Which training a checkpoint is of."""

    trainer: str
    plans: str
    configuration: str

    def __str__(self) -> str:
        return f"{self.trainer}, plans {self.plans}, configuration {self.configuration}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net's; its tensors stay in the file until they are used.

    Raises:
        UserError: when the file is missing, damaged, or no checkpoint of nnU-Net's.
    """
    import torch  # seconds, which commands that load none need not wait

    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        checkpoint = torch.load(str(path), map_location="cpu", mmap=True, weights_only=False)
    except Exception as error:  # torch raises one of many kinds, by where the file breaks off
        others = [file.name for file in sorted(path.parent.glob("checkpoint_*.pth")) if file.name != path.name]
        hint = f" (beside it there is {' and '.join(others)})" if others else ""
        raise UserError(
            f"{path} is damaged, probably cut off while it was written: {error}. Remove it and continue from an "
            f"earlier checkpoint{hint}, or train anew."
        ) from error
    if not isinstance(checkpoint, dict) or not {"network_weights", "trainer_name", "init_args"} <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of nnU-Net v2: it lacks network_weights, trainer_name or init_args")
    return checkpoint


def origin_of(checkpoint: Mapping[str, Any]) -> Origin:
    """The training that ``checkpoint`` is of."""
    arguments = checkpoint["init_args"]
    plans = arguments.get("plans", {}).get("plans_name", "?")
    return Origin(checkpoint["trainer_name"], plans, arguments.get("configuration", "?"))
