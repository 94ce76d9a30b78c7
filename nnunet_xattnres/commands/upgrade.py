"""Networks with reads that start from a trained nnU-Net: what `nnunet-xattnres upgrade` does (ours)."""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import replacing
from nnunet_xattnres.nnunet.checkpoints import origin_of, read_checkpoint
from nnunet_xattnres.nnunet.model_folder import NEEDED, checkpoints_of
from nnunet_xattnres.training.build import PlannedNetwork
from nnunet_xattnres.training.epochs import TRAINERS

_TRAINER_FOR = {
    ("add", "zero"): "nnUNetTrainerXAttnResGated",
    ("add", "none"): "nnUNetTrainerXAttnRes",
    ("replace", "none"): "nnUNetTrainerXAttnResReplace",
}
# Of a model folder. Results are those of the new network, too, when it computes the same.
_OPTIONAL = ("dataset_fingerprint.json", "fold_*/debug.json")
_RESULTS = (
    "fold_*/progress.png",
    "fold_*/validation/summary.json",
    "crossval_results_folds_*/*.json",
    "crossval_results_folds_*/*.pkl",
)
_SAME = 1e-5  # difference up to which two networks compute the same
_SEED = 0  # of the projections, which start at random: the same checkpoint gives the same result


class Upgraded(NamedTuple):
    """A checkpoint with reads.

    Attributes:
        checkpoint: what nnU-Net's commands load; its tensors are on the CPU.
        trainer: the trainer that it is for.
        n_new: how many numbers are new: those of the reads.
        difference: the largest difference between its logits and the stock network's on a random input, over the
            largest logit.
    """

    checkpoint: dict[str, Any]
    trainer: str
    n_new: int
    difference: float


def trainer_for(skip_mode: str, read_gate: str) -> str:
    """The trainer whose network an upgraded checkpoint has.

    Raises:
        UserError: when there is none.
    """
    if (skip_mode, read_gate) not in _TRAINER_FOR:
        raise UserError(
            f"skip_mode {skip_mode!r} with read_gate {read_gate!r} cannot start from a stock checkpoint; there are "
            + ", ".join(f"{mode!r} with {gate!r}" for mode, gate in _TRAINER_FOR)
        )
    return _TRAINER_FOR[skip_mode, read_gate]


def upgrade_checkpoint(path: Path, trainer: str) -> Upgraded:
    """A stock checkpoint's network with reads added; everything that was trained stays.

    Raises:
        UserError: when the file is damaged, has reads already, or is not of the network that its plans describe.
    """
    stock = read_checkpoint(path)
    weights = {key.removeprefix("module."): value for key, value in stock["network_weights"].items()}
    if any(key.startswith("reads.") for key in weights):
        raise UserError(f"{path} has reads already: it is of {origin_of(stock)}; there is nothing to upgrade")
    network, plain, n_inputs = _networks(path, stock["init_args"], trainer)
    for target in (plain, network):
        target.load_state_dict(_filled(path, target, weights), strict=True)
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
    return Upgraded(checkpoint, trainer, n_new, _difference(network, plain, n_inputs))


def write_upgraded(source: Path, out: Path, trainer: str) -> Upgraded:
    """Upgrade one checkpoint into a file that ``-pretrained_weights`` takes.

    Raises:
        UserError: as ``upgrade_checkpoint``, and when ``out`` exists.
    """
    _refuse_existing(out)
    upgraded = upgrade_checkpoint(source, trainer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        _save(upgraded.checkpoint, partial)
    return upgraded


def write_upgraded_folder(source: Path, out: Path, trainer: str) -> dict[str, Upgraded]:
    """Upgrade every checkpoint of a trained model's folder, with what nnU-Net's prediction needs beside them.

    Returns:
        What each file, such as ``fold_0/checkpoint_final.pth``, has become, without the weights.

    Raises:
        UserError: as ``upgrade_checkpoint``, when ``out`` exists, and when ``source`` is no folder of a trained model.
    """
    _refuse_existing(out)
    files = checkpoints_of(source)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    done = {}
    try:
        for file in files:
            upgraded, target = upgrade_checkpoint(file, trainer), partial / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            _save(upgraded.checkpoint, target)
            done[str(file.relative_to(source))] = upgraded._replace(checkpoint={})
        same = all(upgraded.difference < _SAME for upgraded in done.values())
        for pattern in (*NEEDED, *_OPTIONAL, *(_RESULTS if same else ())):
            for file in source.glob(pattern):
                target = partial / file.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return done


def _networks(path: Path, arguments: Mapping[str, Any], trainer: str) -> tuple[Any, nn.Module, int]:
    """The network of our trainer and nnU-Net's own for the training that a checkpoint is of, and its input channels."""
    try:
        planned = PlannedNetwork.of(*(arguments[key] for key in ("plans", "dataset_json", "configuration")))
    except KeyError as error:
        raise UserError(f"{path} does not say which training it is of: its init_args lack {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network, plain = (planned.build(t, deep_supervision=False) for t in (TRAINERS[trainer], nnUNetTrainer))
    return network.eval(), plain.eval(), planned.n_inputs


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
def _difference(network: Any, plain: nn.Module, n_inputs: int) -> float:
    generator = torch.Generator().manual_seed(_SEED)
    size = [2 * stride for stride in network.encoder_stages[-1].strides]
    x = torch.randn(1, n_inputs, *size, generator=generator)
    expected = plain(x)
    return ((network(x) - expected).abs().max() / expected.abs().max()).item()


def _save(checkpoint: Mapping[str, Any], path: Path) -> None:
    try:
        torch.save(checkpoint, path)
    except RuntimeError as error:  # torch's writer has no words for a full disk
        raise UserError(f"{path} could not be written; is the disk full? ({error})") from error


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists; name another, or remove it first")
