"""nnU-Net's folders, the device of a training, and by which path the reads are computed there."""

import importlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_xattnres.commands.doctor.findings import Finding, Level
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.installing import GET_STARTED, NEEDED, install_torch
from nnunet_xattnres.common.shell import command, export, unset


def check_paths() -> Iterator[Finding]:
    """nnU-Net's three folders: set, there, and writable."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        value = os.environ.get(name)
        if not value:
            yield Finding("warning", name, "not set", _another(name))
        elif value != (bare := value.strip("\"'")):
            yield Finding("warning", name, f"the quotes are part of {value}", export(name, bare))
        elif not os.path.isabs(value):
            message = f"{value} is taken literally, from the folder in which nnU-Net is started"
            yield Finding("warning", name, message, export(name, os.path.abspath(os.path.expanduser(value))))
        elif not os.path.lexists(value):
            yield Finding("warning", name, f"{value} does not exist", _make(value))
        elif not Path(value).is_dir():
            yield Finding("warning", name, f"{value} is no folder", _another(name))
        elif not _writable(value):
            hint = "fine for reading" if name == "nnUNet_raw" else "nnU-Net must write there"
            remedy = command("chmod", "u+w", value) if _only_by_its_mode(value) else _another(name)
            yield Finding("warning", name, f"{value} is not writable; {hint}", remedy)
        else:
            yield Finding("ok", name, f"{value} (writable)")


def _another(name: str) -> str:
    return export(name, rf"C:\path\to\{name}" if os.name == "nt" else f"/path/to/{name}")


def _make(folder: str) -> str:
    return command("mkdir", folder) if os.name == "nt" else command("mkdir", "-p", folder)


def _only_by_its_mode(folder: str) -> bool:
    """Whether it is the user's own folder and merely lacks the permission, so that chmod mends it."""
    found = os.stat(folder)
    return os.name == "posix" and found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWUSR


def check_device() -> Iterator[Finding]:
    """What a training would run on, and whether nnU-Net would compile the network there."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        yield Finding(
            "error",
            "device",
            f"torch cannot be imported: {error!r}",
            install_torch(NEEDED["torch"], "--force-reinstall"),
        )
        return
    if torch.cuda.is_available():
        yield Finding("ok", "device", f"cuda: {torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "device", "mps: pass -device mps to nnU-Net's commands")
    else:
        yield _cpu_alone(torch.version.cuda)
    yield _compile_state(torch.cuda.is_available())


def _cpu_alone(built_for: str | None) -> Finding:
    if not built_for and shutil.which("nvidia-smi"):
        message = "cpu: torch has no CUDA, though there is an NVIDIA driver"
        return Finding("warning", "device", message, f"install torch for your GPU: {GET_STARTED}")
    torch = f"torch is built for CUDA {built_for}" if built_for else "torch has no CUDA"
    return Finding("ok", "device", f"cpu, no CUDA device ({torch}): pass -device cpu to nnU-Net's commands")


def _compile_state(cuda: bool) -> Finding:
    setting = os.environ.get("nnUNet_compile")
    wanted = setting is None or setting.lower() in ("true", "1", "t")
    if not cuda:
        return Finding("ok", "torch.compile", "off: nnU-Net compiles for CUDA only")
    if os.name == "nt":
        return Finding("ok", "torch.compile", "off: nnU-Net does not compile on Windows")
    if not wanted:
        return Finding("ok", "torch.compile", f"off: nnUNet_compile={setting}")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        message = "on, but there is no C compiler, which Triton needs"
        return Finding("warning", "torch.compile", message, "export nnUNet_compile=f   or   apt-get install gcc")
    return Finding("ok", "torch.compile", "on: nnU-Net compiles the network for training")


def _writable(folder: str) -> bool:
    """Tried, not asked: os.access does not know of read-only file systems and network shares."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_reads() -> Iterator[Finding]:
    """By which path the reads are computed on the device of a training, and why."""
    try:
        torch = importlib.import_module("torch")
        ops = importlib.import_module("nnunet_xattnres.ops")
    except Exception as error:
        yield Finding("error", "reads", f"nnunet_xattnres.ops cannot be imported: {error!r}", install_torch())
        return
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        forced, path = ops.forced_path(), ops.read_path(device)
    except ValueError as error:
        yield Finding("error", "reads", str(error), unset(ops.VARIABLE))
        return
    if forced is not None:
        yield Finding("ok", "reads", f"{path} on {device.type}: {ops.VARIABLE} forces it")
    elif path == "reference" and device.type == "mps":
        message = "reference on mps: exact, in plain torch; the tiled path has not been run there yet"
        yield Finding("ok", "reads", message)
    elif path == "reference":
        yield Finding(
            "warning",
            "reads",
            f"reference: torch {torch.__version__} is older than 2.4, which the fast path needs; "
            "the results are the same, but a training takes more time and memory",
            install_torch(NEEDED["torch"] + ",>=2.4"),
        )
    elif cuda:
        yield from _chosen_reads(device)
    else:
        yield Finding("ok", "reads", f"tiled on {device.type}: exact, tile by tile, in plain torch")


def _chosen_reads(device: Any) -> Iterator[Finding]:
    """What has proved itself on this GPU, and is chosen."""
    chosen = importlib.import_module("nnunet_xattnres.ops.chosen")
    known = chosen.known(chosen.machine(device))
    if not known:
        message = "tiled on cuda, in plain torch; a training first tries the other paths on this GPU, once"
        yield Finding("ok", "reads", f"{message} (or: nnunet-xattnres tune -d DATASET -c CONFIGURATION)")
    for shape, results in known:
        try:
            choice = chosen.decide_or_fall_back(results, device, timed=True)
        except UserError as error:
            yield Finding("error", "reads", f"{shape}: {error}", export("NNUNET_XATTNRES_PATH", "reference"))
            continue
        states = ", ".join(f"{name} {result['status']}" for name, result in results.items())
        level: Level = "ok" if all(result["status"] == "ok" for result in results.values()) else "warning"
        taken = f"forward {choice.forward}, backward {choice.backward}"
        yield Finding(level, "reads", f"{shape}: {taken} ({states})")
