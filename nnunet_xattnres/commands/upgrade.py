"""Networks with reads that start from a trained nnU-Net: what `nnunet-xattnres upgrade` does (ours)."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import (
    content_of,
    read_json,
    refuse_existing,
    refuse_folder,
    refuse_to_replace,
    replacing,
    replacing_folder,
)
from nnunet_xattnres.common.shell import command
from nnunet_xattnres.networks.registry import KINDS, plan_options
from nnunet_xattnres.nnunet.checkpoints import network_weights, origin_of, read_checkpoint
from nnunet_xattnres.nnunet.model_folder import NEEDED, checkpoints_of
from nnunet_xattnres.nnunet.plans import resolved
from nnunet_xattnres.nnunet.trainers import find_trainer
from nnunet_xattnres.training.build import PlannedNetwork, config_of
from nnunet_xattnres.training.epochs import TRAINERS
from nnunet_xattnres.training.lock import locked
from nnunet_xattnres.training.resume import trained_as_ours

_TRAINER_FOR = {
    ("add", "zero"): "nnUNetTrainerXAttnResGated",
    ("add", "none"): "nnUNetTrainerXAttnRes",
    ("replace", "none"): "nnUNetTrainerXAttnResReplace",
}
# Of a model folder. Results are those of the new network, too, when it computes the same.
_OPTIONAL = ("dataset_fingerprint.json", "fold_*/debug.json")
_CURVES = ("fold_*/progress.png",)  # of the training that gave the weights; nnU-Net's export needs them
_RESULTS = (
    "fold_*/validation/*",  # the masks, too: nnU-Net's commands for all folds take them
    "crossval_results_folds_*/*.json",
    "crossval_results_folds_*/*.pkl",
)
_OF_A_MODEL = (*NEEDED, "dataset_fingerprint.json", "fold_*", "crossval_results*")
_PROBABILITIES = (".npz", ".pkl")  # of a fold's validation; large, and `--val --npz` makes them again
_SAME = 1e-5  # difference up to which two networks compute the same
_SEED = 0  # of the projections, which start at random: the same checkpoint gives the same result


class Upgraded(NamedTuple):
    """A checkpoint with reads.

    Attributes:
        checkpoint: what nnU-Net's commands load; its tensors are on the CPU.
        trainer: the trainer that it is for.
        n_new: how many numbers are new: those of the reads.
        difference: the largest difference between its logits and those of the network that was trained, on a random
            input, over the largest logit; NaN where that could not be built here.
        unchecked: why it could not; empty where it could.
    """

    checkpoint: dict[str, Any]
    trainer: str
    n_new: int
    difference: float
    unchecked: str = ""


def trainer_for(skip_mode: str, read_gate: str, network: str = "xattnres") -> str:
    """The trainer whose network an upgraded checkpoint has.

    Raises:
        UserError: when there is none.
    """
    if network != "xattnres":
        raise UserError(
            f"{KINDS[network].title} cannot start from a stock checkpoint: its decoder would compute something else "
            f"with those weights. Train it anew."
        )
    if (skip_mode, read_gate) not in _TRAINER_FOR:
        raise UserError(
            f"skip_mode {skip_mode!r} with read_gate {read_gate!r} cannot start from a stock checkpoint; there are "
            + ", ".join(f"{mode!r} with {gate!r}" for mode, gate in _TRAINER_FOR)
        )
    return _TRAINER_FOR[skip_mode, read_gate]


def upgrade_checkpoint(path: Path, trainer: str) -> Upgraded:
    """A stock checkpoint's network with reads added; everything that was trained stays.

    Raises:
        UserError: when the file cannot be read, has reads already, or is not of nnU-Net's own network for its plans:
            by its weights, or because its trainer's network computes something else with them.
    """
    stock = _with_plans(read_checkpoint(path, mapped=False), path.absolute().parent.parent)
    planned = _planned(path, stock["init_args"])
    network, plain = _network(planned, TRAINERS[trainer]), _network(planned, nnUNetTrainer)
    weights = network_weights(stock, plain.state_dict())
    if any(key.startswith("reads.") for key in weights):
        raise UserError(f"{path} has reads already: it is of {origin_of(stock)}; there is nothing to upgrade")
    for target in (plain, network):
        target.load_state_dict(_filled(path, target, weights), strict=True)
    unchecked = _check_its_trainer(path, stock["trainer_name"], planned, plain, weights)
    # --c and --val load an optimizer, too: nnU-Net's, without momentum, as the reads have none yet
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.99, weight_decay=3e-5, nesterov=True)
    checkpoint = {
        **stock,
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "trainer_name": trainer,
        "upgraded_from": {"file": str(path), "trainer": stock["trainer_name"]},
    }
    n_new = sum(p.numel() for p in network.reads.parameters())
    difference = float("nan") if unchecked else _difference(network, plain, planned)
    return Upgraded(checkpoint, trainer, n_new, difference, unchecked)


def training_commands(upgraded: Upgraded, out: Path) -> list[str]:
    """The commands that train the network of a file that ``write_upgraded`` wrote, one after another.

    Our trainers train as nnUNetTrainer does. A model of any other trainer, such as one without mirroring, keeps that
    trainer, and plans bring the network.
    """
    arguments = upgraded.checkpoint["init_args"]
    dataset, source = arguments["plans"].get("dataset_name", "DATASET"), arguments["plans"].get("plans_name", "PLANS")
    trainer, plans = _trainer_and_plans(upgraded)
    commands = []
    if plans != source:
        network = plan_options(config_of(TRAINERS[upgraded.trainer])) or ()
        commands.append(command("nnunet-xattnres", "plan", "-d", dataset, "-p", source, "-o", plans, *network))
    what = dataset, arguments["configuration"], str(arguments.get("fold", "FOLD"))
    options = "-tr", trainer, "-p", plans, "-pretrained_weights", str(out)
    return [*commands, command("nnUNetv2_train", *what, *options)]


def first_stage_folders(upgraded: Upgraded) -> tuple[str, str] | None:
    """Of a cascade's second stage, in nnUNet_results: where the masks of the first are, and where this one needs them.

    None for any other network.
    """
    arguments = upgraded.checkpoint["init_args"]
    first = resolved(arguments["plans"], arguments["configuration"]).get("previous_stage")
    if first is None:
        return None
    trained = upgraded.checkpoint["upgraded_from"]["trainer"], arguments["plans"].get("plans_name", "PLANS")
    dataset = arguments["plans"].get("dataset_name", "DATASET")
    theirs, ours = (
        f"{dataset}/{trainer}__{plans}__{first}/predicted_next_stage"
        for trainer, plans in (trained, _trainer_and_plans(upgraded))
    )
    return theirs, ours


def _trainer_and_plans(upgraded: Upgraded) -> tuple[str, str]:
    """By which the network of an upgraded checkpoint is trained."""
    checkpoint, trainer = upgraded.checkpoint, upgraded.trainer
    plans = checkpoint["init_args"]["plans"].get("plans_name", "PLANS")
    if trained_as_ours(checkpoint):
        return trainer, plans
    return checkpoint["upgraded_from"]["trainer"], plans + trainer.removeprefix("nnUNetTrainer")


def write_upgraded(source: Path, out: Path, trainer: str, force: bool = False) -> Upgraded:
    """Upgrade one checkpoint into a file that ``-pretrained_weights`` takes.

    Raises:
        UserError: as ``upgrade_checkpoint``, and when ``out`` is ``source``, or exists and is not to be replaced.
    """
    refuse_to_replace(source, out)
    refuse_folder(out)
    refuse_existing(out, force)
    upgraded = upgrade_checkpoint(source, trainer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, overwrite=force) as partial:
        _save(upgraded.checkpoint, partial)
    return upgraded


def write_upgraded_folder(source: Path, out: Path, trainer: str, force: bool = False) -> dict[str, Upgraded]:
    """Upgrade every checkpoint of a trained model's folder, with what nnU-Net's prediction needs beside them.

    The results of its validation come along if the new network is known to compute the same.

    Args:
        force: replace the trained model that is in ``out``, all of its folds; other files in it stay.

    Returns:
        What each file, such as ``fold_0/checkpoint_final.pth``, has become, without the weights.

    Raises:
        UserError: as ``upgrade_checkpoint``, when ``out`` exists and is not to be replaced, is something else than a
            trained model, is being trained, or has ``source`` or the masks for a cascade's second stage in it, and when
            ``source`` is no folder of a trained model.
    """
    refuse_to_replace(source, out)
    refuse_existing(out, force)
    if out.exists() and content_of(out):
        _refuse_to_lose(out)
    files = checkpoints_of(source)
    done = {}
    gives_way = [entry.name for pattern in _OF_A_MODEL for entry in out.glob(pattern)]
    with replacing_folder(out, gives_way, overwrite=force) as partial:
        for file in files:
            upgraded, target = upgrade_checkpoint(file, trainer), partial / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            _save(upgraded.checkpoint, target)
            done[str(file.relative_to(source))] = upgraded._replace(checkpoint={})
        same = all(upgraded.difference < _SAME for upgraded in done.values())
        other = any(upgraded.difference >= _SAME for upgraded in done.values())  # neither where it was not checked
        for pattern in (*NEEDED, *_OPTIONAL, *(() if other else _CURVES), *(_RESULTS if same else ())):
            for file in source.glob(pattern):
                if file.is_dir() or (file.parent.name == "validation" and file.suffix in _PROBABILITIES):
                    continue
                target = partial / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
    return done


def _refuse_to_lose(model_folder: Path) -> None:
    """Refuse to replace what is no trained model, or one that is being trained or has given masks to a second stage."""
    checkpoints_of(model_folder)
    for lock in model_folder.glob("fold_*/training.lock"):
        locked(lock.parent, lambda _: None).release()
    if (masks := model_folder / "predicted_next_stage").exists():
        raise UserError(f"{masks} holds masks by the model that would be replaced: move it away")


def _with_plans(checkpoint: dict[str, Any], model_folder: Path) -> dict[str, Any]:
    """The checkpoint; where it lacks plans or dataset.json with those of its model folder, as nnU-Net's prediction."""
    arguments = dict(checkpoint["init_args"])
    for key, name in (("plans", NEEDED[0]), ("dataset_json", NEEDED[1])):
        if key not in arguments and (model_folder / name).is_file():
            arguments[key] = read_json(model_folder / name)
    return {**checkpoint, "init_args": arguments}


