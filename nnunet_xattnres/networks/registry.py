"""What a network of nnU-Net's becomes: every kind of network that we build, and what plans call it.

A new kind is one line in ``KINDS``. Nothing here imports torch: plans are written, and trainers found, without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.networks.configs import BlockConfig, ReadConfig, UCTransNetConfig, UNet3PlusConfig

# nnU-Net has moved its architectures between modules before, so the class counts and the module only as far as the
# library.
_UPSTREAM_LIBRARY = "dynamic_network_architectures"


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        title: what messages call it.
        config: the class of its arguments beyond upstream's, a dataclass; it tells which kind is meant. Where it has a
            ``patch_size`` that is None, that of the plans is taken.
        classes: for each of upstream's classes ours, as plans name it. A name that was published stays.
        plans_name: what plans with this network are called, if nobody calls them otherwise.
    """

    title: str
    config: type
    classes: Mapping[str, str]
    plans_name: str


def _pair(plain: str, residual: str) -> dict[str, str]:
    return {"PlainConvUNet": f"nnunet_xattnres.{plain}", "ResidualEncoderUNet": f"nnunet_xattnres.{residual}"}


KINDS = {
    "xattnres": Kind(
        "XAttnRes", ReadConfig, _pair("unet.XAttnResUNet", "unet.XAttnResResidualEncoderUNet"), "nnUNetXAttnResPlans"
    ),
    "block": Kind(
        "block-level XAttnRes",
        BlockConfig,
        _pair("networks.block_unet.XAttnResBlockUNet", "networks.block_unet.XAttnResBlockResidualEncoderUNet"),
        "nnUNetXAttnResBlockPlans",
    ),
    "unet3plus": Kind(
        "UNet 3+",
        UNet3PlusConfig,
        _pair("networks.unet3plus.UNet3Plus", "networks.unet3plus.ResidualEncoderUNet3Plus"),
        "nnUNetUNet3PlusPlans",
    ),
    "uctransnet": Kind(
        "UCTransNet",
        UCTransNetConfig,
        _pair("networks.uctransnet.UCTransNet", "networks.uctransnet.ResidualEncoderUCTransNet"),
        "nnUNetUCTransNetPlans",
    ),
}


class UnsupportedNetworkError(UserError, ValueError):
    """The plans ask for a network that has no counterpart of ours."""


class OurNetworkError(UserError, ValueError):
    """The plans ask for one of our networks already."""


def kind_of(config: Any) -> Kind:
    """The kind whose network has these arguments."""
    return next(kind for kind in KINDS.values() if kind.config is type(config))


def option_of(argument: str) -> str:
    """What `nnunet-xattnres plan` calls an argument of our networks."""
    return {"encoder_reads": "--decoder-reads-only"}.get(argument, "--" + argument.replace("_", "-"))


def plan_options(config: Any) -> list[str] | None:
    """What `nnunet-xattnres plan` is given for a network with these arguments; None if plans cannot have it."""
    name = next((name for name, kind in KINDS.items() if kind.config is type(config)), None)
    if name is None:
        return None
    options, usual = [] if name == "xattnres" else ["--network", name], type(config)()
    for argument, value in asdict(config).items():
        if value != getattr(usual, argument) and argument != "patch_size":  # that is the plans' own
            options += [option_of(argument)] if isinstance(value, bool) else [option_of(argument), str(value)]
    return options


def config_in(architecture: Mapping[str, Any]) -> Any:
    """The arguments beyond upstream's of a network that plans ask for, but for the patch size; None if it is not ours.

    Args:
        architecture: of a configuration of the plans.
    """
    name, given = architecture.get("network_class_name", ""), architecture.get("arch_kwargs", {})
    kind = next((kind for kind in KINDS.values() if name in kind.classes.values()), None)
    if kind is None:
        return None
    own = kind.config.__dataclass_fields__.keys() - {"patch_size"}  # type: ignore[attr-defined]
    return kind.config(**{key: given[key] for key in own if key in given})


def is_ours(network_class_name: str) -> bool:
    """Whether plans with this ``network_class_name`` ask for a network of ours."""
    return any(network_class_name in kind.classes.values() for kind in KINDS.values())


def refuse_ours(network_class_name: str, plans_name: str) -> None:
    """Raise OurNetworkError, for a trainer of ours, when plans ask for a network of ours."""
    if is_ours(network_class_name):
        raise OurNetworkError(
            f"the plans {plans_name!r} ask for {network_class_name!r}: their network is one of ours already. Drop one "
            f"of the two: train these plans with a trainer of nnU-Net (`-tr nnUNetTrainer`), or train the plans that "
            f"they were made from with this one."
        )


def counterpart(
    network_class_name: str,
    arch_kwargs: Mapping[str, Any],
    config: Any,
    plans_name: str,
    patch_size: Sequence[int] | None = None,
) -> tuple[str, dict[str, Any]]:
    """The class and the arguments of our network in the place of those that plans ask for.

    Args:
        network_class_name, arch_kwargs: as in the ``architecture`` of a configuration; they are not changed.
        config: the arguments of our network beyond upstream's; its class is the ``config`` of one of ``KINDS``.
        plans_name: what errors call the plans.
        patch_size: of the configuration, for networks that depend on it.

    Raises:
        UnsupportedNetworkError: for a network class that has no counterpart of this kind.
        OurNetworkError: when the class is one of ours.
    """
    kind = kind_of(config)
    refuse_ours(network_class_name, plans_name)
    library, _, class_name = network_class_name.rpartition(".")
    if class_name not in kind.classes or library.partition(".")[0] != _UPSTREAM_LIBRARY:
        raise UnsupportedNetworkError(
            f"the plans {plans_name!r} ask for the network class {network_class_name!r} (network_class_name). "
            f"{kind.title} supports {' and '.join(kind.classes)}: plan with nnUNetPlanner or a nnUNetPlannerResEnc, "
            f"for example `nnUNetv2_plan_experiment -d DATASET -pl nnUNetPlannerResEncM`."
        )
    own = asdict(config)
    if "patch_size" in own and own["patch_size"] is None and patch_size is not None:
        own["patch_size"] = [int(n) for n in patch_size]
    return kind.classes[class_name], {**arch_kwargs, **own}
