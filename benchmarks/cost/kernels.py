"""What Triton and ptxas make of the kernels for each GPU, without one: registers, spills, widths of loads.

    python -m benchmarks.cost.kernels    everything in minutes: benchmarks/results/kernels.json and kernels.md

A read and its backward run as always, but a recorder stands in the place of the kernels; what they were called with is
then specialised as Triton's launcher does, and compiled. These are the compiler's figures: they measure no time.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nnunet_xattnres.common.files import write_json, write_text
from nnunet_xattnres.ops import kernels, operator

RESULTS = Path(__file__).resolve().parents[1] / "results"
KERNELS = "forward", "backward_positions", "backward_source"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()} | {torch.int64: "i64", torch.int32: "i32"}
OPTIONS = {"num_warps", "num_stages", "maxnreg"}  # of a launch; the other keywords are arguments of the kernel


@dataclass(frozen=True)
class Variant:
    """A read to compile for; ``target`` is the compute capability, 90 for sm_90."""

    target: int
    dtype: str
    channels: int
    width: int
    axes: int = 3
    direct: bool = True


@dataclass(frozen=True)
class Row:
    """One kernel of a variant; of several calls that are compiled differently the worst of each figure."""

    kernel: str
    target: str
    dtype: str
    channels: int
    width: int
    axes: int
    direct: bool
    registers: int  # a thread
    spilled: int  # bytes
    shared: int  # bytes
    widest_load: int  # bits
    packed_load: int  # bits: the narrowest load of a packed source
    map_load: int  # bits: the narrowest load of a direct map or of the read's gradient
    map_bits: int  # what the rows of these maps allow: 128 if they are multiples of 16 bytes


def variants() -> list[Variant]:
    """Everything that is promised."""
    widths = 128, 56, 40, 20
    found = [Variant(90, dtype, c, w) for dtype in DTYPES for c in (32, 64, 128) for w in widths]
    found += [Variant(t, "fp16", c, w) for t in (80, 86, 89, 120) for c in (32, 64, 128) for w in (128, 40)]
    found += [Variant(90, "fp16", c, w, axes, False) for c in (32, 64) for w in (128, 40) for axes in (2, 3)]
    return found + [Variant(90, "fp16", c, w, 2) for c in (32, 64) for w in (128, 40)]


class _Recorder:
    def __init__(self, kernel: Any, calls: list[tuple[Any, dict[str, Any]]]) -> None:
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args, **kwargs: self.calls.append(
            (self.kernel, dict(zip(self.kernel.arg_names, args, strict=False)) | kwargs)
        )


@contextmanager
def recorded_calls() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """The kernels that are called while the block runs, with all their arguments; none of them computes."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    before = {name: getattr(kernels, name) for name in KERNELS}
    for name, kernel in before.items():
        setattr(kernels, name, _Recorder(kernel, calls))
    try:
        yield calls
    finally:
        for name, kernel in before.items():
            setattr(kernels, name, kernel)


