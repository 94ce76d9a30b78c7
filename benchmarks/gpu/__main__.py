"""Prove, choose and time the paths of the reads on a GPU, within minutes: ``benchmarks/gpu.sh``.

It needs torch, triton and dynamic-network-architectures. Every result is printed and written as it comes; a second run
goes on where the first one ran out of time.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from benchmarks.cost.configurations import Configuration
from benchmarks.gpu import plans
from benchmarks.gpu.table import line, tables
from benchmarks.machine import describe_machine
from nnunet_xattnres.common.children import kill_all, results
from nnunet_xattnres.common.files import write_json, write_text
from nnunet_xattnres.ops import FUSED_CHANNELS, PATHS
from nnunet_xattnres.ops.chosen import code
from nnunet_xattnres.ops.shapes import ReadShape
from nnunet_xattnres.ops.tuning import choose_paths
from nnunet_xattnres.reads.shapes import read_shapes

HERE = Path(__file__).resolve().parents[1]  # benchmarks/
KEYS = {
    "proofs": ("path", "dtype", "channels", "size"),
    "choices": ("configuration", "read"),
    "timings": ("configuration", "compiled", "kind"),
}
PROVE, TIME = "benchmarks.gpu.proofs:prove", "benchmarks.gpu.timings:time_kinds"
PROOFS_SHARE, CHOICES_SHARE = 0.3, 0.25  # of the time, at most
LIMITS = {"proof": 90.0, "eager": 90.0, "compiled": 180.0}  # seconds for one result
ENOUGH = {"pairs": 5, "seconds": 2.5}  # of measuring a phase of a network


@dataclass
class Record:
    """What has been found so far, in a JSON file and in a table beside it, each of them whole at any time."""

    path: Path
    result: dict[str, Any]
    start: float = field(default_factory=time.monotonic)
    lock: Any = field(default_factory=Lock)
    undecided: set[str] = field(default_factory=set)  # configurations with a read whose path this run has not chosen

    def add(self, what: str, row: dict[str, Any]) -> None:
        with self.lock:
            self.result[what] = [r for r in self.result[what] if not same(what, r, row)] + [row]
            self.write()
            print(f"{time.monotonic() - self.start:4.0f} s  {line(what, row)}", flush=True)

    def choose(self, row: dict[str, Any]) -> None:
        """Add a choice; what was timed by another one before counts no more."""
        before = [r for r in self.result["choices"] if same("choices", r, row)]
        if any((r["forward"], r["backward"]) != (row["forward"], row["backward"]) for r in before):
            of_it = {"configuration": row["configuration"], "kind": "chosen"}
            self.result["timings"] = [r for r in self.result["timings"] if not of_it.items() <= r.items()]
        self.add("choices", row)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.result, self.path)
        write_text(tables(self.result), self.path.with_suffix(".md"))

    def missing(self, what: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What has not been tried yet, or not for long enough."""
        tried = [row for row in self.result[what] if row["status"] not in ("no time", "too slow", "not tried")]
        return [item for item in items if not any(same(what, row, item) for row in tried)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device. To try every step without one: --device cpu --tiny")
    deadline = time.monotonic() + 60 * options.minutes
    record = begin(options)
    try:
        prove_all(record, options, time.monotonic() + 60 * options.minutes * PROOFS_SHARE)
        choose_all(record, options, time.monotonic() + 60 * options.minutes * CHOICES_SHARE)
        time_all(record, options, deadline)
    finally:
        print(f"\n{tables(record.result)}\n{record.path}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only to try the steps out")
    parser.add_argument("--tiny", action="store_true", help="networks and reads that are too small to tell anything")
    parser.add_argument("--minutes", type=float, default=8.5, help="the time that it may take (default: 8.5)")
    parser.add_argument("--only", default="", help='time what contains this text: "2D", "compiled", "ResEnc"')
    parser.add_argument("--again", action="store_true", help="measure again what is in the file")
    parser.add_argument("--out", type=Path, help="the JSON file")
    return parser.parse_args(arguments)


def begin(options: argparse.Namespace) -> Record:
    """The record of an earlier run in the same circumstances, or an empty one; that of others is kept beside it."""
    machine = describe_machine(HERE.parent, options.device)
    machine["triton"] = __import__("triton").__version__ if find_spec("triton") else None
    machine["ops"] = code()  # where there is no git, and where files were changed since the commit
    machine["networks"] = networks_code()
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {"capability": f"{properties.major}.{properties.minor}", "memory": properties.total_memory}
    result: dict[str, Any] = {
        "machine": machine,
        "settings": {"device": options.device, "tiny": options.tiny, **ENOUGH},
        **{"rows": [], **{what: [] for what in KEYS}},  # no rows: it is no result of benchmarks.cost
    }
    path = options.out or default_path(machine, options)
    if path.exists() and not options.again:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if circumstances(earlier) == circumstances(result):
            result = earlier
        else:
            names = (path.with_name(f"{path.stem}-earlier-{i}.json") for i in count(1))
            aside = next(name for name in names if not name.exists())
            print(f"{path} is of another machine, code or settings; it is now {path.replace(aside)}")
    record = Record(path, result)
    record.write()
    return record


def networks_code() -> str:
    """A digest of the code of the networks and their reads, beside that of the paths."""
    package = HERE.parent / "nnunet_xattnres"
    files = sorted(path for folder in ("networks", "reads") for path in (package / folder).glob("*.py"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def circumstances(result: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """What must be the same for a run to go on with the results of another.

    That is not the commit, for the results themselves are committed: the digests of the code say more. Nor are the
    threads of the CPU.
    """
    machine = {key: value for key, value in result["machine"].items() if key not in ("commit", "threads")}
    return machine, result["settings"]


def default_path(machine: dict[str, Any], options: argparse.Namespace) -> Path:
    """In results/ for a GPU; what only tries the steps out goes elsewhere, and a file of benchmarks.cost stays."""
    slug = re.sub(r"[^a-z0-9]+", "-", (machine["gpu"] or "cpu").lower()).strip("-")
    if options.device == "cpu" or options.tiny:
        return Path(tempfile.mkdtemp()) / f"reads-{slug}-tiny.json"
    path = HERE / "results" / f"reads-{slug}.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("rows"):
        return path.with_name(f"reads-{slug}-paths.json")
    return path


def prove_all(record: Record, options: argparse.Namespace, deadline: float) -> None:
    """Several at a time: nothing is timed."""
    jobs = [
        [
            {"path": path, "dtype": dtype, "channels": channels, "size": list(size)}
            for channels, size in (plans.TINY_PROVED if options.tiny else plans.PROVED)
            if channels == wanted
        ]
        for dtype in plans.DTYPES
        for wanted in sorted({c for c, _ in (plans.TINY_PROVED if options.tiny else plans.PROVED)})
        for path in PATHS
        if (path, dtype) != ("reference", "float32")  # with which the others are compared
    ]
    environment = {"TRITON_INTERPRET": "1"} if options.device == "cpu" else {}

    def run(items: list[dict[str, Any]]) -> None:
        rest = record.missing("proofs", items)
        found = results(
            *(PROVE, rest, {"device": options.device}),
            **{"limit": LIMITS["proof"], "deadline": deadline, "environment": environment},
        )
        for item, result in zip(rest, found, strict=True):
            record.add("proofs", {**item, **result})

    with ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) // 2))) as pool:
        list(pool.map(run, jobs))


def choose_all(record: Record, options: argparse.Namespace, deadline: float) -> None:
    """As at the start of a training, by the same function; what it keeps in the cache is timed as "chosen"."""
    device = torch.device(options.device)
    for configuration in plans.TINY if options.tiny else plans.CONFIGURATIONS:
        with torch.device("meta"):
            network = configuration.build("add")
        shapes = read_shapes(network, (configuration.batch, 1, *configuration.patch), device)
        rows = [choice_row(configuration, shape) for shape in shapes]
        chosen_rows = [{**timed, "kind": "chosen"} for timed in timings_of(configuration)]
        if not record.missing("choices", rows) and not record.missing("timings", chosen_rows):
            continue
        # also if they are in the file: what is timed as chosen looks into the cache, which a new machine has not
        for one in choose_paths(shapes, device, lambda _: None, budget=max(0.0, deadline - time.monotonic())):
            lacking = any(result["status"] in ("no time", "not tried") for result in one.results.values())
            chosen = {**asdict(one.choice), "source": one.source, "results": one.results}
            row = choice_row(configuration, one.shape)
            if lacking:
                record.undecided.add(configuration.name)
            if not lacking or record.missing("choices", [row]):
                record.choose({**row, "status": "no time" if lacking else "ok", **chosen})


def choice_row(configuration: Configuration, shape: ReadShape) -> dict[str, Any]:
    return {"configuration": configuration.name, "read": str(shape)}


def time_all(record: Record, options: argparse.Namespace, deadline: float) -> None:
    for configuration, compiled, kinds in schedule(options.tiny):
        mode = "compiled" if compiled else "eager"
        if options.only not in f"{configuration.name}, {mode}":
            continue
        row = {"configuration": configuration.name, "compiled": compiled}
        items = record.missing("timings", [{**row, "kind": kind} for kind in kinds])
        for item in [item for item in items if crashed(record, item["kind"], options.device)]:
            items.remove(item)
            record.add("timings", {**item, "status": "not tried", "why": "it crashed or hung when it was to be proved"})
        undecided = configuration.name in record.undecided
        for item in [item for item in items if item["kind"] == "chosen" and undecided]:  # a read would take tiles
            items.remove(item)
            record.add("timings", {**item, "status": "no time", "why": "not all of its paths have been chosen"})
        arguments = {
            "configuration": configuration,
            "backend": None if not compiled else "aot_eager" if options.tiny else "inductor",
            "device": options.device,
            **(ENOUGH if not options.tiny else {"pairs": 2, "seconds": 0.0}),
        }
        environment = {"TRITON_INTERPRET": "1"} if options.device == "cpu" else {}
        found = results(
            *(TIME, items, arguments), **{"limit": LIMITS[mode], "deadline": deadline, "environment": environment}
        )
        for item, result in zip(items, found, strict=True):
            record.add("timings", {**item, **result, "proved": proved(record, item["kind"], options.device)})


def timings_of(configuration: Configuration) -> list[dict[str, Any]]:
    return [{"configuration": configuration.name, "compiled": compiled} for compiled in (False, True)]


def schedule(tiny: bool) -> list[tuple[Configuration, bool, tuple[str, ...]]]:
    """The most important first: configuration, whether compiled, networks."""
    first, *others = plans.TINY if tiny else plans.CONFIGURATIONS
    usual, rest = plans.KINDS[:3], plans.KINDS[3:]
    return [
        *((first, compiled, usual) for compiled in (False, True)),
        *((c, True, usual) for c in others[:1]),
        *((c, False, usual) for c in others),
        (first, False, rest),
        *((c, True, usual) for c in others[1:]),
        (first, True, rest),
        *((c, compiled, rest[:1]) for c in others for compiled in (False, True)),
    ]


def proved(record: Record, kind: str, device: str) -> bool | None:
    """Whether all proofs of a network's path, in the dtype that it is timed in, went well; None if there are none."""
    states = [row["status"] for row in proofs_of(record, kind, device) if row["status"] != "no time"]
    return all(state == "ok" for state in states) if states else None


def crashed(record: Record, kind: str, device: str) -> bool:
    return any(row["status"] in ("crashed", "too slow") for row in proofs_of(record, kind, device))


def proofs_of(record: Record, kind: str, device: str) -> list[dict[str, Any]]:
    """Those that say something about a network: in its dtype; "fused" has kernels up to some channels only."""
    most = FUSED_CHANNELS if kind == "fused" else float("inf")
    wanted = {"path": kind.split()[0], "dtype": "float16" if device == "cuda" else "float32"}
    return [r for r in record.result["proofs"] if wanted.items() <= r.items() and r["channels"] <= most]


def same(what: str, row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(row[key] == other[key] for key in KEYS[what])


def stop(*_: object) -> None:
    """End at once, and all processes with it: what was found stands in the file."""
    kill_all()
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    main()
