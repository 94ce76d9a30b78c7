"""The trainers of the studies: nnU-Net's and ours, as long as the plans say, and controls."""

import os
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim import Optimizer

from benchmarks.study.folders import class_name
from nnunet_xattnres import nnunet_trainer as ours
from nnunet_xattnres.common.files import remove_partials, replacing
from nnunet_xattnres.training import comparators, emcad
from nnunet_xattnres.training.base import GuardedTrainer, peak_memory


class nnUNetTrainerDoubleLR(nnUNetTrainer):
    """A control: the plain network with twice nnU-Net's learning rate."""

    def initialize(self) -> None:
        if not self.was_initialized:
            self.initial_lr *= 2
        super().initialize()


class nnUNetTrainerXAttnResDoubleLR(nnUNetTrainerDoubleLR, ours.nnUNetTrainerXAttnRes):
    """A control: skip + read with twice nnU-Net's learning rate."""


class nnUNetTrainerXAttnResReplaceDoubleLR(nnUNetTrainerDoubleLR, ours.nnUNetTrainerXAttnResReplace):
    """A control: read alone with twice nnU-Net's learning rate."""


class nnUNetTrainerWarmUp(nnUNetTrainer):
    """A control: the plain network, the learning rate rising from zero over the first tenth of the epochs."""

    def configure_optimizers(self) -> tuple[Optimizer, PolyLRScheduler]:
        optimizer, _ = super().configure_optimizers()
        return optimizer, _PolyLRWithWarmUp(optimizer, self.initial_lr, self.num_epochs)


class _PolyLRWithWarmUp(PolyLRScheduler):
    def step(self, current_step: int | None = None) -> None:
        super().step(current_step)
        epoch = self.ctr if current_step is None else current_step
        rise = min(1.0, (max(epoch, 0) + 1) / (1 + self.max_steps // 10))
        for group in self.optimizer.param_groups:
            group["lr"] *= rise
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _scheduled(trainer: type[nnUNetTrainer]) -> type[nnUNetTrainer]:
    """``trainer`` for a training as long as the plans' ``study`` says, that can be killed at any moment."""

    # nnU-Net reads the names of these parameters
    def __init__(  # noqa: N807
        self: Any,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super(scheduled, self).__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu" and "OMP_NUM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # nnU-Net's command has set all cores
        schedule = self.plans_manager.plans["study"]
        self.num_epochs = schedule["epochs"]
        self.num_iterations_per_epoch = schedule["iterations"]
        self.num_val_iterations_per_epoch = schedule["validation_iterations"]
        self.save_every = max(1, self.num_epochs // 10)
        self.logger.plot_progress_png = lambda _: None  # it takes a fifth of so short an epoch; curves.png shows more

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self: Any) -> Any:  # noqa: N802
        found = super(scheduled, self).configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.plans_manager.plans["study"]["mirroring"]:
            self.inference_allowed_mirroring_axes = None  # the training still mirrors
        return found

    def on_train_start(self: Any) -> None:
        if self.local_rank == 0:
            remove_partials(Path(self.output_folder))  # a study trains a fold once at a time
        super(scheduled, self).on_train_start()

    def on_train_end(self: Any) -> None:
        if self.device.type == "cuda" and not isinstance(self, GuardedTrainer):  # ours say so themselves
            self.print_to_log_file(peak_memory(self.device))
        super(scheduled, self).on_train_end()

    def save_checkpoint(self: Any, filename: str) -> None:
        if self.local_rank != 0:
            super(scheduled, self).save_checkpoint(filename)
            return
        with replacing(Path(filename)) as partial:  # as in our own trainers
            super(scheduled, self).save_checkpoint(str(partial))

    name = class_name(trainer.__name__)
    ends = (on_train_start, on_train_end, save_checkpoint)
    methods = (__init__, configure_rotation_dummyDA_mirroring_and_inital_patch_size, *ends)
    namespace = {"__module__": __name__, "__doc__": trainer.__doc__, **{method.__name__: method for method in methods}}
    scheduled: type[nnUNetTrainer] = type(name, (trainer,), namespace)
    return scheduled


TRAINERS = {
    trainer.__name__: _scheduled(trainer)
    for trainer in (
        nnUNetTrainer,
        ours.nnUNetTrainerXAttnRes,
        ours.nnUNetTrainerXAttnResReplace,
        ours.nnUNetTrainerXAttnResDecoderReads,
        ours.nnUNetTrainerXAttnResGated,
        ours.nnUNetTrainerNoSkip,
        comparators.nnUNetTrainerUNet3Plus,
        comparators.nnUNetTrainerUCTransNet,
        comparators.nnUNetTrainerXAttnResBlock,
        emcad.nnUNetTrainerEMCAD,
        emcad.nnUNetTrainerEMCADXAttnRes,
        nnUNetTrainerWarmUp,
        nnUNetTrainerDoubleLR,
        nnUNetTrainerXAttnResDoubleLR,
        nnUNetTrainerXAttnResReplaceDoubleLR,
    )
}
globals().update({trainer.__name__: trainer for trainer in TRAINERS.values()})
__all__ = [trainer.__name__ for trainer in TRAINERS.values()]
