"""What a trainer looks at before it trains: which network it has, what of it is trained, what was loaded into it."""

from collections.abc import Iterable

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.optim import Optimizer

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.shell import command
from nnunet_xattnres.networks.registry import kind_of, plan_options
from nnunet_xattnres.training.build import config_of

_BUILDS = "build_network_architecture"
Sums = dict[str, tuple[float, float]]


def refuse_two_networks(trainer: type[nnUNetTrainer]) -> None:
    """Refuse a trainer with two ancestors that both build the network: the second one's would be left out silently.

    A class that builds the network itself, from what its ancestors build or anew, is none of these.

    Raises:
        UserError: with the classes, and the plans on which they combine, if any can have the network.
    """
    builders = [c for c in trainer.__mro__ if _BUILDS in vars(c) and c is not nnUNetTrainer]
    left_out = [c for c in builders if not issubclass(builders[0], c)]
    if left_out:
        first, second = builders[0], left_out[0]
        by_plans = _by_plans(first, second) or _by_plans(second, first)
        neither = f"They cannot be combined: take one of them, or let {trainer.__name__} build the network itself."
        raise UserError(
            f"{trainer.__name__} has two ancestors that build the network, {first.__name__} and {second.__name__}; "
            f"only the first one's would be used. {by_plans or neither}"
        )


def _by_plans(ours: type[nnUNetTrainer], other: type[nnUNetTrainer]) -> str:
    """How to train the network of ``ours`` with ``other``; empty where plans cannot have it, or it is not ours."""
    config, options = config_of(ours), plan_options(config_of(ours))
    if options is None or config_of(other) is not None:
        return ""
    plan = command("nnunet-xattnres", "plan", "-d", "DATASET", "-p", "PLANS", *options)
    train = command("-tr", other.__name__, "-p", kind_of(config).plans_name)
    return f"Take the network of {ours.__name__} from plans: `{plan}`, then train with `{train}`."


def untrained(network: nn.Module, optimizer: Optimizer) -> str | None:
    """A line about the trainable parameters that are in no group of the optimizer; None if there are none."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = {name: p for name, p in network.named_parameters() if p.requires_grad and id(p) not in trained}
    if not missing:
        return None
    n, parts = sum(p.numel() for p in missing.values()), ", ".join(_parts(missing))
    return (
        f"NOT TRAINED: {n:,} numbers are in no group of the optimizer and stay as they are: {parts}. "
        f"A network with reads has network.encoder, network.decoder and network.reads."
    )


def sums(network: nn.Module) -> Sums:
    """Of every parameter, its sum and that of its squares: enough to see whether it was changed."""
    named = dict(network.named_parameters())
    if not named:
        return {}
    with torch.no_grad():
        found = torch.stack([torch.stack((p.float().sum(), p.float().square().sum())) for p in named.values()])
    return {name: (a, b) for name, (a, b) in zip(named, found.tolist(), strict=True)}


def loaded(network: nn.Module, before: Sums) -> str | None:
    """A line about what was put into the network since ``before``, and what is new; None if nothing was."""
    now = sums(network)
    changed = _parts(name for name in now if name in before and now[name] != before[name])
    if not changed:
        return None
    rest = [part for part in _parts(now) if part not in changed]
    new = f"new, as initialised: {', '.join(rest)}" if rest else "nothing is new"
    return f"This training starts from weights that were loaded: {', '.join(changed)}; {new}"


def _parts(names: Iterable[str]) -> list[str]:
    """The modules of parameters, such as encoder.stages, reads.e3."""
    return list(dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in names))
