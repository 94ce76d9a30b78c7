"""From plans to a network: the one place where that happens."""

import inspect
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_xattnres.common.errors import UserError, words_of
from nnunet_xattnres.networks.registry import counterpart


class PlansError(UserError, ValueError):
    """Plans whose arguments do not make a network."""


def build_network(
    plans_manager: PlansManager,
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    enable_deep_supervision: bool = True,
    *,
    config: Any,
) -> nn.Module:
    """Our network in the place of the one that the plans describe.

    Args:
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision: as in
            nnU-Net's ``build_network_architecture``.
        config: the arguments of our network beyond upstream's, such as a ``ReadConfig``; it says which kind it is.

    Raises:
        UserError, ValueError: when the plans name a network class that has no counterpart of ours, or their arguments
            do not make a network.
    """
    network_class, arch_kwargs = counterpart(
        configuration_manager.network_arch_class_name,
        configuration_manager.network_arch_init_kwargs,
        config,
        plans_manager.plans_name,
        configuration_manager.patch_size,
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
        raise PlansError(
            f"the plans {plans_manager.plans_name!r} do not make a network: with their arch_kwargs, "
            f"{network_class} raises {type(error).__name__}: {error}"
        ) from error


def architecture(config: Any, build: Callable[..., nn.Module] = build_network) -> Any:
    """A trainer's ``build_network_architecture``: static, with nnU-Net's parameters and no others.

    Args:
        config: the arguments of the network beyond those.
        build: makes it, with the arguments of ``build_network``.
    """

    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        return build(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            config=config,
        )

    build_network_architecture.config = config  # type: ignore[attr-defined]
    return staticmethod(build_network_architecture)


def config_of(trainer: type[nnUNetTrainer]) -> Any:
    """The ``config`` that ``architecture`` was given for a trainer; None where its network is built otherwise."""
    return getattr(trainer.build_network_architecture, "config", None)


@dataclass(frozen=True)
class PlannedNetwork:
    """What a configuration of plans says of the network for a data set.

    Attributes:
        n_inputs: channels.
        labels: of the data set; the network has a channel for each, or for each region.
    """

    plans: PlansManager
    configuration: ConfigurationManager
    n_inputs: int
    labels: LabelManager

    @classmethod
    def of(cls, plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str) -> "PlannedNetwork":
        """From the contents of a plans file and of a dataset.json, which are not changed.

        Raises:
            PlansError: when the plans have no such configuration, or one of which nnU-Net makes no network.
        """
        manager = PlansManager(deepcopy(dict(plans)))
        try:
            planned = manager.get_configuration(configuration)
        except (KeyError, RuntimeError, ValueError) as error:  # what nnU-Net raises
            raise PlansError(
                f"nnU-Net makes no network of the configuration {configuration!r} of the plans "
                f"{plans.get('plans_name', '?')!r}: {words_of(error)}"
            ) from error
        n_inputs = determine_num_input_channels(manager, planned, dict(dataset))
        return cls(manager, planned, n_inputs, manager.get_label_manager(dataset))

    def build(self, trainer: type[nnUNetTrainer], deep_supervision: bool = True) -> nn.Module:
        """The network that ``trainer`` trains; as nnU-Net it takes both signatures that its trainers have had."""
        build, planned = trainer.build_network_architecture, self.configuration
        channels = self.n_inputs, self.labels.num_segmentation_heads
        if "plans_manager" in inspect.signature(build).parameters:
            return build(self.plans, planned, *channels, deep_supervision)
        return build(
            planned.network_arch_class_name,
            planned.network_arch_init_kwargs,
            planned.network_arch_init_kwargs_req_import,
            *channels,
            deep_supervision,
        )

    def noise(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """Random images of the plan's patch size, (batch, n_inputs, *patch)."""
        return torch.randn(batch, self.n_inputs, *self.configuration.patch_size, device=device)
