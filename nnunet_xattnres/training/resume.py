"""Whether a training can go on from a checkpoint: of this network, and whole."""

import re
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

_AS_OURS = re.compile(r"nnUNetTrainer(_\d+epochs?)?")
# What nnU-Net's --c overlooks where it finds a file.
_LATER = {
    "checkpoint_final.pth": ("checkpoint_latest.pth", "checkpoint_best.pth"),
    "checkpoint_latest.pth": ("checkpoint_best.pth",),
}


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
            difference = f"its network has {theirs}, here it is {ours or f'the one that {this.trainer} builds'}"
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
        model = "__".join((saved.trainer, saved.plans, saved.configuration))
        its_fold = Path(model, "fold_FOLD")
        if path.parent.name.startswith("fold_") and path.parent.parent.name:  # it lies in a results folder
            its_fold = path.parent.parent.with_name(model) / path.parent.name
        put = f"Put it into {its_fold}, if there is none, and go" if its_fold != path.parent else "Go"
        way_out = f"{put} on with it as `{command('nnUNetv2_train', *what, '--c')}`, or move it away and train anew."
    raise UserError(f"{path} is of another network: {difference}.\n  It is of {saved}.\n  This is {this}.\n  {way_out}")


def _planned(init_args: Mapping[str, Any]) -> Any:
    """The arguments of the network that the plans of a checkpoint ask for; None if it is not ours."""
    return config_in(resolved(init_args.get("plans", {}), init_args.get("configuration", "")).get("architecture", {}))


def why_no_end(path: Path, checkpoint: Mapping[str, Any]) -> str | None:
    """Why a checkpoint is not the last of the training that --c is to go on with; None if it is.

    nnU-Net takes checkpoint_final.pth before the others, and checkpoint_latest.pth before checkpoint_best.pth, also
    where the others are of a training that was begun later in the same fold, or that went on from the end. It writes
    over them, and removes checkpoint_latest.pth at the end: the later training would be lost.
    """
    final = path.name == "checkpoint_final.pth"
    for other in map(path.with_name, _LATER.get(path.name, ())):
        why = _is_later(other, checkpoint, further=final)
        if why is not None:
            former = (
                "To validate the former one, use --val." if final else "Or move it away to go on with the former one."
            )
            return (
                f"{other} {why} {path.name}, which --c takes, and has not ended.\n"
                f"  To go on with it, move {path.name} away. {former}"
            )
    if "upgraded_from" not in checkpoint:
        return None
    if final:
        return (
            f"{path} was written by `nnunet-xattnres upgrade`, and no training here has ended: there is nothing to go "
            f"on with.\n  To validate it, use --val. To train it, upgrade the checkpoint that it was made from to a "
            "file: `nnunet-xattnres upgrade` then prints the command."
        )
    if not trained_as_ours(checkpoint):
        return (
            f"{path} was written by `nnunet-xattnres upgrade`. It was trained by {_trainer_before(checkpoint)}, and "
            "would go on as nnUNetTrainer trains, with mirroring along all axes, for one.\n  Upgrade the checkpoint "
            "that it was made from to a file: `nnunet-xattnres upgrade` then prints the command that keeps its trainer."
        )
    return None


def trained_as_ours(checkpoint: Mapping[str, Any]) -> bool:
    """Whether an upgraded checkpoint is of nnUNetTrainer, of any length, and was mirrored in all axes."""
    arguments = checkpoint["init_args"]
    axes = set(range(len(resolved(arguments["plans"], arguments["configuration"])["patch_size"])))
    mirrored = checkpoint.get("inference_allowed_mirroring_axes", axes)
    return bool(_AS_OURS.fullmatch(_trainer_before(checkpoint))) and set(mirrored or ()) == axes


def _trainer_before(checkpoint: Mapping[str, Any]) -> str:
    return str(checkpoint["upgraded_from"]["trainer"])


def _is_later(path: Path, taken: Mapping[str, Any], *, further: bool) -> str | None:
    """How a checkpoint is later than the one that --c takes, as their logs say; None if it is not.

    Args:
        further: more epochs count, too. A checkpoint_best.pth may have more than a checkpoint_latest.pth.
    """
    if not path.is_file():
        return None
    try:
        other = read_checkpoint(path)
        if other["logging"]["epoch_start_timestamps"][0] > taken["logging"]["epoch_end_timestamps"][-1]:
            return "is of a training that was begun in this fold after the one of"
        if further and other["current_epoch"] > taken["current_epoch"]:
            return f"has gone on from the end to epoch {other['current_epoch']}, after"
    except (UserError, OSError, KeyError, IndexError):  # damaged, or without a log: no reason not to validate
        pass
    return None


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


def has_fewer_axes(table: Tensor, value: Tensor) -> bool:
    """Whether it is a table of positions of before it had the axes of its grid: UCTransNet loads it."""
    return table.ndim == 3 < value.ndim and table.shape == value.flatten(1, -2).shape


def _difference(network: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for key, value in network.items():
        if key not in found:
            return f"it has no {key}"
        if found[key].shape != value.shape and not has_fewer_axes(found[key], value):
            return f"its {key} has the shape {tuple(found[key].shape)}, here {tuple(value.shape)}"
    surplus = next((key for key in found if key not in network), None)
    return None if surplus is None else f"it has {surplus}, which is not here"
