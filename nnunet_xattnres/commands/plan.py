"""Plans whose networks are ours, for any trainer of nnU-Net's: behind `nnunet-xattnres plan`."""

import copy
import warnings
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import ExistsError, UserError
from nnunet_xattnres.common.files import is_same, write_json
from nnunet_xattnres.networks.registry import OurNetworkError, UnsupportedNetworkError, counterpart, is_ours, kind_of
from nnunet_xattnres.nnunet.plans import read_plans, resolved

# In the place of ``architecture`` before nnU-Net 2.4.
_OLD_KEYS = {
    *("UNet_class_name", "UNet_base_num_features", "unet_max_num_features", "num_pool_per_axis"),
    *("n_conv_per_stage_encoder", "n_conv_per_stage_decoder", "pool_op_kernel_sizes", "conv_kernel_sizes"),
}
_OTHER_FILES = ("dataset", "dataset_fingerprint", "splits_final")  # of nnU-Net's, beside the plans


def plans_with_network(plans: Mapping[str, Any], new_name: str, config: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Plans for the same preprocessed data with another kind of network.

    Args:
        plans: the content of a plans file; it is not changed.
        new_name: the ``plans_name`` of the result.
        config: the arguments of our networks beyond upstream's, such as a ``ReadConfig``.

    Returns:
        The new plans, and for each configuration that has a network of its own, what it is now: our class, or why it
        stays as it was. A configuration that inherits its network follows the one that it inherits from, unless the
        network depends on the patch size and it has its own.

    Raises:
        UserError: when the plans are ours already, of an old format of which nnU-Net itself makes no network, or no
            configuration can have the network.
    """
    old_name = str(plans.get("plans_name", "?"))
    plans = {**plans, "configurations": {name: _in_new_format(plans, name) for name in plans["configurations"]}}
    configurations, outcome = {}, {}
    for name, configuration in plans["configurations"].items():
        configurations[name] = dict(configuration)
        own_patch = "patch_size" in configuration and hasattr(config, "patch_size")
        if "architecture" in configuration or (own_patch and "architecture" in resolved(plans, name)):
            architecture, outcome[name] = _architecture(plans, name, config)
            configurations[name]["architecture"] = architecture
    if not any(map(is_ours, outcome.values())):
        kind = kind_of(config)
        raise UserError(
            f"no configuration of the plans {old_name!r} can have a network of {kind.title}, which supports "
            f"{' and '.join(kind.classes)}. " + "; ".join(f"{name!r} {why}" for name, why in outcome.items())
        )
    return {**plans, "plans_name": new_name, "configurations": configurations}, outcome


def _in_new_format(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration; of plans before nnU-Net 2.4 with the ``architecture`` that nnU-Net makes of it."""
    configuration, whole = plans["configurations"][name], resolved(plans, name)
    if "architecture" in whole or not _OLD_KEYS & configuration.keys():  # of those that it inherits from, then
        return dict(configuration)
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are of the old format
            architecture = ConfigurationManager(copy.deepcopy(whole)).configuration["architecture"]
        kept = {key: value for key, value in configuration.items() if key not in _OLD_KEYS}
        return {**kept, "architecture": architecture}
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"the configuration {name!r} is of an old format, of which nnU-Net makes no network ({error}). Plan anew, "
            "`nnUNetv2_plan_experiment -d DATASET`; the preprocessed data stay."
        ) from None


def _architecture(plans: Mapping[str, Any], name: str, config: Any) -> tuple[Any, str]:
    """The architecture in the place of a configuration's, and what it is."""
    plans_name, configuration = str(plans.get("plans_name", "?")), resolved(plans, name)
    old = configuration["architecture"]
    for key in ("network_class_name", "arch_kwargs"):
        if key not in old:
            raise UserError(f"the plans {plans_name!r} lack {key} in the architecture of the configuration {name!r}")
    try:
        network_class, kwargs = counterpart(
            old["network_class_name"], old["arch_kwargs"], config, plans_name, configuration.get("patch_size")
        )
    except OurNetworkError:
        raise UserError(
            f"the networks of the plans {plans_name!r} are ours already; name those that they were made from with -p"
        ) from None
    except UnsupportedNetworkError:
        return old, f"stays as it is: {old['network_class_name']} has no counterpart of ours"
    return {**old, "network_class_name": network_class, "arch_kwargs": kwargs}, network_class


def write_plans_with_network(
    folder: Path, source: str, target: str, config: Any, force: bool = False
) -> tuple[Path, dict[str, str]]:
    """Write plans with another kind of network beside the plans that they are made from.

    Args:
        folder: a data set's folder in nnUNet_preprocessed.
        source, target: the names of the old plans and of the new.
        config: the arguments of our networks beyond upstream's.
        force: replace plans of that name. Models that were trained on them are then of other plans.

    Returns:
        The new file, and what each configuration's network is now, as ``plans_with_network`` says it.

    Raises:
        UserError: when the old plans cannot have the network, or there are other plans of the name ``target``.
    """
    if not target.strip(". ") or "__" in f"_{target}_" or any(c in '/\\:*?"<>|' or not c.isprintable() for c in target):
        raise UserError(
            f'-o {target!r}: it is the name of the new plans, not a path, without __, _ at either end and /\\:*?"<>|'
        )
    if target.lower() in _OTHER_FILES:
        raise UserError(f"-o {target!r}: nnU-Net keeps something else in {target}.json; name the new plans otherwise")
    path = folder / f"{target}.json"
    if source == target or is_same(path, folder / f"{source}.json"):  # the file system may not tell a from A
        raise UserError(f"the new plans would replace {source!r}; name others with -o")
    plans, outcome = plans_with_network(read_plans(folder / f"{source}.json"), target, config)
    try:
        write_json(plans, path, indent=4, overwrite=force)
    except ExistsError:
        if (there := read_plans(path)) != plans:
            raise UserError(
                f"{path} exists, and is another: {_difference(there, plans)}. A model that was trained on those plans "
                f"would run in a different network. Name the new ones otherwise, for example "
                f"-o {_free_name(folder, target)}, or replace those there with --force."
            ) from None
    return path, outcome


def _difference(there: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Where plans differ first, in words."""
    for name, configuration in new["configurations"].items():
        old = there["configurations"].get(name)
        if old is None:
            return f"it has no configuration {name!r}"
        pairs = [(c.get("architecture", {}).get("arch_kwargs", {})) for c in (old, configuration)]
        for key in dict.fromkeys([*pairs[1], *pairs[0]]):
            if pairs[0].get(key) != pairs[1].get(key):
                return f"in {name!r} {key} is {pairs[0].get(key)!r} there, and would be {pairs[1].get(key)!r}"
        if old != configuration:
            return f"the configuration {name!r} differs"
    return "it differs"


def _free_name(folder: Path, target: str) -> str:
    names = (f"{target}{i}" for i in count(2))
    return next(name for name in names if not (folder / f"{name}.json").exists())
