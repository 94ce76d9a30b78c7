"""What the reads cost in time and memory: nnU-Net's network, ours with the operator's specification, and ours.

    python -m benchmarks.cost             everything on the CPU (hours), then benchmarks/README.md and reads.png
    python -m benchmarks.cost --quick     a part of it in minutes
    python -m benchmarks.cost --report    benchmarks/README.md and reads.png from the JSON files

The operator's parity tests run first. Compare the ratios, not the seconds.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.cost.configurations import CONFIGURATIONS, Configuration
from benchmarks.cost.contestants import KINDS, PHASES, Contestant, make_input
from benchmarks.cost.memory import Memory, allocated_memory, resident_memory
from benchmarks.cost.profiling import profile_reads
from benchmarks.cost.report import print_rows, write_report
from benchmarks.cost.scaling import measure_scaling
from benchmarks.machine import describe_machine
from nnunet_xattnres.common.files import write_json

HERE = Path(__file__).resolve().parents[1]  # benchmarks/
RESULTS = HERE / "results"
PARITY_TESTS = ["tests/ops", "tests/reads/test_history_read.py"]

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    pairs: Annotated[int, typer.Option(help="measurements of each network", min=5)] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="three small configurations, the reference timed once")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="measure what contains this text, or: scaling, profile; add it to the file; repeatable"),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="compile for training, GPU only")] = True,
    out: Annotated[Path | None, typer.Option(help="the JSON file to write")] = None,
    report: Annotated[bool, typer.Option("--report", help="measure nothing, write README.md and reads.png")] = False,
) -> None:
    """Test, measure, write JSON, report."""
    if report:
        write_report(HERE)
        return
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"the device is {device!r}; it must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA device")
    torch.backends.cudnn.benchmark = True  # as nnU-Net
    compiled = compiled and device == "cuda"
    machine = describe_machine(HERE.parent, device)
    settings = {"pairs": pairs, "reference_pairs": 1 if quick else pairs, "compiled": compiled, "quick": quick}
    slug = re.sub(r"[^a-z0-9]+", "-", (machine["gpu"] or "cpu").lower()).strip("-")
    path = out or RESULTS / f"reads-{slug}{'-quick' if quick else ''}.json"
    result = start_result(path, machine, settings, keep=bool(only))
    check_parity(device)
    measure(result, path, device, only)
    print_rows(result["rows"], console)
    if not quick and out is None:
        write_report(HERE)


def check_parity(device: str) -> None:
    """Leave with an error when the fast path does not compute what the reference computes."""
    options = ["-q", "-x", "-o", "addopts=", "-p", "no:cacheprovider"]  # in one process
    if device == "cpu":
        options += [f"--ignore={HERE.parent / 'tests/ops/test_fused.py'}"]  # kernels that do not run here
    command = [sys.executable, "-m", "pytest", *options, *PARITY_TESTS]
    with console.status("parity tests"):
        done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        console.print(done.stdout, markup=False, highlight=False)
        console.print("The parity tests failed: there is nothing to measure, and nothing was written.", style="red")
        raise typer.Exit(1)
    console.print("parity tests passed")


def measure(result: dict[str, Any], path: Path, device: str, only: list[str] | None) -> None:
    """Fill the result, and write it after each row: a run that is ended keeps what it has."""
    settings = result["settings"]
    for configuration, mode in chosen(device, settings["quick"], only):
        with console.status(f"{configuration.name}, {mode}"):
            row = compare(configuration, mode, device, settings)
        result["rows"] = [r for r in result["rows"] if not same(r, row)] + [row]
        save(result, path)
        print_rows([row], console)
    if not settings["quick"] and (not only or "scaling" in only):
        with console.status("scaling"):
            result["scaling"] = measure_scaling(device)
        save(result, path)
    if device == "cpu" and not settings["quick"] and (not only or "profile" in only):
        with console.status("profile"):
            result["profile"] = profile_reads()
        save(result, path)


def start_result(path: Path, machine: dict[str, Any], settings: dict[str, Any], keep: bool) -> dict[str, Any]:
    """An empty result, or with ``keep`` the one in the file, when it was measured in the same circumstances."""
    result: dict[str, Any] = {"machine": machine, "settings": settings, "rows": [], "scaling": []}
    earlier: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if "timings" in earlier:
        raise typer.BadParameter(f"{path.name} is of benchmarks/gpu.sh: name another --out")
    if keep and earlier:
        if (earlier["machine"], earlier["settings"]) != (machine, settings):
            raise typer.BadParameter(f"{path.name} is of another machine, version or setting: name another --out")
        return earlier
    return result


def chosen(device: str, quick: bool, only: list[str] | None) -> Iterator[tuple[Configuration, str]]:
    for configuration in CONFIGURATIONS:
        if (configuration.gpu_only and device == "cpu") or (quick and not configuration.quick):
            continue
        for mode in configuration.modes[: 1 if quick else None]:
            if any(text in f"{configuration.name}, {mode}" for text in only or [""]):
                yield configuration, mode


def compare(configuration: Configuration, mode: str, device: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One row: seconds and memory of the three networks, and the ratios over the plain one."""
    torch.compiler.reset()  # or it stops compiling after some networks
    x = make_input(configuration, device)
    row: dict[str, Any] = {"configuration": configuration.name, "mode": mode, "date": date.today().isoformat()}
    contestants: dict[str, Contestant] = {}
    memory: dict[str, dict[str, Memory | None]] = {phase: {} for phase in PHASES}
    for kind in KINDS:
        try:
            contestant, needed = prepare(configuration, mode, kind, x, settings["compiled"])
        except torch.cuda.OutOfMemoryError:
            if kind == "plain":
                raise
            row.setdefault("out_of_memory", []).append(kind)
            continue
        contestants[kind] = contestant
        for phase in PHASES:
            memory[phase][kind] = needed[phase]
    pairs = {kind: settings["reference_pairs" if kind == "reference" else "pairs"] for kind in contestants}
    for phase in PHASES:
        seconds = alternate(contestants, phase, pairs)
        row[phase] = {"seconds": seconds, "time": time_ratios(seconds), "memory": memory[phase]}
        row[phase]["memory_ratio"] = memory_ratios(memory[phase])
    return row