def _planned(path: Path, arguments: Mapping[str, Any]) -> PlannedNetwork:
    try:
        found = [arguments[key] for key in ("plans", "dataset_json", "configuration")]
    except KeyError as error:
        raise UserError(
            f"{path} does not say which training it is of: its init_args lack {error}, and there is no model folder "
            f"around it that has it"
        ) from None
    return PlannedNetwork.of(*found)


def _network(planned: PlannedNetwork, trainer: type[nnUNetTrainer]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return planned.build(trainer, deep_supervision=False).eval()


def _check_its_trainer(
    path: Path, name: str, planned: PlannedNetwork, plain: nn.Module, weights: Mapping[str, Tensor]
) -> str:
    """Refuse weights that mean something else in the network that was trained; why that could not be seen, or "".

    Other activations, norms, paddings have the same keys and shapes: only what the network computes tells.
    """
    try:
        found = find_trainer(name)
    except UserError as error:
        return str(error)
    if found.build_network_architecture is nnUNetTrainer.build_network_architecture:
        return ""
    try:
        trained = _network(planned, found)
        trained.load_state_dict(_filled(path, trained, weights), strict=True)
        difference = _difference(trained, plain, planned)
    except Exception as error:
        return f"the network of its trainer {name} cannot be built here: {type(error).__name__}: {error}"
    if not difference < _SAME:
        raise UserError(
            f"{path} was trained by {name}, whose network computes something else than nnU-Net's own with the same "
            f"weights (the logits differ by {difference:.1e} of the largest). It cannot be upgraded: the networks with "
            f"reads are built from nnU-Net's own."
        )
    return ""


def _filled(path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ``network`` with everything but the reads from ``weights``.

    nnU-Net's networks list a parameter under several names (``encoder.*`` and ``decoder.encoder.*``, ``conv`` and
    ``all_modules.0``); a checkpoint may have all of them or one.
    """
    state = network.state_dict()
    names = defaultdict(list)
    for key, value in state.items():
        names[value.data_ptr()].append(key)
    found = {}
    for key, value in state.items():
        if key.startswith("reads."):
            found[key] = value
            continue
        known = next((name for name in (key, *names[value.data_ptr()]) if name in weights), None)
        if known is None or weights[known].shape != value.shape:
            what = "lacks" if known is None else f"has {tuple(weights[known].shape)}, not {tuple(value.shape)}, for"
            raise UserError(f"{path} is not of the network that its plans describe: it {what} {key}")
        found[key] = weights[known]
    surplus = next((key for key in weights if key not in state), None)
    if surplus is not None:
        raise UserError(
            f"{path} is not of the network that its plans describe: that has no {surplus}. Its trainer, which changes "
            f"the network, cannot be upgraded."
        )
    return found


@torch.inference_mode()
def _difference(network: nn.Module, plain: Any, planned: PlannedNetwork) -> float:
    """Of the logits for noise, over the largest."""
    generator = torch.Generator().manual_seed(_SEED)
    strides = [prod(of_axis) for of_axis in zip(*plain.encoder.strides, strict=True)]
    x = torch.randn(1, planned.n_inputs, *(2 * stride for stride in strides), generator=generator)
    expected = plain(x)
    return ((network(x) - expected).abs().max() / expected.abs().max()).item()


def _save(checkpoint: Mapping[str, Any], path: Path) -> None:
    try:
        torch.save(checkpoint, path)
    except RuntimeError as error:  # torch's writer has no words for a full disk
        raise UserError(f"{path} could not be written; is the disk full? ({error})") from error
