"""What a trainer trains with, its own loss and optimizer, for steps on noise."""

from collections.abc import Sequence
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor, nn

from nnunet_xattnres.common.measure import Loss
from nnunet_xattnres.training.build import PlannedNetwork


def own_training(
    trainer: type[nnUNetTrainer], planned: PlannedNetwork, network: nn.Module
) -> tuple[Loss, torch.optim.Optimizer]:
    """The loss of ``trainer`` against random labels, as a function of the network's outputs, and its optimizer.

    Args:
        network: on the device on which it is trained.
    """
    own = _without_a_training(
        trainer,
        plans_manager=planned.plans,
        configuration_manager=planned.configuration,
        label_manager=planned.labels,
        network=network,
        device=torch.device(next(network.parameters()).device.type),  # nnU-Net compares it with one without a number
        is_ddp=False,
        enable_deep_supervision=True,
        initial_lr=1e-2,  # of any trainer: time and memory do not depend on it
        weight_decay=3e-5,
        num_epochs=1000,
    )
    loss, (optimizer, _) = own._build_loss(), own.configure_optimizers()
    targets: list[Tensor] = []

    def of(outputs: Sequence[Tensor]) -> Tensor:
        targets.extend(_noise(planned.labels, output) for output in outputs[len(targets) :])
        return loss(outputs, targets)

    return of, optimizer


def is_compiled(trainer: type[nnUNetTrainer], device: torch.device) -> bool:
    """Whether ``trainer`` would compile its network there."""
    return bool(_without_a_training(trainer, device=torch.device(device.type))._do_i_compile())


def _without_a_training(trainer: type[nnUNetTrainer], **attributes: Any) -> Any:
    """A trainer with these attributes and no others: its ``__init__`` would make folders and begin a log."""
    own: Any = object.__new__(trainer)
    vars(own).update(attributes, print_to_log_file=lambda *_, **__: None)
    return own


def _noise(labels: LabelManager, output: Tensor) -> Tensor:
    """Random labels as nnU-Net gives them to a loss: one channel, or one of each region and one of what to ignore."""
    n, heads, *size = output.shape
    if labels.has_regions:
        return torch.rand(n, heads + labels.has_ignore_label, *size, device=output.device) < 0.5
    return torch.randint(heads, (n, 1, *size), dtype=torch.int16, device=output.device)
