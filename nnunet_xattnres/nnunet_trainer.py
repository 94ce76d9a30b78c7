"""The trainers. Each is nnU-Net's own with another network; nothing else of the training is touched.

This is the one module of the core that imports nnunetv2.
"""

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_xattnres.unet import XAttnResResidualEncoderUNet, XAttnResUNet

# What we build for the plan's network_class_name. nnU-Net has moved its architectures between modules before, so the
# class counts and the module only as far as the library.
_UPSTREAM_LIBRARY = "dynamic_network_architectures"
_NETWORK_FOR = {"PlainConvUNet": XAttnResUNet, "ResidualEncoderUNet": XAttnResResidualEncoderUNet}


def build_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
    *,
    skip_mode: str,
    encoder_reads: bool = True,
) -> nn.Module:
    """The network that the plans describe, with reads.

    The parameters before ``skip_mode`` are those of nnU-Net's ``build_network_architecture``, the others the network's.

    Raises:
        ValueError: when the plans name a network class other than PlainConvUNet and ResidualEncoderUNet.
    """
    planned = configuration_manager.network_arch_class_name
    library, _, class_name = planned.rpartition(".")
    if class_name not in _NETWORK_FOR or library.partition(".")[0] != _UPSTREAM_LIBRARY:
        supported = " and ".join(_NETWORK_FOR)
        raise ValueError(
            f"the plans {plans_manager.plans_name!r} ask for the network class {planned!r} (network_class_name). The "
            f"XAttnRes trainers support {supported}: plan with nnUNetPlanner or a nnUNetPlannerResEnc, "
            f"for example `nnUNetv2_plan_experiment -d DATASET -pl nnUNetPlannerResEncM`."
        )
    network_class = _NETWORK_FOR[class_name]
    return get_network_from_plans(
        f"{network_class.__module__}.{network_class.__qualname__}",
        {
            **configuration_manager.network_arch_init_kwargs,
            "skip_mode": skip_mode,
            "encoder_reads": encoder_reads,
        },
        configuration_manager.network_arch_init_kwargs_req_import,
        num_input_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=enable_deep_supervision,
    )


def _architecture(skip_mode: str, encoder_reads: bool = True) -> Any:
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
            skip_mode=skip_mode,
            encoder_reads=encoder_reads,
        )

    return staticmethod(build_network_architecture)


class _TrainerWithReads(nnUNetTrainer):
    """Logs what the reads cost in parameters."""

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
        network = self.network.module if self.is_ddp else self.network
        network = getattr(network, "_orig_mod", network)  # torch.compile's wrapper
        n_plain, n_reads, n_all = map(_n_parameters, (plain, network.reads, network))
        line = f"Parameters: plain network {n_plain:,}, reads {n_reads:,} (+{n_reads / n_plain:.2%})"
        if n_all != n_plain + n_reads:
            line += f", this network {n_all:,} ({n_all / n_plain - 1:+.2%})"
        return line


def _n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class nnUNetTrainerXAttnRes(_TrainerWithReads):
    """Skip + read, in encoder and decoder: the paper's "XAttnRes + skip"."""

    build_network_architecture = _architecture("add")


class nnUNetTrainerXAttnResReplace(_TrainerWithReads):
    """The read replaces the skip: the paper's "XAttnRes"."""

    build_network_architecture = _architecture("replace")


class nnUNetTrainerXAttnResDecoderReads(_TrainerWithReads):
    """Skip + read in the decoder; the encoder is nnU-Net's, as the paper does with EMCAD."""

    build_network_architecture = _architecture("add", encoder_reads=False)


class nnUNetTrainerNoSkip(_TrainerWithReads):
    """No skip and no read: the paper's ablation "No Skip"."""

    build_network_architecture = _architecture("none")


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
