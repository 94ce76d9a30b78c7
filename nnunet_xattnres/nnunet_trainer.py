"""The trainers. Each is nnU-Net's own with another network; nothing else of the training is touched.

This is the one module of the core that imports nnunetv2.
"""

from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from nnunet_xattnres.checkpoints import Origin, check_checkpoint
from nnunet_xattnres.errors import UserError
from nnunet_xattnres.files import replacing
from nnunet_xattnres.inspection.log import log_routing
from nnunet_xattnres.plans import Reads, with_reads

ROUTING_EVERY = 10  # epochs


def build_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
    *,
    reads: Reads,
) -> nn.Module:
    """The network that the plans describe, with ``reads``.

    The parameters before ``reads`` are those of nnU-Net's ``build_network_architecture``.

    Raises:
        ValueError: when the plans name a network class other than PlainConvUNet and ResidualEncoderUNet, or their
            arguments do not make a network.
    """
    network_class, arch_kwargs = with_reads(
        configuration_manager.network_arch_class_name,
        configuration_manager.network_arch_init_kwargs,
        reads,
        plans_manager.plans_name,
    )
    try:
        return get_network_from_plans(
            network_class,
            arch_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )
    except Exception as error:
        raise ValueError(
            f"the plans {plans_manager.plans_name!r} do not make a network: with their arch_kwargs, "
            f"{network_class} raises {type(error).__name__}: {error}"
        ) from error


def _architecture(reads: Reads) -> Any:
    """A trainer's ``build_network_architecture``: static, with nnU-Net's parameters and no others."""

    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return build_network(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            reads=reads,
        )

    build_network_architecture.reads = reads  # type: ignore[attr-defined]
    return staticmethod(build_network_architecture)


class _TrainerWithReads(nnUNetTrainer):
    """Logs what the reads cost and what they read, and guards the checkpoints."""

    routing_logged_in = -1  # the last epoch in which it was

    def initialize(self) -> None:
        super().initialize()
        self.print_to_log_file(self._parameter_line())

    def _parameter_line(self) -> str:
        with torch.device("meta"):  # counting needs no memory
            plain = get_network_from_plans(
                self.configuration_manager.network_arch_class_name,
                self.configuration_manager.network_arch_init_kwargs,
                self.configuration_manager.network_arch_init_kwargs_req_import,
                self.num_input_channels,
                self.label_manager.num_segmentation_heads,
                allow_init=False,
            )
        network = self._bare_network()
        n_plain, n_reads, n_all = map(_n_parameters, (plain, network.reads, network))
        line = f"Parameters: plain network {n_plain:,}, reads {n_reads:,} (+{n_reads / n_plain:.2%})"
        if n_all != n_plain + n_reads:
            line += f", this network {n_all:,} ({n_all / n_plain - 1:+.2%})"
        return line

    def _bare_network(self) -> Any:
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)  # torch.compile's wrapper

    def on_train_start(self) -> None:
        if self.local_rank == 0:
            self.training_lock = _locked(Path(self.output_folder), self.print_to_log_file)
        super().on_train_start()

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        found = super().validation_step(batch)
        due = self.current_epoch % ROUTING_EVERY == 0 or self.current_epoch == self.num_epochs - 1
        if due and self.local_rank == 0 and self.routing_logged_in != self.current_epoch:
            self.routing_logged_in = self.current_epoch
            self._log_routing(batch["data"])
        return found

    def _log_routing(self, images: torch.Tensor) -> None:
        network = self._bare_network()
        if not network.reads:
            return
        try:
            with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
                log_routing(network, images.to(self.device), self.current_epoch, Path(self.output_folder))
        except Exception as error:  # it is not worth a training
            self.print_to_log_file(f"The weights of the reads were not logged: {type(error).__name__}: {error}")

    def on_train_end(self) -> None:
        if self.device.type == "cuda":
            self.print_to_log_file(f"Peak GPU memory: {torch.cuda.max_memory_allocated(self.device) // 2**20} MiB")
        super().on_train_end()
        if self.local_rank == 0:
            self.training_lock.release()
            Path(self.training_lock.lock_file).unlink(missing_ok=True)

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank == 0:  # nnU-Net calls it in every process; the others must not touch the file of this one
            with replacing(filename) as partial:  # a training that is killed while it writes keeps its last checkpoint
                super().save_checkpoint(str(partial))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        if not self.was_initialized:
            self.initialize()
        if self.is_ddp:
            dist.barrier()  # process 0 may be writing it still: --val_best would validate different weights
        if isinstance(filename_or_checkpoint, str):
            this = Origin(type(self).__name__, self.plans_manager.plans_name, self.configuration_name)
            check_checkpoint(Path(filename_or_checkpoint), self._bare_network().state_dict(), this, _reads_of)
        super().load_checkpoint(filename_or_checkpoint)


def _locked(fold: Path, log: Callable[[str], None]) -> FileLock:
    """A lock on a fold's folder; the system takes it back when the process ends, however it ends.

    Raises:
        UserError: when another training holds it.
    """
    lock = FileLock(fold / "training.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another training is writing to {fold}. Wait for it or stop it; to train a second network beside it, use "
            f"another fold, or plans or a trainer of another name."
        ) from None
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks: no reason not to train
        log(f"A second training of this fold would not be noticed: {lock.lock_file} cannot be locked ({error})")
    return lock


def _reads_of(trainer: str) -> Reads | None:
    """What a trainer's network has beyond upstream's; None for another kind of trainer, and for one not found here."""
    try:
        with redirect_stdout(StringIO()):  # the finder tells of the folders that it searches
            found = recursive_find_trainer_class_by_name(trainer)
    except Exception:
        return None
    return getattr(found.build_network_architecture, "reads", None)


