"""benchmarks/README.md and benchmarks/reads.png, from the JSON files in benchmarks/results/."""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cost.scaling import doubling
from nnunet_xattnres.common.files import write_text
from nnunet_xattnres.pages.figure import new_figure, save

PATHS = ("reference", "fast")
PHASES = ("training", "inference")
HEADER = ("configuration", "mode", "path", "training time", "inference time", "training memory", "inference memory")
PANELS = (("training", "time"), ("inference", "time"), ("training", "memory_ratio"))

INTRODUCTION = """\
# What the reads cost

`python -m benchmarks.cost --report` writes this page and the picture from the JSON files in [results](results); change
those, never this.

Measured are three networks in one process: *plain*, nnU-Net's own; *reference*, ours with the read as the short plain
torch of `nnunet_xattnres/ops/reference.py`; *fast*, ours as installed. The numbers are ratios over plain, 1.00 being
plain's cost: for time the median over pairs of steps that alternate, with the smallest and the largest ratio of a pair
in brackets, after a step to warm up. A training step is forward, backward and SGD with Nesterov momentum, with deep
supervision; on a GPU in mixed precision. Inference is one forward pass. Memory is the peak of two such steps: on a CPU
the resident set of a new process for each, above what it was after steps of a tiny network; on a GPU what torch
allocated. The parity tests run first; when they fail, nothing is measured.

```bash
python -m benchmarks.cost --quick          # three small configurations in minutes
python -m benchmarks.cost                  # all, hours on a CPU
python -m benchmarks.cost --device cuda    # all, and the larger ones
python -m benchmarks.cost --only "2D"      # what contains this text, added to the file
```

*add*, *replace* and *decoder reads only* are the networks of `nnUNetTrainerXAttnRes`, `...Replace` and
`...DecoderReads`. A configuration with one mode only is part of `--quick`.
"""


def write_report(folder: Path) -> None:
    """From every ``folder``/results/reads-*.json except those of ``--quick``."""
    paths = sorted(folder.glob("results/reads-*.json"))
    results = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    results = {name: r for name, r in results.items() if r["rows"] and not r["settings"]["quick"]}
    parts = [INTRODUCTION]
    if added := [result for result in results.values() if _added(result)]:
        plot(added, folder / "reads.png")
        parts.append("![Ratios over plain in mode add; the lines span all pairs](reads.png)\n")
    parts += [_section(name, result) for name, result in results.items()]
    write_text("\n".join(parts), folder / "README.md")


def print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(*HEADER, title="ratios over plain")
    for cells in ratio_cells(rows):
        table.add_row(*cells)
    console.print(table)


