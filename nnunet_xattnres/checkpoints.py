"""Whether a checkpoint is whole, and of the network that it is to be loaded into."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunet_xattnres.errors import UserError
from nnunet_xattnres.plans import Reads


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


def check_checkpoint(
    path: Path, network: Mapping[str, Tensor], this: Origin, reads_of: Callable[[str], Reads | None]
) -> None:
    """Refuse a checkpoint that cannot go on here, and say what it is and what to do with it.

    Args:
        path: the file.
        network: the state dict of the network that it is to be loaded into.
        this: the training that asks.
        reads_of: what a trainer's network has beyond upstream's, None for a trainer that is not ours.

    Raises:
        UserError: when the file is damaged, or of another network. The keys of ``add`` and ``replace`` are the same,
            so the trainer's name counts as well.
    """
    checkpoint = read_checkpoint(path)
    saved = origin_of(checkpoint)
    difference = _difference(network, checkpoint["network_weights"])
    if difference is None and saved.trainer != this.trainer:
        theirs, ours = reads_of(saved.trainer), reads_of(this.trainer)
        if theirs is not None and theirs != ours:
            difference = f"its network has {theirs}, here it is {ours}"
    if difference is None:
        return
    without_reads = {key: value for key, value in network.items() if not key.startswith("reads.")}
    if _difference(without_reads, checkpoint["network_weights"]) is None:  # a stock network of the same plans
        way_out = (
            f"To start from it: `nnunet-xattnres upgrade {shlex.quote(str(path))} upgraded.pth`, then train "
            f"nnUNetTrainerXAttnResGated with `-pretrained_weights upgraded.pth`."
        )
    else:
        way_out = f"Go on with it as `-tr {saved.trainer} -p {saved.plans}`, or move it away and train anew."
    raise UserError(f"{path} is of another network: {difference}.\n  It is of {saved}.\n  This is {this}.\n  {way_out}")


def _difference(network: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    found = {key if key in network else key.removeprefix("module."): value for key, value in weights.items()}
    for key, value in network.items():
        if key not in found:
            return f"it has no {key}"
        if found[key].shape != value.shape:
            return f"its {key} has the shape {tuple(found[key].shape)}, here {tuple(value.shape)}"
    surplus = next((key for key in found if key not in network), None)
    return None if surplus is None else f"it has {surplus}, which is not here"
