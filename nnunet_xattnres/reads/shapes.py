"""The shapes of a network's reads, found without computing anything."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_xattnres.ops.shapes import ReadShape

_OPERATOR = "nnunet_xattnres::history_read"


class _Watch(TorchDispatchMode):
    """Notes the shape of every read that the operator computes while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[ReadShape] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.name().partition(".")[0] == _OPERATOR:
            pool, _, query, _, direct, _, skip = args[:7]
            self.found.append(ReadShape.of(pool, direct, query.shape[0], skip, out[0]))
        return out


def read_shapes(network: nn.Module, size: Sequence[int], device: torch.device) -> list[ReadShape]:
    """The shapes of a network's reads for an input of a size, in the order computed, each once.

    The network computes on tensors without data, under autocast on CUDA as nnU-Net trains and predicts.

    Args:
        network: it stays as it is.
        size: of the input, (B, channels, *spatial).
        device: where the network will run; it need not exist here.

    Returns:
        Empty for a network without reads, and where a path is forced that is not this package's operator.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # in training, SyncBatchNorm would talk to other processes
    try:
        return _read_shapes(network, size, device)
    finally:
        for module, training in modes:
            module.training = training


def shapes_to_choose(network: nn.Module, batch: int, image: Sequence[int], device: torch.device) -> list[ReadShape]:
    """The shapes of training with a batch of images, (channels, *spatial), and of prediction, one at a time."""
    return [shape for n in (batch, 1) for shape in read_shapes(network, (n, *image), device)]


def _read_shapes(network: nn.Module, size: Sequence[int], device: torch.device) -> list[ReadShape]:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        named = dict(network.named_parameters()) | dict(network.named_buffers())
        empty = {name: torch.empty(t.shape, dtype=t.dtype, device=device) for name, t in named.items()}
        with _Watch() as watch, torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            # each tensor by one name: modules that stand in several places would not get their own back
            functional_call(network, empty, (torch.empty(*size, device=device),), tie_weights=False)
    return list(dict.fromkeys(watch.found))
