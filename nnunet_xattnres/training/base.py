"""What every trainer of ours does beside training: whole checkpoints, one training a fold, what it costs."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import BaseFileLock
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.helpers import empty_cache
from torch import distributed as dist
from torch import nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import remove_partials, replacing
from nnunet_xattnres.common.modules import uncompiled
from nnunet_xattnres.nnunet.checkpoints import Origin, network_weights
from nnunet_xattnres.nnunet.trainers import find_trainer
from nnunet_xattnres.ops.choice import CUSTOM_OPS, forced_path
from nnunet_xattnres.reads.history import with_history
from nnunet_xattnres.training.build import config_of
from nnunet_xattnres.training.checks import Sums, loaded, refuse_two_networks, sums, untrained
from nnunet_xattnres.training.lock import locked
from nnunet_xattnres.training.resume import check_checkpoint, has_fewer_axes, why_no_end

if CUSTOM_OPS:
    from nnunet_xattnres.ops.tuning import as_json, choose_paths
    from nnunet_xattnres.reads.shapes import shapes_to_choose


_CHOSEN = "read_paths"  # among a checkpoint's init_args
_WRITTEN_AGAIN = ("checkpoint_latest.pth", "checkpoint_best.pth")  # missing one of them is no reason to end a training
_WAITS = (1, 2, 4)  # seconds
_WINDOWS = sys.platform == "win32"  # where a file that another program reads cannot be replaced


class GuardedTrainer(nnUNetTrainer):
    """nnU-Net's trainer, which also logs what its network costs and guards its checkpoints and its folder."""

    my_init_kwargs: dict[str, Any]
    training_lock: BaseFileLock | None = None
    weights_at_start: Sums | None = None
    no_end: str | None = None
    first_epoch = 0  # of this process
    best_written: Any = None  # nnU-Net's measure of what stands in checkpoint_best.pth

    def initialize(self) -> None:
        refuse_two_networks(type(self))
        super().initialize()
        self._log(self._parameter_line)
        self._log(lambda: getattr(self._bare_network(), "note", None))
        self.weights_at_start = sums(self._bare_network())

    def _log(self, line: Callable[[], str | None]) -> None:
        """Log a line about the network, if there is one; what it is about is a user's class, and worth no training."""
        try:
            text = line()
        except Exception as error:
            text = f"A line of this log could not be made: {type(error).__name__}: {error}"
        if text is not None:
            self.print_to_log_file(text)

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
        return uncompiled(self.network.module if self.is_ddp else self.network)

    def on_train_start(self) -> None:
        if self.no_end is not None:  # here, for --val takes such a checkpoint rightly
            raise UserError(self.no_end)
        if self.local_rank == 0:
            self.training_lock = locked(Path(self.output_folder), self.print_to_log_file)
            if self.training_lock.is_locked:  # else another training may be writing
                remove_partials(Path(self.output_folder))
        self.first_epoch, self.best_written = self.current_epoch, self._best_ema
        if not self.was_initialized:
            self.initialize()
        network, before = self._bare_network(), self.weights_at_start
        self._log(lambda: untrained(network, self.optimizer))
        self._log(lambda: None if before is None else loaded(network, before))
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
        if forced_path(getattr(with_history(network), "path", None)) is not None:
            return
        image = self.num_input_channels, *self.configuration_manager.patch_size
        shapes = shapes_to_choose(network, self.batch_size, image, device)
        stored = self.my_init_kwargs.get(_CHOSEN, ())
        found = choose_paths(shapes, device, self.print_to_log_file, stored=stored)
        # nnU-Net writes these arguments into every checkpoint, and reads them back
        self.my_init_kwargs = {**self.my_init_kwargs, _CHOSEN: as_json(found, device)}
        empty_cache(device)

    def run_training(self) -> None:
        try:
            super().run_training()
        finally:  # a notebook or a sweep goes on after a failure, and may train this fold again
            self._unlock()

    def on_train_end(self) -> None:
        if self.device.type == "cuda" and self.current_epoch > self.first_epoch:  # else --c had only to validate
            self.print_to_log_file(peak_memory(self.device))
        super().on_train_end()
        self._unlock()

    def _unlock(self) -> None:
        if self.training_lock is not None:
            self.training_lock.release()

    def save_checkpoint(self, filename: str) -> None:
        if self.local_rank != 0:  # nnU-Net calls it in every process, and writes nothing there
            super().save_checkpoint(filename)
            return
        best = Path(filename).name == "checkpoint_best.pth"
        try:
            _patiently(lambda: self._write_checkpoint(filename))
        except PermissionError as error:
            if not _WINDOWS or Path(filename).name not in _WRITTEN_AGAIN:
                raise
            self.print_to_log_file(f"{filename} could not be replaced and is still the one before: {error}")
            if best:
                self._best_ema = self.best_written  # nnU-Net has noted the new one, which no file has
        else:
            if best:
                self.best_written = self._best_ema

    def _write_checkpoint(self, filename: str) -> None:
        with replacing(filename) as partial:  # a training that is killed while it writes keeps its last checkpoint
            super().save_checkpoint(str(partial))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        if not self.was_initialized:
            self.initialize()
        if self.is_ddp:
            dist.barrier()  # process 0 may be writing it still: --val_best would validate different weights
        self.weights_at_start = None  # a training that goes on
        if not isinstance(filename_or_checkpoint, str):
            super().load_checkpoint(filename_or_checkpoint)
            return
        this = Origin(type(self).__name__, self.plans_manager.plans_name, self.configuration_name)
        known = self._bare_network().state_dict()
        checkpoint = check_checkpoint(Path(filename_or_checkpoint), known, this, _config_of)
        self.no_end = why_no_end(Path(filename_or_checkpoint), checkpoint)
        if checkpoint["network_weights"].keys() <= known.keys():
            super().load_checkpoint(filename_or_checkpoint)
        else:
            with TemporaryDirectory() as folder:  # nnU-Net takes files only, and knows none of torch.compile's names
                renamed = Path(folder) / "checkpoint.pth"
                torch.save({**checkpoint, "network_weights": network_weights(checkpoint, known)}, renamed)
                super().load_checkpoint(str(renamed))
        for parameter in self._bare_network().parameters():
            state = self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and has_fewer_axes(value, parameter):
                    state[name] = value.view_as(parameter)


def peak_memory(device: torch.device) -> str:
    """The line of a training's log on what its process has allocated on a GPU."""
    return f"Peak GPU memory: {torch.cuda.max_memory_allocated(device) // 2**20} MiB"


def n_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(p.numel() for p in module.parameters())


def _patiently(write: Callable[[], None]) -> None:
    """Windows replaces no file while another program reads it: nnUNetv2_predict does for seconds, or a backup."""
    for wait in _WAITS:
        try:
            return write()
        except PermissionError:
            time.sleep(wait)
    write()


def _config_of(trainer: str) -> Any:
    """The arguments of a trainer's network beyond upstream's; None for a trainer that is not ours or not found here."""
    try:
        return config_of(find_trainer(trainer))
    except UserError:
        return None
