"""Where a result was measured, without the names of hosts and folders."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import nnunet_xattnres


def describe_machine(repository: Path, device: str) -> dict[str, Any]:
    """The hardware, the versions and the commit of ``repository``.

    Raises:
        RuntimeError: when the package that runs is not that of ``repository``: then its commit says nothing.
    """
    package = Path(nnunet_xattnres.__file__).resolve().parents[1]
    if package != repository.resolve():  # Python imports an installed one at its start, before it looks here
        raise RuntimeError(f"nnunet_xattnres comes from {package}, not from {repository}: set PYTHONPATH to the latter")
    on_gpu = device == "cuda"
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "dynamic-network-architectures": version("dynamic-network-architectures"),
        "nnunet-xattnres": nnunet_xattnres.__version__,
        "commit": _commit(repository),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _commit(repository: Path) -> str | None:
    """The commit, with a mark when the code is not as it says; results that were written since do not count."""
    try:
        commit = _git(repository, "rev-parse", "--short=12", "HEAD")
        changed = _git(repository, "status", "--porcelain", "--", "nnunet_xattnres", "benchmarks/*.py")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, check=True, text=True).stdout.strip()
