"""The trainers of EMCAD: nnU-Net's data and epochs; the network, the loss and the optimizer of the paper.

There is no plans route to this network, and so no line in ``networks.registry``: nnU-Net's trainers give each head a
target of the plan's size, and all of this network's heads are at full size.
"""

import os
from dataclasses import asdict
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.shell import export, unset
from nnunet_xattnres.networks.configs import EMCADConfig
from nnunet_xattnres.networks.registry import refuse_ours
from nnunet_xattnres.ops.choice import CUSTOM_OPS
from nnunet_xattnres.training.base import GuardedTrainer
from nnunet_xattnres.training.build import architecture
from nnunet_xattnres.training.checks import sums
from nnunet_xattnres.training.emcad_loss import EMCADLoss
from nnunet_xattnres.training.routing_log import RoutingLogTrainer

WEIGHTS = "NNUNET_XATTNRES_PVT_WEIGHTS"


def build_emcad(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
    *,
    config: EMCADConfig,
) -> nn.Module:
    """EMCAD with random weights: nothing is fetched.

    Raises:
        UserError: for a configuration that is not two-dimensional.
        OurNetworkError: when the plans ask for a network of ours.
    """
    patch = list(configuration_manager.patch_size)
    if len(patch) != 2:
        raise UserError(
            f"EMCAD is a network for 2D images, and this configuration has patches of {patch}. Take the "
            f"configuration 2d."
        )
    refuse_ours(configuration_manager.network_arch_class_name, plans_manager.plans_name)
    from nnunet_xattnres.networks.emcad import EMCAD  # with timm, which finding a trainer needs not

    return EMCAD(num_input_channels, num_output_channels, enable_deep_supervision, **asdict(config))


class EMCADTrainer(GuardedTrainer):
    """What all of them share. For nnU-Net's loss, override ``_build_loss`` with its own: all heads stay at full size.

    Attributes:
        pretrained: whether the encoder starts with weights from ImageNet.
        no_weights: why it has none though it should; None where all is well.
    """

    pretrained = True
    no_weights: str | None = None
    _may_fetch = True

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.weight_decay = 1e-4

    def _do_i_compile(self) -> bool:
        """Not where its network cannot be compiled, or nnU-Net's own loss would give the outputs other weights."""
        return CUSTOM_OPS and bool(super()._do_i_compile())

    def configure_optimizers(self) -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, exponent=0)  # a constant rate

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        return [[1.0, 1.0]] * 4 if self.enable_deep_supervision else None

    def _build_loss(self) -> nn.Module:
        return EMCADLoss(self.label_manager.has_regions, self.label_manager.ignore_label)

    def initialize(self) -> None:
        super().initialize()
        if self.pretrained:
            self.no_weights = self._take_weights() if self._may_fetch else "a checkpoint was to be loaded, and was not"

    def _take_weights(self) -> str | None:
        """Put weights from ImageNet into the encoder; or why that failed."""
        from nnunet_xattnres.networks.emcad import EMCAD, pretrained_encoder

        file, network = os.environ.get(WEIGHTS) or None, self._bare_network()
        try:
            emcad = next(module for module in network.modules() if isinstance(module, EMCAD))
            emcad.encoder.load_state_dict(pretrained_encoder(emcad.encoder_name, file), strict=True)
        except Exception as error:  # of files, of the network, of timm; the training decides whether it needs them
            return f"{file or 'timm'}: {type(error).__name__}: {error}"
        self.print_to_log_file(f"{emcad.encoder_name} has weights from ImageNet, from {file or 'timm'}")
        self.weights_at_start = sums(network)
        return None

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        self._may_fetch = False  # it has weights; --c and --val build the network here
        super().load_checkpoint(filename_or_checkpoint)
        self.no_weights = None

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        if self.no_weights is not None and not self._encoder_was_loaded():
            raise UserError(
                f"{type(self).__name__} needs weights from ImageNet for its encoder, and there are none "
                f"({self.no_weights}). Either give them as a file, `{export(WEIGHTS, 'FILE')}` (timm's format or that "
                f"of PVTv2's authors), or let timm fetch them: `{unset(WEIGHTS)}`, with a connection to huggingface.co "
                f"or with its cache filled. Without them it is another method: the trainers ...RandomInit."
            )
        super().on_train_start()

    def _encoder_was_loaded(self) -> bool:
        """Whether its weights have changed since the start, as by -pretrained_weights."""
        before, now = self.weights_at_start or {}, sums(self._bare_network())
        return any(".encoder." in f".{name}" and now[name] != before[name] for name in before.keys() & now.keys())


class nnUNetTrainerEMCAD(EMCADTrainer):
    """EMCAD with PVTv2-b2, 2D."""

    build_network_architecture = architecture(EMCADConfig(), build_emcad)


class nnUNetTrainerEMCADXAttnRes(EMCADTrainer, RoutingLogTrainer):
    """EMCAD with PVTv2-b2 and reads in the decoder: the paper's "EMCAD + XAttnRes"."""

    build_network_architecture = architecture(EMCADConfig(reads=True), build_emcad)


class nnUNetTrainerEMCADB0(EMCADTrainer):
    """EMCAD with the small encoder PVTv2-b0."""

    build_network_architecture = architecture(EMCADConfig("pvt_v2_b0"), build_emcad)


class nnUNetTrainerEMCADB0XAttnRes(EMCADTrainer, RoutingLogTrainer):
    """EMCAD with PVTv2-b0 and reads in the decoder."""

    build_network_architecture = architecture(EMCADConfig("pvt_v2_b0", reads=True), build_emcad)


class nnUNetTrainerEMCADRandomInit(nnUNetTrainerEMCAD):
    """Without weights from ImageNet: another method, and no row of EMCAD's."""

    pretrained = False


class nnUNetTrainerEMCADXAttnResRandomInit(nnUNetTrainerEMCADXAttnRes):
    """Without weights from ImageNet."""

    pretrained = False


class nnUNetTrainerEMCADB0RandomInit(nnUNetTrainerEMCADB0):
    """Without weights from ImageNet."""

    pretrained = False


class nnUNetTrainerEMCADB0XAttnResRandomInit(nnUNetTrainerEMCADB0XAttnRes):
    """Without weights from ImageNet."""

    pretrained = False


EMCAD_TRAINERS = (
    nnUNetTrainerEMCAD,
    nnUNetTrainerEMCADXAttnRes,
    nnUNetTrainerEMCADB0,
    nnUNetTrainerEMCADB0XAttnRes,
    nnUNetTrainerEMCADRandomInit,
    nnUNetTrainerEMCADXAttnResRandomInit,
    nnUNetTrainerEMCADB0RandomInit,
    nnUNetTrainerEMCADB0XAttnResRandomInit,
)