def _n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class nnUNetTrainerXAttnRes(_TrainerWithReads):
    """Skip + read, in encoder and decoder: the paper's "XAttnRes + skip"."""

    build_network_architecture = _architecture(Reads("add"))


class nnUNetTrainerXAttnResReplace(_TrainerWithReads):
    """The read replaces the skip: the paper's "XAttnRes"."""

    build_network_architecture = _architecture(Reads("replace"))


class nnUNetTrainerXAttnResDecoderReads(_TrainerWithReads):
    """Skip + read in the decoder; the encoder is nnU-Net's, as the paper does with EMCAD."""

    build_network_architecture = _architecture(Reads("add", encoder_reads=False))


class nnUNetTrainerXAttnResGated(_TrainerWithReads):
    """Skip + gated read: starts as nnU-Net's own network, for a warm start from one (ours)."""

    build_network_architecture = _architecture(Reads("add", read_gate="zero"))


class nnUNetTrainerNoSkip(_TrainerWithReads):
    """No skip and no read: the paper's ablation "No Skip"."""

    build_network_architecture = _architecture(Reads("none"))


class nnUNetTrainerXAttnResNoMirroring(nnUNetTrainerXAttnRes, nnUNetTrainerNoMirroring):
    """For images where left and right differ."""


class nnUNetTrainerXAttnResReplaceNoMirroring(nnUNetTrainerXAttnResReplace, nnUNetTrainerNoMirroring):
    """For images where left and right differ."""


def _with_epochs(trainer: type[nnUNetTrainer], num_epochs: int) -> type[nnUNetTrainer]:
    """``trainer`` for a training of ``num_epochs``, as nnU-Net has nnUNetTrainer_5epochs beside nnUNetTrainer."""

    # nnU-Net reads the names of these parameters and takes them for the checkpoint's init_args
    def __init__(  # noqa: N807
        self: Any,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super(variant, self).__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = num_epochs
        # nnU-Net's 50 would leave a short training nothing for --c to go on from
        self.save_every = min(self.save_every, max(1, num_epochs // 10))

    name = f"{trainer.__name__}_{num_epochs}epochs"
    namespace = {"__init__": __init__, "__module__": __name__, "__doc__": trainer.__doc__}
    variant: type[nnUNetTrainer] = type(name, (trainer,), namespace)
    return variant


nnUNetTrainerXAttnRes_5epochs = _with_epochs(nnUNetTrainerXAttnRes, 5)
nnUNetTrainerXAttnRes_20epochs = _with_epochs(nnUNetTrainerXAttnRes, 20)
nnUNetTrainerXAttnRes_50epochs = _with_epochs(nnUNetTrainerXAttnRes, 50)
nnUNetTrainerXAttnRes_100epochs = _with_epochs(nnUNetTrainerXAttnRes, 100)
nnUNetTrainerXAttnRes_250epochs = _with_epochs(nnUNetTrainerXAttnRes, 250)

nnUNetTrainerXAttnResReplace_5epochs = _with_epochs(nnUNetTrainerXAttnResReplace, 5)
nnUNetTrainerXAttnResReplace_20epochs = _with_epochs(nnUNetTrainerXAttnResReplace, 20)
nnUNetTrainerXAttnResReplace_50epochs = _with_epochs(nnUNetTrainerXAttnResReplace, 50)
nnUNetTrainerXAttnResReplace_100epochs = _with_epochs(nnUNetTrainerXAttnResReplace, 100)
nnUNetTrainerXAttnResReplace_250epochs = _with_epochs(nnUNetTrainerXAttnResReplace, 250)

nnUNetTrainerXAttnResDecoderReads_5epochs = _with_epochs(nnUNetTrainerXAttnResDecoderReads, 5)
nnUNetTrainerXAttnResDecoderReads_20epochs = _with_epochs(nnUNetTrainerXAttnResDecoderReads, 20)
nnUNetTrainerXAttnResDecoderReads_50epochs = _with_epochs(nnUNetTrainerXAttnResDecoderReads, 50)
nnUNetTrainerXAttnResDecoderReads_100epochs = _with_epochs(nnUNetTrainerXAttnResDecoderReads, 100)
nnUNetTrainerXAttnResDecoderReads_250epochs = _with_epochs(nnUNetTrainerXAttnResDecoderReads, 250)

nnUNetTrainerXAttnResGated_5epochs = _with_epochs(nnUNetTrainerXAttnResGated, 5)
nnUNetTrainerXAttnResGated_20epochs = _with_epochs(nnUNetTrainerXAttnResGated, 20)
nnUNetTrainerXAttnResGated_50epochs = _with_epochs(nnUNetTrainerXAttnResGated, 50)
nnUNetTrainerXAttnResGated_100epochs = _with_epochs(nnUNetTrainerXAttnResGated, 100)
nnUNetTrainerXAttnResGated_250epochs = _with_epochs(nnUNetTrainerXAttnResGated, 250)

nnUNetTrainerNoSkip_5epochs = _with_epochs(nnUNetTrainerNoSkip, 5)
nnUNetTrainerNoSkip_20epochs = _with_epochs(nnUNetTrainerNoSkip, 20)
nnUNetTrainerNoSkip_50epochs = _with_epochs(nnUNetTrainerNoSkip, 50)
nnUNetTrainerNoSkip_100epochs = _with_epochs(nnUNetTrainerNoSkip, 100)
nnUNetTrainerNoSkip_250epochs = _with_epochs(nnUNetTrainerNoSkip, 250)

# what nnU-Net finds by name, and what trainers/ re-exports
TRAINERS: dict[str, type[nnUNetTrainer]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, _TrainerWithReads) and not name.startswith("_")
}
__all__ = list(TRAINERS)
