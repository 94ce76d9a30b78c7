"""Whether a training can go on from a checkpoint: of this network, and whole."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.shell import command
from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.networks.registry import config_in
from nnunet_xattnres.nnunet.checkpoints import Origin, network_weights, origin_of, read_checkpoint
from nnunet_xattnres.nnunet.plans import resolved


def check_checkpoint(
    path: Path, network: Mapping[str, Tensor], this: Origin, config_of: Callable[[str], Any]
) -> dict[str, Any]:
    """Refuse a checkpoint that cannot go on here, and say what it is and what to do with it.

    Args:
        path: the file.
        network: the state dict of the network that it is to be loaded into.
        this: the training that asks.
        config_of: the arguments of a trainer's network beyond upstream's, None for a trainer that is not ours; then
            the plans in the checkpoint say which network it is of.

    Returns:
        The checkpoint.

    Raises:
        UserError: when the file cannot be read, or is of another network. The keys of ``add`` and ``replace`` are the
            same, so the trainer's name counts as well.
    """
    checkpoint = read_checkpoint(path)
    saved, weights = origin_of(checkpoint), network_weights(checkpoint, network)
    difference = _difference(network, weights)
    if difference is None and saved.trainer != this.trainer:
        theirs, ours = config_of(saved.trainer) or _planned(checkpoint["init_args"]), config_of(this.trainer)
        if theirs is not None and theirs != ours:
            difference = f"its network has {theirs}, here it is {ours}"
    if difference is None:
        return checkpoint
    without_reads = {key: value for key, value in network.items() if not key.startswith("reads.")}
    takes_stock = isinstance(config_of(this.trainer), ReadConfig)
    if takes_stock and _difference(without_reads, weights) is None:  # a stock network of the same plans
        upgrade = command("nnunet-xattnres", "upgrade", str(path), "upgraded.pth")
        way_out = f"To start from it: `{upgrade}`, which prints the command for the training."
    elif saved == this:
        way_out = _put_back(path, saved)
    else:
        what = "DATASET", saved.configuration, "FOLD", "-tr", saved.trainer, "-p", saved.plans
        way_out = f"Go on with it as `{command('nnUNetv2_train', *what, '--c')}`, or move it away and train anew."
    raise UserError(f"{path} is of another network: {difference}.\n  It is of {saved}.\n  This is {this}.\n  {way_out}")


def _planned(init_args: Mapping[str, Any]) -> Any:
    """The arguments of the network that the plans of a checkpoint ask for; None if it is not ours."""
    return config_in(resolved(init_args.get("plans", {}), init_args.get("configuration", "")).get("architecture", {}))


def why_no_end(path: Path, checkpoint: Mapping[str, Any]) -> str | None:
    """Why a checkpoint_final.pth is not the end of the training that --c is to go on with; None for any other.

    nnU-Net takes it before the checkpoints of a training that was begun later in the same fold, and removes
    checkpoint_latest.pth at the end: the later training would be lost, and the former one validated in its place.
    """
    if path.name != "checkpoint_final.pth":
        return None
    for name in ("checkpoint_latest.pth", "checkpoint_best.pth"):  # as nnU-Net looks for them
        if _begun_after(path.with_name(name), checkpoint):
            return (
                f"{path.with_name(name)} is of a training that was begun in this fold after the one of {path.name}, "
                f"which --c takes, and has not ended.\n  To go on with it, move {path.name} away. To validate the "
                "former one, use --val."
            )
    if "upgraded_from" in checkpoint:
        return (
            f"{path} was written by `nnunet-xattnres upgrade`, and no training here has ended: there is nothing to go "
            f"on with.\n  To validate it, use --val. To train it, upgrade the checkpoint that it was made from to a "
            "file: `nnunet-xattnres upgrade` then prints the command."
        )
    return None


def _begun_after(path: Path, ended: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a training that was begun when that of ``ended`` was over, as their logs say."""
    if not path.is_file():
        return False
    try:
        begin = read_checkpoint(path)["logging"]["epoch_start_timestamps"][0]
        end = ended["logging"]["epoch_end_timestamps"][-1]
    except (UserError, OSError, KeyError, IndexError):  # damaged, or without a log: no reason not to validate
        return False
    return bool(begin > end)


def _put_back(path: Path, saved: Origin) -> str:
    """The way out for a checkpoint that has the names of this training: what they name is not what it was."""
    return (
        f"The names are the same: the plans {saved.plans} in nnUNet_preprocessed were changed since, by planning again "
        f"for example, or the code of {saved.trainer} was.\n  The plans of this training stand in "
        f"{path.parent.parent / 'plans.json'}, unless another fold was started since, and in the checkpoint itself "
        f"(init_args, plans). To go on, put them back into the data set's folder in nnUNet_preprocessed, and "
        "preprocess again if the changed ones were. As a new file OLD.json they go on in the same results folder with "
        "`-p OLD`. Or move the checkpoint away and train anew."
    )


def _difference(network: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for key, value in network.items():
        if key not in found:
            return f"it has no {key}"
        if found[key].shape != value.shape:
            return f"its {key} has the shape {tuple(found[key].shape)}, here {tuple(value.shape)}"
    surplus = next((key for key in found if key not in network), None)
    return None if surplus is None else f"it has {surplus}, which is not here"