def prepare(
    configuration: Configuration, mode: str, kind: str, x: torch.Tensor, compiled: bool
) -> tuple[Contestant, dict[str, Memory | None]]:
    """A network that is warm, and the memory that it needs."""
    device = x.device.type
    baseline = torch.cuda.memory_allocated() if device == "cuda" else 0
    contestant = Contestant(configuration, mode, kind, x, compiled)
    memory = resident_memory(configuration, mode, kind) if device == "cpu" else {}
    for phase in reversed(PHASES):  # inference first, as long as there is no momentum
        contestant.run(phase)  # compiles, tries out the algorithms of convolutions
        if device == "cuda":
            memory[phase] = allocated_memory(contestant, phase, baseline)
    return contestant, memory


def alternate(contestants: dict[str, Contestant], phase: str, pairs: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of each network, in alternation: what slows the machine down slows all of them down."""
    seconds: dict[str, list[float]] = {kind: [] for kind in contestants}
    for i in range(max(pairs.values())):
        for kind, contestant in contestants.items():
            if i < pairs[kind]:
                seconds[kind].append(contestant.seconds(phase))
    return seconds


def time_ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Over the plain network's step of the same pair."""
    ratios = {k: [a / b for a, b in zip(s, seconds["plain"], strict=False)] for k, s in seconds.items() if k != "plain"}
    return {k: {"median": median(r), "min": min(r), "max": max(r), "repeats": len(r)} for k, r in ratios.items()}


def memory_ratios(memory: dict[str, Memory | None]) -> dict[str, float | None]:
    """Of the peaks above the baselines."""
    above = {kind: m["peak"] - m["baseline"] if m else None for kind, m in memory.items()}
    plain = above["plain"]
    return {kind: a / plain if a and plain else None for kind, a in above.items() if kind != "plain"}


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(row[key] == other[key] for key in ("configuration", "mode"))


def save(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(result, path)


if __name__ == "__main__":
    app()
