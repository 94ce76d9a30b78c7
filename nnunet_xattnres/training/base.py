"""What every trainer of ours does beside training: whole checkpoints, one training a fold, what it costs."""

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.helpers import empty_cache
from torch import distributed as dist
from torch import nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import replacing
from nnunet_xattnres.nnunet.checkpoints import Origin
from nnunet_xattnres.ops.choice import CUSTOM_OPS, forced_path
from nnunet_xattnres.training.resume import check_checkpoint

if CUSTOM_OPS:
    from nnunet_xattnres.ops.tuning import as_json, choose_paths
    from nnunet_xattnres.reads.shapes import shapes_to_choose


_CHOSEN = "read_paths"  # among a checkpoint's init_args


class GuardedTrainer(nnUNetTrainer):
    """nnU-Net's trainer, which also logs what its network costs and guards its checkpoints and its folder."""

    my_init_kwargs: dict[str, Any]

    def initialize(self) -> None:
        super().initialize()
        self.print_to_log_file(self._parameter_line())

    def _parameter_line(self) -> str:
        n_plain, n = n_parameters(self._plain_network()), n_parameters(self._bare_network())
        return f"Parameters: plain network {n_plain:,}, this network {n:,} ({n / n_plain - 1:+.2%})"

    def _plain_network(self) -> nn.Module:
        """nnU-Net's own for the same plans, without memory: to count."""
        with torch.device("meta"):
            return get_network_from_plans(
                self.configuration_manager.network_arch_class_name,
                self.configuration_manager.network_arch_init_kwargs,
                self.configuration_manager.network_arch_init_kwargs_req_import,
                self.num_input_channels,
                self.label_manager.num_segmentation_heads,
                allow_init=False,
            )

    def _bare_network(self) -> Any:
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)  # torch.compile's wrapper

    def on_train_start(self) -> None:
        if self.local_rank == 0:
            self.training_lock = locked(Path(self.output_folder), self.print_to_log_file)
        if not self.was_initialized:
            self.initialize()
        if CUSTOM_OPS and self.device.type == "cuda":
            try:
                self._choose_paths()
            except UserError:
                raise
            except Exception as error:  # plain torch computes the reads, then
                self.print_to_log_file(f"No path was chosen for the reads: {type(error).__name__}: {error}")
        super().on_train_start()

    def _choose_paths(self) -> None:
        """Before anything is traced; --c keeps what the checkpoint says, if it is of such a machine."""
        network, device = self._bare_network(), self.device
        if forced_path(getattr(network, "path", None)) is not None:
            return
        image = self.num_input_channels, *self.configuration_manager.patch_size
        shapes = shapes_to_choose(network, self.batch_size, image, device)
        stored = self.my_init_kwargs.get(_CHOSEN, ())
        found = choose_paths(shapes, device, self.print_to_log_file, stored=stored)
        # nnU-Net writes these arguments into every checkpoint, and reads them back
        self.my_init_kwargs = {**self.my_init_kwargs, _CHOSEN: as_json(found, device)}
        empty_cache(device)

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
            check_checkpoint(Path(filename_or_checkpoint), self._bare_network().state_dict(), this, _config_of)
        super().load_checkpoint(filename_or_checkpoint)


def n_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())


def locked(fold: Path, log: Callable[[str], None]) -> FileLock:
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


def _config_of(trainer: str) -> Any:
    """The arguments of a trainer's network beyond upstream's; None for a trainer that is not ours or not found here."""
    try:
        with redirect_stdout(StringIO()):  # the finder tells of the folders that it searches
            found = recursive_find_trainer_class_by_name(trainer)
    except Exception:
        return None
    return getattr(found.build_network_architecture, "config", None)
