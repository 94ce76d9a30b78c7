"""The weights of a network's reads, recorded while it computes, and single sources taken out of single reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nnunet_xattnres.reads.history import reads_of

OnRead = Callable[[str, Tensor], None]


@contextmanager
def recorded(network: nn.Module, on_read: OnRead) -> Iterator[None]:
    """Call ``on_read`` with the name and the weights, (B, N, *size), of every read while the block runs.

    The outputs of the network stay what they are; the hooks come off again, however the block ends.
    """

    def ask(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**options, "return_weights": True}

    def take(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor]) -> Tensor:
            read, weights = output
            on_read(name, weights)
            return read

        return hook

    hooks = []
    try:
        for name, read in reads_of(network).items():
            hooks.append(read.register_forward_pre_hook(ask, with_kwargs=True))
            hooks.append(read.register_forward_hook(take(name)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def knocked_out(network: nn.Module, read: str, source: int) -> Iterator[None]:
    """Leave a source out of a read while the block runs: its softmax is over the others."""

    def leave_out(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**options, "without": source}

    hook = reads_of(network)[read].register_forward_pre_hook(leave_out, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
