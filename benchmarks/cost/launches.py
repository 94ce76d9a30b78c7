"""How much work the reads of a training step give a GPU: kernel launches and bytes, counted without one.

The reads of a network run, forward and backward, on tensors without data (the meta device), and every call that would
launch a kernel there is counted: not views and not allocations. Its bytes are those of the tensors that it reads and of
those that it writes; a matrix product that reads its input twice counts it once, as if every cache were large enough.
What a call does inside, as copies before a matrix product or a second kernel of a reduction, is not seen.
The maps are half, the parameters float32, as under autocast. A call of a Triton kernel counts as one launch, and its
bytes apart from those of the plain torch around it.

    python -m benchmarks.cost.launches
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from math import prod
from typing import Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cost.configurations import Configuration
from nnunet_xattnres.ops import choice, fused, kernels, operator, resize
from nnunet_xattnres.reads.history import History

STANDARD = Configuration("3D, 6 stages, 128^3, batch 2", 2, (128,) * 3, (32, 64, 128, 256, 320, 320), ((2, 2, 2),) * 5)
RESIZES, SUMS, ALL = "resizes of the pool", "sums of gradients", "all"
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "resize_"}
_ONLY_WRITTEN = {"copy_", "zero_", "fill_"}  # in place, but what was there is not read


@dataclass
class Count:
    """Kernel launches and bytes of a part of a step.

    Attributes:
        torch_bytes: read and written by the calls of plain torch.
        triton: launches of Triton kernels among ``launches``.
        triton_bytes: of the tensors that they are given.
    """

    launches: int = 0
    torch_bytes: int = 0
    triton: int = 0
    triton_bytes: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Count)))


class Counter(TorchDispatchMode):
    """Counts what runs on the meta device while it is active, by ``part`` and ``phase``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[tuple[str, str], Count] = {}
        self.part, self.phase, self._inside = "", "forward", False
        self._operators = _implementations()

    def add(self, part: str, count: Count) -> None:
        key = part, self.phase
        self.counts[key] = self.counts.get(key, Count()) + count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        implementation = self._operators.get(func.name())
        if implementation is not None:  # torch would only call what stands for it on the meta device
            self._inside = True
            with self:
                out = implementation(*args, **(kwargs or {}))
            self._inside = False
            return out
        with self:  # what consists of other calls, like matmul, comes as a whole from inside an operator
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        on_meta = bool(tensors) and all(t.device.type == "meta" for t in tensors)  # else it is made once and kept
        name = func.name().split("::")[1].split(".")[0]
        if on_meta and not func.is_view and name not in _NO_KERNEL:
            meets = self.phase == "backward" and not self._inside and name in ("add", "add_")
            moved = _bytes_of_call(func, name, args, kwargs or {}, out)
            self.add(SUMS if meets else self.part, Count(1, moved))
        return out

    def kernel(self, *_grid: Any) -> Callable[..., None]:
        """In the place of a Triton kernel with its grid."""

        def launch(*args: Any, **kwargs: Any) -> None:
            moved = sum(_bytes(t) for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
            self.add(self.part, Count(1, 0, 1, moved))

        return launch

    __getitem__ = kernel


def _implementations() -> dict[str, Callable[..., Any]]:
    """What really runs for each of this package's operators, by its name."""
    values = [value for module in (resize, operator) for value in vars(module).values()]
    found = [value for value in values if isinstance(value, torch.library.CustomOpDef)]
    return {operator._qualname: operator._init_fn for operator in found}


def _bytes_of_call(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    written = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    read = []
    for k, argument in enumerate(func._schema.arguments):
        value = args[k] if k < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        if not is_written or not (argument.kwarg_only or name in _ONLY_WRITTEN):
            read += [t for t in tree_leaves(value) if isinstance(t, Tensor)]
    return sum(map(_bytes, read)) + sum(map(_bytes, written))


def _bytes(tensor: Tensor) -> int:
    """Of the numbers that stand in memory: those of an expanded axis stand there once."""
    sizes = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0]
    return prod(sizes) * tensor.element_size()


@contextmanager
def _on_meta(counter: Counter, fused_channels: int) -> Iterator[None]:
    """Reads of up to so many channels by the Triton kernels, the others by tiles; both counted."""

    def history_read(pool: Any, projections: Any, query: Tensor, *args: Any, **options: Any) -> Any:
        path = "fused" if len(query) <= fused_channels else "tiled"
        taken = {name: options[name] for name in ("skip", "below")}
        return operator.history_read(pool, projections, query, *args, **taken, path=path)

    with ExitStack() as stack:
        stack.enter_context(patch("nnunet_xattnres.reads.history_read.history_read", history_read))
        stack.enter_context(patch("torch.autocast", lambda *_, **__: nullcontext()))  # it does not know this device
        for name in ("forward", "backward_positions", "backward_source"):
            stack.enter_context(patch.object(kernels, name, counter))
        stack.enter_context(counter)
        yield


def count(
    configuration: Configuration = STANDARD, fused_channels: int = 0, dtype: torch.dtype = torch.float16
) -> dict[tuple[str, str], Count]:
    """Count the reads of a training step of a network in mode add.

    Args:
        configuration: the network.
        fused_channels: reads of up to so many channels take the Triton kernels, the others the tiles as on CUDA.
        dtype: of the maps.

    Returns:
        The counts by part (the name of a read, ``RESIZES``, ``SUMS``) and phase ("forward", "backward").
    """
    counter = Counter()
    with torch.device("meta"):
        network = configuration.build("add")
        stages = network.history_stages
        sizes = [tuple(n // s for n, s in zip(configuration.patch, t.strides, strict=True)) for t in stages]
        maps = [_map(configuration.batch, t.channels, n, dtype) for t, n in zip(stages, sizes, strict=True)]
        below = {n: _map(configuration.batch, t.channels, n, dtype) for t, n in zip(stages, sizes, strict=True)}
    with _on_meta(counter, fused_channels):
        outputs = _forward(counter, network, maps, sizes, below)
        counter.phase = "backward"
        leaves = [*maps, *below.values(), *network.reads.parameters()]
        # a step goes through the reads from the last to the first
        torch.autograd.grad(outputs, leaves, [torch.empty_like(out) for out in outputs], allow_unused=True)
    return counter.counts


def _map(batch: int, channels: int, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(batch, channels, *size, dtype=dtype, device="meta", requires_grad=True)


def _forward(
    counter: Counter,
    network: Any,
    maps: Sequence[Tensor],
    sizes: Sequence[tuple[int, ...]],
    below: dict[tuple[int, ...], Tensor],
) -> list[Tensor]:
    """All reads, as the network's forward pass asks for them."""
    history, outputs, n_encoder = History(), [], len(network.encoder_stages)
    stages = network.history_stages
    for k, (stage, x) in enumerate(zip(stages, maps, strict=True)):
        size, strides = sizes[k], stage.strides
        coarser = {stages[i].strides: sizes[i] for i in range(k + 1, n_encoder - 1)}  # none for the decoder's
        around: dict[str, Any] = {"skip": 2 * n_encoder - 2 - k, "below": below[size]}
        if k < n_encoder:
            size, strides, around = sizes[k - 1], stages[k - 1].strides, {}
        if stage.name in network.reads:
            counter.part = stage.name
            out = network.reads[stage.name](history.at(strides), size, **around)
            _when_backward_reaches(out, counter, stage.name)
            outputs.append(out)
        counter.part = RESIZES
        history.append(x, stage, coarser)
        for at in coarser:
            _when_backward_reaches(history.at(at)[-1], counter, RESIZES)
    return outputs


def _when_backward_reaches(out: Tensor, counter: Counter, part: str) -> None:
    out.register_hook(lambda _: setattr(counter, "part", part))


def total(counts: dict[tuple[str, str], Count]) -> Count:
    return sum(counts.values(), Count())


def _table(title: str, counts: dict[tuple[str, str], Count]) -> Table:
    table = Table(title=title)
    for k, header in enumerate(("part", "launches", "of them Triton", "GB by torch", "GB by Triton")):
        table.add_column(header, justify="right" if k else "left")
    parts = list(dict.fromkeys(part for part, _ in counts))
    for part in [*sorted(parts, key=(RESIZES, SUMS).__contains__), ALL]:
        of_part = {key: c for key, c in counts.items() if part in (key[0], ALL)}
        phases = [total({key: c for key, c in of_part.items() if key[1] == p}) for p in ("forward", "backward")]
        cells = [[str(c.launches), str(c.triton), _gb(c.torch_bytes), _gb(c.triton_bytes)] for c in phases]
        table.add_row(part, *(" + ".join(pair) for pair in zip(*cells, strict=True)), end_section=part == parts[-1])
    every = total(counts)
    table.add_row("", f"{every.launches:,}", str(every.triton), _gb(every.torch_bytes), _gb(every.triton_bytes))
    return table


def _gb(n: int) -> str:
    return f"{n / 1e9:.1f}"


def main(
    fused_channels: int = typer.Option(choice.FUSED_CHANNELS, help="Reads of up to so many take the Triton kernels."),
) -> None:
    """Print the launches and bytes of the reads of a training step, forward + backward, by tiles and by the kernels."""
    console = Console()
    paths = {"tiled": 0, f"fused up to {fused_channels} channels": fused_channels}
    for name, channels in paths.items() if fused.available() else list(paths.items())[:1]:
        console.print(_table(f"{STANDARD.name}, mode add, half maps, {name}", count(fused_channels=channels)))


if __name__ == "__main__":
    typer.run(main)
