"""What a training step keeps for its backward: bytes, counted without a GPU.

The network runs forward on tensors without data (the meta device), and every storage that autograd keeps is counted
once; parameters are not. Maps and parameters are half, as under autocast the maps are, and there is no loss.

    python -m benchmarks.cost.saved
"""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.cost.configurations import Configuration
from benchmarks.cost.launches import STANDARD
from nnunet_xattnres.ops import operator

PATHS = ("tiled", "fused")


@dataclass
class Saved:
    """Bytes that are kept for the backward.

    Attributes:
        total: of all.
        widest: of the largest float32 tensor among them, in numbers.
    """

    total: int
    widest: int


def count(configuration: Configuration = STANDARD, mode: str | None = "add", path: str = "tiled") -> Saved:
    """Count the forward of a training step, with deep supervision.

    Args:
        configuration: the network.
        mode: of the reads; None for the plain network.
        path: of the reads.
    """
    with torch.device("meta"):
        network = configuration.build(mode).half()
        x = torch.empty(configuration.batch, 1, *configuration.patch, dtype=torch.half)
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        if (storage := t.untyped_storage()._cdata) not in parameters:
            kept[storage] = t
        return t

    def history_read(*args: Any, **options: Any) -> Any:
        taken = {name: options[name] for name in ("skip", "below")}
        return operator.history_read(*args, **taken, path=path)

    with ExitStack() as stack:
        stack.enter_context(patch("nnunet_xattnres.reads.history_read.history_read", history_read))
        stack.enter_context(patch("torch.autocast", lambda *_, **__: nullcontext()))  # it does not know this device
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t))
        outputs = network(x)
    wide = [t.numel() for t in kept.values() if t.dtype == torch.float32]
    del outputs
    return Saved(sum(t.untyped_storage().nbytes() for t in kept.values()), max(wide, default=0))


def main() -> None:
    """Print what the standard network keeps, plain and with reads."""
    plain = count(mode=None)
    table = Table(title=f"{STANDARD.name}, kept for the backward")
    for name in ("network", "path", "GiB", "to plain", "largest float32 tensor, numbers"):
        table.add_column(name)
    table.add_row("plain", "", f"{plain.total / 2**30:.2f}", "1", f"{plain.widest:,}")
    for mode in ("add", "replace"):
        for path in PATHS:
            found = count(mode=mode, path=path)
            ratio = f"{found.total / plain.total:.3f}"
            table.add_row(mode, path, f"{found.total / 2**30:.2f}", ratio, f"{found.widest:,}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
