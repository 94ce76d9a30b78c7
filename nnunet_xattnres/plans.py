"""Plans that ask for our networks: what a trainer builds, and what `nnunet-xattnres plan` writes."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_xattnres.errors import UserError
from nnunet_xattnres.files import replacing
from nnunet_xattnres.unet import check_reads


@dataclass(frozen=True)
class Reads:
    """The arguments of our networks beyond upstream's; ``nnunet_xattnres.unet.XAttnResUNet`` says what they do.

    Raises:
        UserError: for values, or a pair of them, that no network can have.
    """

    skip_mode: str = "add"
    encoder_reads: bool = True
    read_gate: str = "none"

    def __post_init__(self) -> None:
        try:
            check_reads(self.skip_mode, self.read_gate)
        except ValueError as error:
            raise UserError(str(error)) from None

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


REPEAT = re.compile(r"_rep\d+$")  # at the end of the name of plans that `nnunet-xattnres repeat` wrote

# What we build for the plan's network_class_name. nnU-Net has moved its architectures between modules before, so the
# class counts and the module only as far as the library.
_UPSTREAM_LIBRARY = "dynamic_network_architectures"
_NETWORK_FOR = {
    "PlainConvUNet": "nnunet_xattnres.unet.XAttnResUNet",
    "ResidualEncoderUNet": "nnunet_xattnres.unet.XAttnResResidualEncoderUNet",
}


class UnsupportedNetworkError(UserError, ValueError):
    """The plans ask for a network that has no counterpart with reads."""


class HasReadsError(UserError, ValueError):
    """The plans ask for one of our networks already."""


def with_reads(
    network_class_name: str, arch_kwargs: Mapping[str, Any], reads: Reads, plans_name: str
) -> tuple[str, dict[str, Any]]:
    """The class and the arguments of our network in the place of those that plans ask for.

    Args:
        network_class_name, arch_kwargs: as in the ``architecture`` of a configuration; they are not changed.
        reads: the arguments of our network beyond upstream's.
        plans_name: what errors call the plans.

    Raises:
        UnsupportedNetworkError: for a network class other than PlainConvUNet and ResidualEncoderUNet.
        HasReadsError: when the class is one of ours.
    """
    if network_class_name in _NETWORK_FOR.values():
        raise HasReadsError(
            f"the plans {plans_name!r} ask for {network_class_name!r}: their network has reads already. Drop one of "
            f"the two: train these plans with a trainer of nnU-Net (`-tr nnUNetTrainer`), or train the plans that they "
            f"were made from with this one (`-p nnUNetPlans`)."
        )
    library, _, class_name = network_class_name.rpartition(".")
    if class_name not in _NETWORK_FOR or library.partition(".")[0] != _UPSTREAM_LIBRARY:
        raise UnsupportedNetworkError(
            f"the plans {plans_name!r} ask for the network class {network_class_name!r} (network_class_name). XAttnRes "
            f"supports {' and '.join(_NETWORK_FOR)}: plan with nnUNetPlanner or a nnUNetPlannerResEnc, for example "
            f"`nnUNetv2_plan_experiment -d DATASET -pl nnUNetPlannerResEncM`."
        )
    return _NETWORK_FOR[class_name], {**arch_kwargs, **asdict(reads)}


def plans_with_reads(plans: Mapping[str, Any], new_name: str, reads: Reads) -> tuple[dict[str, Any], dict[str, str]]:
    """Plans for the same preprocessed data whose networks have reads.

    Args:
        plans: the content of a plans file; it is not changed.
        new_name: the ``plans_name`` of the result.
        reads: the arguments of our networks beyond upstream's.

    Returns:
        The new plans, and for each configuration that has a network of its own, what it is now: our class, or why it
        stays as it was. A configuration that inherits its network follows the one that it inherits from.

    Raises:
        UserError: when the plans are of nnU-Net's old format, have reads already, or no configuration can have them.
    """
    old_name = str(plans.get("plans_name", "?"))
    configurations, outcome = {}, {}
    for name, configuration in plans["configurations"].items():
        configurations[name] = dict(configuration)
        if "UNet_class_name" in configuration:
            raise UserError(
                f"the plans {old_name!r} are of an old format: the configuration {name!r} has UNet_class_name in the "
                f"place of architecture. Plan anew, `nnUNetv2_plan_experiment -d DATASET`; the preprocessed data stay."
            )
        if "architecture" not in configuration:
            continue
        architecture = configuration["architecture"]
        for key in ("network_class_name", "arch_kwargs"):
            if key not in architecture:
                raise UserError(f"the plans {old_name!r} lack {key} in the architecture of the configuration {name!r}")
        try:
            network_class, kwargs = with_reads(
                architecture["network_class_name"], architecture["arch_kwargs"], reads, old_name
            )
        except HasReadsError:
            raise UserError(
                f"the plans {old_name!r} have reads already; name those that they were made from with -p"
            ) from None
        except UnsupportedNetworkError:
            outcome[name] = f"stays as it is: {architecture['network_class_name']} has no counterpart with reads"
            continue
        configurations[name]["architecture"] = {
            **architecture,
            "network_class_name": network_class,
            "arch_kwargs": kwargs,
        }
        outcome[name] = network_class
    if not set(outcome.values()) & set(_NETWORK_FOR.values()):
        raise UserError(
            f"no configuration of the plans {old_name!r} can have reads: XAttnRes supports "
            f"{' and '.join(_NETWORK_FOR)}. " + "; ".join(f"{name!r} {why}" for name, why in outcome.items())
        )
    return {**plans, "plans_name": new_name, "configurations": configurations}, outcome


def read_plans(path: Path) -> dict[str, Any]:
    """The content of a plans file.

    Raises:
        UserError: when the file is missing or no plans file.
    """
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = sorted(file.stem for file in path.parent.glob("*Plans*.json"))
        hint = f"; in that folder there are: {', '.join(there)}" if there else ""
        raise UserError(f"{path} does not exist{hint}. Plan with `nnUNetv2_plan_experiment`, or name others.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as plans: {error}") from None
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise UserError(f"{path} is no plans file: it has no 'configurations'")
    return plans


def write_plans_with_reads(folder: Path, source: str, target: str, reads: Reads) -> tuple[Path, dict[str, str]]:
    """Write plans with reads beside the plans that they are made from.

    Args:
        folder: a data set's folder in nnUNet_preprocessed.
        source, target: the names of the old plans and of the new.
        reads: the arguments of our networks beyond upstream's.

    Returns:
        The new file, and what each configuration's network is now, as ``plans_with_reads`` says it.

    Raises:
        UserError: when the old plans cannot have reads, or ``target`` names plans that were not made here.
    """
    path = folder / f"{target}.json"
    if source == target:
        raise UserError(f"the new plans would replace {source!r}; name others with -o")
    plans, outcome = plans_with_reads(read_plans(folder / f"{source}.json"), target, reads)
    if path.exists() and not _has_reads(read_plans(path)):
        raise UserError(f"{path} exists and is not of our making; name others with -o")
    with replacing(path) as partial:
        partial.write_text(json.dumps(plans, indent=4) + "\n", encoding="utf-8")
    return path, outcome


def write_repeats(folder: Path, source: str, number: int) -> list[Path]:
    """Write copies of plans under new names, ``source_rep1`` and on: trainings on them get folders of their own.

    Args:
        folder: a data set's folder in nnUNet_preprocessed.
        source: the name of the plans.
        number: how many copies.

    Raises:
        UserError: when the plans are missing, are a copy themselves, or a file of another content has a copy's name.
    """
    plans = read_plans(folder / f"{source}.json")
    if REPEAT.search(source):
        raise UserError(f"{source!r} is a repeat already; name the plans that it was made from")
    copies = {
        folder / f"{source}_rep{i}.json": {**plans, "plans_name": f"{source}_rep{i}"} for i in range(1, number + 1)
    }
    for path, copy in copies.items():
        if path.exists() and read_plans(path) != copy:
            raise UserError(f"{path} exists and is no copy of {source}; move it away first")
    for path, copy in copies.items():
        with replacing(path) as partial:
            partial.write_text(json.dumps(copy, indent=4) + "\n", encoding="utf-8")
    return list(copies)


def _has_reads(plans: Mapping[str, Any]) -> bool:
    architectures = [c["architecture"] for c in plans["configurations"].values() if "architecture" in c]
    return any(a.get("network_class_name") in _NETWORK_FOR.values() for a in architectures)
