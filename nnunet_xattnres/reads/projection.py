"""The projection of a source as a module: a 1x1 convolution in all but its call, which gives its weight (ours)."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


class Projection(_ConvNd):
    """A 1x1 convolution without bias that is called without a map, and returns its weight.

    A read multiplies by the weight wherever that is cheapest, so no map of it ever exists. As the module is called,
    what acts on the weight at a call takes effect: torch.nn.utils.parametrize, torch.nn.utils.prune, forward hooks.
    """

    def forward(self) -> Tensor:
        return self.weight


class Projection2d(Projection, nn.Conv2d):  # type: ignore[misc]
    """Of maps with two spatial axes."""


class Projection3d(Projection, nn.Conv3d):  # type: ignore[misc]
    """Of maps with three spatial axes."""


_OF: dict[type[nn.Module], type[Any]] = {nn.Conv2d: Projection2d, nn.Conv3d: Projection3d}


def make_projection(conv_op: type[_ConvNd], channels: int, target_channels: int) -> Projection:
    """Of ``channels`` to ``target_channels``, for a network of ``nn.Conv2d`` or ``nn.Conv3d``.

    Raises:
        ValueError: for another ``conv_op``.
    """
    for base, projection in _OF.items():
        if issubclass(conv_op, base):
            made: Projection = projection(channels, target_channels, 1, bias=False)
            return made
    raise ValueError(
        f"conv_op is {conv_op.__name__}: a read needs maps of 2 or 3 spatial axes, so nn.Conv2d or nn.Conv3d "
        "(for a single axis, unsqueeze() a second one)"
    )


def as_projection(module: nn.Module) -> nn.Module:
    """A projection in the place of a convolution that was one when it was pickled; any other module as it is."""
    if type(module) in _OF:
        module.__class__ = _OF[type(module)]
    return module


def matrix_of(projection: nn.Module, channels: int, target_channels: int, name: str) -> Tensor:
    """The weight that a projection gives, as (target_channels, channels), checked.

    Raises:
        ValueError: when the module is called otherwise than a projection, or gives something else.
    """
    shape = target_channels, channels
    expected = (
        f"expected a module that is called without arguments and returns its weight, {shape} or that of a 1x1 kernel"
    )
    if not isinstance(projection, Projection) and _wants_a_map(projection):
        raise ValueError(
            f"{name} is a {type(projection).__name__}, which computes a map; {expected}. A read never calls a "
            "projection with a map: change its weight instead, with torch.nn.utils.parametrize (docs/method.md)"
        )
    weight: Any = projection()
    if not isinstance(weight, Tensor) or weight.shape[:2] != shape or any(n != 1 for n in weight.shape[2:]):
        found = f"the shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else f"a {type(weight).__name__}"
        raise ValueError(f"{name} gave {found}; {expected}")
    return weight.flatten(1)


def _wants_a_map(module: nn.Module) -> bool:
    try:
        inspect.signature(module.forward).bind()
    except TypeError:
        return True
    return False