def calls_of(variant: Variant) -> list[tuple[Any, dict[str, Any]]]:
    """The kernels that a training step of the read calls, with all their arguments."""
    dtype, channels = DTYPES[variant.dtype], variant.channels
    # integers that 16 divides, and such that it does not; one source with an extent of one
    sides = (32, 32) if variant.width % 16 == 0 else (12, 24)
    size = (*sides[3 - variant.axes :], variant.width)
    pool = [torch.zeros(1, 24, *(n // 2 for n in size)), torch.zeros(1, 40, *(1 for _ in size))]
    projections: list[torch.Tensor | None] = [torch.zeros(channels, h.shape[1]) for h in pool]
    if variant.direct:
        pool, projections = [torch.zeros(1, channels, *size), *pool], [None, *projections]
    pool = [h.to(dtype).requires_grad_() for h in pool]
    below = torch.zeros(1, 32, *size, dtype=dtype)
    skip = 0 if variant.direct else None
    with recorded_calls() as calls:
        query = torch.zeros(channels), torch.ones(channels)
        operator.history_read(pool, projections, *query, size, skip=skip, below=below, path="fused").sum().backward()
    return calls


def compile_call(kernel: Any, values: dict[str, Any], target: int) -> Any:
    """Compile a call as Triton's launcher does."""
    signature, constants, attributes = specialised(kernel, values)
    options = {name: value for name, value in values.items() if name in OPTIONS}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def specialised(kernel: Any, values: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], Any]]:
    """Types, constants and attributes, all that a call is compiled for.

    Integers of value 1 are constants, too; an attribute is that 16 divides an integer or a pointer.
    """
    signature, constants, attributes = {}, {}, {}
    for i, (name, parameter) in enumerate(zip(kernel.arg_names, kernel.params, strict=True)):
        value, general = values[name], parameter.do_not_specialize
        if parameter.is_constexpr or (type(value) is int and value == 1 and not general):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPE_NAMES[value.dtype]
            divisible = value.data_ptr() % 16 == 0
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
            divisible = type(value) is int and value % 16 == 0
        if divisible and not general and not parameter.do_not_specialize_on_alignment:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def _usage(compiled: Any) -> tuple[int, int]:
    """Registers, and bytes on the stack: what was spilled, for the kernels have no arrays."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK", "LOCAL"))
    return registers, max(stack, local)


def _loads(compiled: Any) -> dict[str, set[int]]:
    """The widths in bits of the loads from each pointer, which is named in the line that a load comes from."""
    lines = Path(inspect.getfile(kernels)).read_text(encoding="utf-8").splitlines()
    found: dict[str, set[int]] = {}
    line, fresh = 0, False
    for text in compiled.asm["ptx"].splitlines():
        fresh |= "// begin inline asm" in text  # inside of it ptxas counts lines on: the first .loc is the right one
        if fresh and (at := re.match(r"\s*\.loc\s+\d+ (\d+)", text)):
            line, fresh = int(at[1]), False
        if load := re.search(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+)", text):
            pointer = re.search(r"tl\.load\((?:_row\()?(\w+)", lines[line - 1])
            found.setdefault(pointer[1] if pointer else "?", set()).add(int(load[1] or 1) * int(load[2]))
    return found


def rows_of(variant: Variant) -> list[Row]:
    """Compile the kernels of a variant."""
    figures: dict[str, list[tuple[int, ...]]] = {}
    bits = torch.finfo(DTYPES[variant.dtype]).bits
    for kernel, values in calls_of(variant):
        compiled = compile_call(kernel, values, variant.target)
        loads = _loads(compiled)
        maps = [n for name in ("direct", "grad") for n in loads.get(name, ())]
        widest = max(max(n) for n in loads.values())
        found = *_usage(compiled), compiled.metadata.shared, -widest, -min(loads["here"]), -min(maps, default=128)
        figures.setdefault(kernel.__name__, []).append(found)
    described = asdict(variant) | {"target": f"sm_{variant.target}"}
    row_bits = variant.width * bits
    allowed = min(128, row_bits & -row_bits)
    worst = {name: [abs(max(f)) for f in zip(*found, strict=True)] for name, found in figures.items()}
    return [Row(name, *described.values(), *figure, allowed) for name, figure in worst.items()]


def problems(row: Row) -> list[str]:
    """What a kernel does not keep of what is promised."""
    found = []
    limit = 168 if row.channels <= 64 else 255  # 168: three programs of four warps a multiprocessor
    if row.registers > limit:
        found.append(f"{row.registers} registers, more than {limit}")
    if row.spilled:
        found.append(f"{row.spilled} bytes spilled")
    if row.packed_load < 128:
        found.append(f"loads {row.packed_load} bits at a time from the packed buffer")
    if row.map_load < row.map_bits:
        found.append(f"loads {row.map_load} bits at a time from maps that allow {row.map_bits}")
    return found


def markdown(rows: list[Row]) -> str:
    """The table."""
    columns = "kernel", "target", "dtype", "channels", "width", "axes", "direct"
    columns += "registers", "spilled", "shared", "widest_load", "packed_load", "map_load"
    lines = [
        "# The kernels, as Triton compiles them",
        "",
        f"Triton {triton.__version__}, torch {torch.__version__}. No GPU was used and no time was measured:",
        "these are the compiler's figures. Registers are a thread's, spilled and shared are bytes, loads are bits:",
        "the widest of all, the narrowest from the packed sources, the narrowest from direct maps and gradients.",
        "`python -m benchmarks.cost.kernels` writes this.",
        "",
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for row in rows:
        lines.append("| " + " | ".join(str(getattr(row, name)) for name in columns) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compile everything, write, and fail on what is not kept."""
    rows = []
    for variant in variants():
        for row in rows_of(variant):
            rows.append(row)
            print(*asdict(row).values(), *problems(row), flush=True)
    versions = {"triton": triton.__version__, "torch": torch.__version__}
    write_json({"versions": versions, "rows": [asdict(row) for row in rows]}, RESULTS / "kernels.json")
    write_text(markdown(rows), RESULTS / "kernels.md")
    if any(map(problems, rows)):
        raise SystemExit("not everything is kept")


if __name__ == "__main__":
    main()
