"""What has been tried and chosen on this machine: in memory, and in a cache folder (ours).

The choice stands here and not in a graph: the operator asks when it runs. On a GPU where nothing has been tried it
takes plain torch.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import Any

import torch

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import write_json
from nnunet_xattnres.ops import kernels
from nnunet_xattnres.ops.shapes import ReadShape

CANDIDATES = ("fused", "tiled", "tiled-small")  # the fixed order
FALLBACK = "tiled"  # plain torch
VARIABLE = "NNUNET_XATTNRES_CACHE"
_DRIVER = Path("/proc/driver/nvidia/version")  # on Linux
_GAIN = 1.05  # for less another path is not taken: timings are noisy
PASSING = {"out of memory", "too slow"}  # something else was on the GPU, or the kernels had first to be compiled
_KEPT_FOR = 24 * 3600  # seconds, then a path with such a failure is tried again
Results = dict[str, dict[str, Any]]  # by candidate, what ops.trial found


@dataclass(frozen=True)
class Choice:
    """The path of a read's forward, and that of its backward."""

    forward: str
    backward: str


_chosen: dict[tuple[torch.device, ReadShape], Choice] = {}
_results: dict[tuple[torch.device, ReadShape], Results] = {}  # where this process has tried, or asked the cache


def choice_of(device: torch.device, shape: ReadShape) -> Choice:
    """The paths of a read: those chosen, those that the cache knows, or tiles.

    Raises:
        UserError: when the cache knows of no path that is right, and that tiles are wrong.
    """
    if (device, shape) not in _chosen:
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        known = {} if capturing else load(machine(device), shape) or {}  # no files are read while a graph is captured
        timed = not torch.are_deterministic_algorithms_enabled()
        remember(device, shape, decide_or_fall_back(known, device, timed=timed))
    return _chosen[device, shape]


def tiles_of(device: torch.device, shape: ReadShape) -> str | None:
    """The tiles that compute a read where the choice is none of them: some that have proved themselves, else the last
    resort; None where that is wrong.
    """
    results = _results.get((device, shape)) or load(machine(device), shape) or {}
    for name in (FALLBACK, "tiled-small"):
        if results.get(name, {}).get("status") == "ok":
            return name
    return None if results.get(FALLBACK, {}).get("status") == "wrong" else FALLBACK


def anything_chosen(device: torch.device) -> bool:
    """Whether there can be a choice there at all; only then a shape is worth making."""
    return device.type == "cuda" or bool(_chosen)


def remember(device: torch.device, shape: ReadShape, choice: Choice, results: Results | None = None) -> None:
    """For this process, also where no folder can be written."""
    _chosen[device, shape] = choice
    if results:
        _results[device, shape] = results


def forget() -> None:
    """All choices of this process; those in the cache folder stay."""
    _chosen.clear()
    _results.clear()


def decide(results: Mapping[str, Mapping[str, Any]], *, timed: bool) -> Choice | None:
    """The fastest of the paths that have proved themselves, the first in the fixed order if they are not timed.

    Returns:
        None if none has.
    """
    proved = [name for name, result in results.items() if result["status"] == "ok"]
    if not proved:
        return None
    best = {"forward": proved[0], "backward": proved[0]}
    timed = timed and all(
        phase in results[name] for name in proved for phase in best
    )  # an earlier process may not have
    for phase in best if timed else ():
        for name in proved[1:]:
            if results[name][phase] * _GAIN < results[best[phase]][phase]:
                best[phase] = name
    return Choice(**best)


def decide_or_fall_back(results: Results, device: torch.device, *, timed: bool) -> Choice:
    """What ``decide`` finds; else the last resort, plain torch, though it may have failed here or not been tried.

    Raises:
        UserError: when plain torch is wrong, too.
    """
    fallback = results.get(FALLBACK, {})
    choice = decide(results, timed=timed)
    if choice is None and fallback.get("status") == "wrong":
        raise UserError(
            f"no path of the reads computes on {device} what the reference computes: {FALLBACK} is wrong "
            f"({fallback.get('why', '')}). Set NNUNET_XATTNRES_PATH=reference, which needs more memory in training, "
            f"and open an issue with the output of `nnunet-xattnres doctor`."
        )
    return choice or Choice(FALLBACK, FALLBACK)


def machine(device: torch.device) -> str:
    """All that what was tried depends on: the GPU, its driver, the libraries, and the code of the paths."""
    parts = ["cpu"]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = f"{properties.total_memory >> 20} MiB"  # cards of one name differ in it, and with it in their tiles
        parts = [properties.name, f"sm_{properties.major}{properties.minor}", memory, f"driver {_driver()}"]
    versions = {"torch": torch.__version__, "triton": kernels.version(), "nnunet-xattnres": _version("nnunet-xattnres")}
    return ", ".join([*parts, *(f"{name} {version}" for name, version in versions.items()), f"ops {code()}"])


def _driver() -> str:
    """The version of NVIDIA's driver; where only CUDA can be asked, that of its interface, which few updates raise."""
    try:
        found = re.search(r"\d+(\.\d+)+", _DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[0] if found else str(getattr(torch._C, "_cuda_getDriverVersion", lambda: "unknown")())


@cache
def code() -> str:
    """A digest of the code of all paths: between two releases it may change, and has then to prove itself again."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def cache_folder() -> Path:
    """Where the results are kept: what NNUNET_XATTNRES_CACHE names, or a folder of the user's.

    Raises:
        RuntimeError: when none is named, and the user has no home.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    usual = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(usual) / "nnunet-xattnres"


def load(machine: str, shape: ReadShape) -> Results | None:
    """The results of an earlier process, as far as they still count; None if there are none that can be read."""
    try:
        found = _read(_file(machine, shape))
    except RuntimeError:  # there is no home
        return None
    return found[2] if found is not None and found[:2] == (machine, shape) else None


def _read(path: Path) -> tuple[str, ReadShape, Results] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        old = abs(time() - content["time"]) > _KEPT_FOR
        results = {name: content["results"][name] for name in content["order"]}
        results = {name: r for name, r in results.items() if not (old and r["status"] in PASSING)}
        return content["machine"], ReadShape.from_json(content["shape"]), results
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(machine: str, shape: ReadShape, results: Results) -> None:
    """Keep results for other processes.

    Raises:
        OSError: when the folder cannot be written.
    """
    path = _file(machine, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "shape": asdict(shape), "time": time()}
    write_json({**content, "order": list(results), "results": results}, path)


def _file(machine: str, shape: ReadShape) -> Path:
    key = json.dumps([machine, asdict(shape)], sort_keys=True)
    return cache_folder() / f"{sha256(key.encode()).hexdigest()[:24]}.json"


def known(machine: str) -> list[tuple[ReadShape, Results]]:
    """All that the cache folder has of this machine, the widest reads last."""
    try:
        files = list(cache_folder().glob("*.json"))
    except RuntimeError:  # there is no home
        return []
    found = [content for path in files if (content := _read(path)) is not None]
    of_machine = [(shape, results) for where, shape, results in found if where == machine]
    return sorted(of_machine, key=lambda one: (one[0].size, one[0].channels, one[0].batch))
