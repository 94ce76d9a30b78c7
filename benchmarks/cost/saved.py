"""What a training step keeps for its backward: bytes, counted without a GPU.

The network runs forward on CUDA tensors without data (torch's fake ones) under autocast in float16, so every dtype is
that of a training on CUDA. Every storage that autograd keeps is counted once. Parameters are not, but the half copies
of them that autocast makes are. Deep supervision is on; there is no loss.

    python -m benchmarks.cost.saved
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses import FakeTensorMode

from benchmarks.cost.configurations import Configuration
from benchmarks.cost.launches import STANDARD
from nnunet_xattnres.ops import fused

PATHS = ("tiled", "fused")


@dataclass
class Saved:
    """What is kept for the backward.

    Attributes:
        total: bytes of all.
        float32: bytes of what is float32.
        largest_float32: numbers of the largest float32 tensor.
        float32_maps: shapes of the float32 tensors that have channels and positions as a source has, or as many numbers
            as one.
    """

    total: int
    float32: int
    largest_float32: int
    float32_maps: list[tuple[int, ...]]


def count(configuration: Configuration = STANDARD, mode: str | None = "add", path: str = "tiled") -> Saved:
    """Count the forward of a training step, with deep supervision.

    Args:
        configuration: the network.
        mode: of the reads; None for the plain network.
        path: of the reads.
    """
    kept: dict[int, Tensor] = {}  # they stay alive, so no storage takes the place of another

    def keep(t: Tensor) -> Tensor:
        kept.setdefault(_storage(t), t)
        return t

    with _as_on_cuda():
        with torch.device("cuda"):
            network: Any = configuration.build(mode)
            x = torch.empty(configuration.batch, 1, *configuration.patch)
        if mode is not None:
            network.use_path(path)
        with torch.autocast("cuda", torch.float16), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            network(x)
    parameters = {_storage(p) for p in network.parameters()}
    counted = [t for storage, t in kept.items() if storage not in parameters]
    wide = [t for t in counted if t.dtype == torch.float32]
    sources = {_numbers(configuration, stage) for stage in getattr(network, "history_stages", [])}
    maps = [tuple(t.shape) for t in wide if t.numel() in sources or (t.ndim == x.ndim and t.shape[1] > 1)]
    return Saved(_bytes(counted), _bytes(wide), max((t.numel() for t in wide), default=0), maps)


def possible() -> bool:
    """Whether this torch pretends to have a GPU: 2.4 asks for a driver, and one built without CUDA refuses."""
    try:
        with _as_on_cuda():
            torch.empty(1, device="cuda").uniform_().to(torch.float16)
    except RuntimeError:
        return False
    return True


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """No GPU is needed, nor Triton, for nothing computes."""
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        # otherwise autocast switches itself off where there is no GPU
        stack.enter_context(patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(patch.object(fused, "available", lambda: True))
        yield


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tensors)


def _numbers(configuration: Configuration, stage: Any) -> int:
    size = [n // s for n, s in zip(configuration.patch, stage.strides, strict=True)]
    return configuration.batch * stage.channels * prod(size)


def main() -> None:
    """Print what the standard network keeps, plain and with reads."""
    if not possible():
        raise SystemExit(f"torch {torch.__version__} cannot count this without a GPU; take a newer one with CUDA")
    rows: list[tuple[str | None, str]] = [(None, ""), *((mode, path) for mode in ("add", "replace") for path in PATHS)]
    table = Table(title=f"{STANDARD.name}, kept for the backward under autocast")
    for k, header in enumerate(("network", "path", "GiB", "to plain", "float32, MiB", "largest float32, numbers")):
        table.add_column(header, justify="right" if k > 1 else "left")
    plain = count(mode=None)
    for mode, path in rows:
        found = count(mode=mode, path=path) if mode else plain
        sizes = f"{found.total / 2**30:.3f}", f"{found.total / plain.total:.3f}", f"{found.float32 / 2**20:.1f}"
        table.add_row(mode or "plain", path, *sizes, f"{found.largest_float32:,}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