def ratio_cells(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """The lines of the table of ratios: two for each row of the JSON."""
    for row in rows:
        for path in PATHS:
            if path in row.get("out_of_memory", []):
                cells = ["out of memory"] * 4
            else:
                times = [row[phase]["time"][path] for phase in PHASES]
                cells = [f"{t['median']:.2f} [{t['min']:.2f}, {t['max']:.2f}]" for t in times]
                ratios = [row[phase]["memory_ratio"][path] for phase in PHASES]
                cells += ["not measured" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            yield [row["configuration"], row["mode"], path, *cells]


def plain_cells(rows: list[dict[str, Any]]) -> Iterator[list[str]]:
    """What the plain network took, once for each configuration."""
    first = {row["configuration"]: row for row in reversed(rows)}
    for row in reversed(first.values()):
        seconds = [f"{median(row[phase]['seconds']['plain']):.3g} s" for phase in PHASES]
        memory = [row[phase]["memory"]["plain"] for phase in PHASES]
        megabytes = ["not measured" if m is None else f"{(m['peak'] - m['baseline']) / 1e6:.0f} MB" for m in memory]
        yield [row["configuration"], *seconds, *megabytes]


def _section(name: str, result: dict[str, Any]) -> str:
    machine, rows = result["machine"], result["rows"]
    where = f"{machine['gpu']}, CUDA {machine['cuda']}" if machine["gpu"] else f"{machine['threads']} threads"
    versions = ", ".join(f"{p} {machine[p]}" for p in ("torch", "dynamic-network-architectures", "nnunet-xattnres"))
    repeats = {
        p: {r[phase]["time"][p]["repeats"] for r in rows for phase in PHASES if p in r[phase]["time"]} for p in PATHS
    }
    pairs = " and ".join(f"{min(n)} for {path}" for path, n in repeats.items() if n)
    lines = [
        f"## {machine['gpu'] or 'CPU'}\n",
        f"{machine['cpu']}, {where}; {machine['system']}, Python {machine['python']}, {versions}"
        + (f", commit {machine['commit']}" if machine["commit"] else "")
        + (", training compiled" if result["settings"]["compiled"] else "")
        + f". Pairs: {pairs}. Measured {_dates(rows)}; all of it in [{name}](results/{name}).\n",
        _markdown(HEADER, ratio_cells(rows)),
        "What plain took (medians; peaks above the baseline):\n",
        _markdown(("configuration", *HEADER[3:]), plain_cells(rows)),
    ]
    if result["scaling"]:
        lines.append("How the reads' own time grows (forward and backward, the other quantities fixed):\n")
        lines += [f"- {line}" for line in map(scaling_line, result["scaling"])]
    if result.get("profile"):
        lines.append("\nWhere the time of the reads goes, in one training step (torch's profiler):\n")
        lines += [f"- {profile_line(found)}" for found in result["profile"]]
    return "\n".join([*lines, ""])


def profile_line(found: dict[str, Any]) -> str:
    total = sum(found["operators"].values())
    shares = ", ".join(f"{name} {us / total:.0%}" for name, us in found["operators"].items())
    return f"{found['configuration']}: {found['reads'] / found['step']:.0%} of the step; of that {shares}"


def scaling_line(growth: dict[str, Any]) -> str:
    """By the measurements alone: what an older file says of the growth may be noise."""
    quantity, values, seconds = (growth[key] for key in ("quantity", "values", "seconds"))
    measured = ", ".join(f"{value}: {1000 * s:.3g} ms" for value, s in zip(values, seconds, strict=True))
    factor = doubling(values, seconds)
    if factor is None:
        return f"{quantity}: not determined, the noise is larger than the growth ({measured})"
    return f"x2 {quantity} -> x{factor:.2f} time of the reads ({measured})"


def _dates(rows: list[dict[str, Any]]) -> str:
    days = sorted({row["date"] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _markdown(header: tuple[str, ...], lines: Any) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, ["---"] * len(header), *lines))


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """The ratios of mode add: a line of panels for each result, a dot for each path, lines from least to greatest."""
    counts = [len(_added(result)) for result in results]
    with new_figure(13, 1.4 + sum(0.9 + 0.45 * n for n in counts)) as figure:
        rows = {"sharey": "row", "squeeze": False, "gridspec_kw": {"height_ratios": counts}}
        axes = figure.subplots(len(results), len(PANELS), **rows)
        for result, line in zip(results, axes, strict=True):
            for (phase, what), panel in zip(PANELS, line, strict=True):
                _draw_panel(panel, _added(result), phase, what)
            line[0].set_ylabel(result["machine"]["gpu"] or "CPU")
            line[0].invert_yaxis()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=len(PATHS))
        save(figure, path, dpi=120)


def _added(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["mode"] == "add"]


def _draw_panel(panel: Any, rows: list[dict[str, Any]], phase: str, what: str) -> None:
    for offset, colour, name in zip((-0.13, 0.13), ("tab:orange", "tab:blue"), PATHS, strict=True):
        found = [(i + offset, row[phase][what].get(name)) for i, row in enumerate(rows)]
        found = [(y, value) for y, value in found if value is not None]
        ys = [y for y, _ in found]
        if what == "time":
            panel.hlines(ys, [v["min"] for _, v in found], [v["max"] for _, v in found], color=colour, linewidth=2)
        panel.plot([v["median"] if what == "time" else v for _, v in found], ys, "o", color=colour, label=name)
    panel.axvline(1.0, color="grey", linewidth=1)
    panel.set_yticks(range(len(rows)), [row["configuration"] for row in rows])
    panel.set_xlabel(f"{'peak memory' if what == 'memory_ratio' else 'time'} over plain, {phase}")
    panel.set_xlim(left=0)
    panel.grid(axis="x", alpha=0.3)
