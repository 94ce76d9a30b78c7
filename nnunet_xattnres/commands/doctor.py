"""What `nnunet-xattnres doctor` looks at: each check is a function that returns findings and changes nothing."""

import contextlib
import importlib
import importlib.metadata
import inspect
import io
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnunet_xattnres import autoregister

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "error" when nnU-Net would not find a trainer, "warning" for what else may stop a user, or "ok".
        topic: what was looked at.
        message: what was found.
        remedy: the command that mends it; empty when there is nothing to mend.
    """

    level: Level
    topic: str
    message: str
    remedy: str = ""


def diagnose() -> Iterator[Finding]:
    """Every finding about this environment, as it is for the commands that nnU-Net installs in it."""
    yield from check_versions()
    yield from check_registration()
    yield from check_trainers()
    yield from check_paths()
    yield from check_device()
    yield from check_reads()


def check_versions() -> Iterator[Finding]:
    """Versions of Python, of this package and of what it stands on, against what this package requires."""
    yield Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")
    for name in ("nnunet-xattnres", "nnunetv2", "dynamic-network-architectures", "torch"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("error", name, "not installed", "pip install nnunet-xattnres")
            continue
        if name == "nnunetv2" and not _supported(version):
            yield Finding(
                "error", name, f"{version}; this package needs >=2.8.1,<3", 'pip install "nnunetv2>=2.8.1,<3"'
            )
        else:
            yield Finding("ok", name, version)


def _supported(version: str) -> bool:
    parts = [int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:3]]
    return [2, 8, 1] <= parts < [3]


def check_registration() -> Iterator[Finding]:
    """Whether our folder is on nnUNet_extTrainer, who put it there, and whether the folders there exist."""
    topic, ours = autoregister.VARIABLE, autoregister.trainers_dir()
    if not Path(ours).is_dir():
        yield Finding("error", "trainers folder", f"{ours} is missing", "pip install --force-reinstall nnunet-xattnres")
    switched_off = os.environ.get(autoregister.SWITCH, "1") == "0"
    if autoregister.is_registered() and autoregister.registered_at_start:
        yield Finding("ok", topic, f"{ours} (put there by nnunet_xattnres.pth when Python started)")
    elif autoregister.is_registered():
        yield Finding("ok", topic, f"{ours} (from the environment)")
    elif switched_off:
        remedy = f"{_unset(autoregister.SWITCH)}   or   {_register_by_hand()}"
        yield Finding("error", topic, f"our folder is not on it: {autoregister.SWITCH}=0 switches that off", remedy)
    else:
        yield Finding("error", topic, "our folder is not on it: nnunet_xattnres.pth did not run", _register_by_hand())
    for folder in autoregister.search_path():
        if not Path(folder).is_dir():
            message = f"{folder} is listed but does not exist; nnU-Net skips it"
            rest = os.pathsep.join(_folders_of_others())
            yield Finding("warning", topic, message, _export(topic, f'"{rest}"', rest) if rest else _unset(topic))


def check_trainers() -> Iterator[Finding]:
    """The file that each of our trainers comes from when nnU-Net's own finder looks for it."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

            from nnunet_xattnres.training.epochs import TRAINERS
    except Exception as error:
        yield Finding("error", "trainers", f"nnunetv2 cannot be imported: {error!r}", "pip install nnunet-xattnres")
        return
    for name, ours in TRAINERS.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()) as transcript:
                found = recursive_find_trainer_class_by_name(name)
        except Exception as error:
            not_found = isinstance(error, RuntimeError) and "Could not find" in str(error)
            reason = "nnU-Net does not find it" if not_found else f"nnU-Net's search fails: {error!r}"
            yield Finding("error", name, reason, _register_by_hand(keep_others=not_found))
            continue
        file = _file_of(found, transcript.getvalue())
        if found is ours:
            yield Finding("ok", name, file)
        else:
            remedy = f"rename that class, or take its folder off {autoregister.VARIABLE}"
            yield Finding("warning", name, f"{file} comes before ours and is used instead", remedy)


def _file_of(trainer: type, transcript: str) -> str:
    """Where the finder got ``trainer`` from; it forgets the modules of external folders, but says which it searched."""
    try:
        return inspect.getfile(trainer)
    except TypeError:
        folder = transcript.rpartition(" from: ")[2].strip()
        return os.path.join(folder, *trainer.__module__.split(".")) + ".py"


def check_paths() -> Iterator[Finding]:
    """nnU-Net's three folders: set, there, and writable."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        value = os.environ.get(name)
        if not value:
            yield Finding("warning", name, "not set", _export(name, "/path/to/" + name, rf"C:\path\to\{name}"))
        elif not Path(value).is_dir():
            yield Finding("warning", name, f"{value} is no folder", f'mkdir "{value}"')
        elif not _writable(value):
            hint = "fine for reading" if name == "nnUNet_raw" else "nnU-Net must write there"
            yield Finding("warning", name, f"{value} is not writable; {hint}", f'chmod u+w "{value}"')
        else:
            yield Finding("ok", name, f"{value} (writable)")


def check_device() -> Iterator[Finding]:
    """What a training would run on, and whether nnU-Net would compile the network there."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:
        yield Finding("error", "device", f"torch cannot be imported: {error!r}", "pip install --force-reinstall torch")
        return
    if torch.cuda.is_available():
        yield Finding("ok", "device", f"cuda: {torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "device", "mps: pass -device mps to nnU-Net's commands")
    else:
        built_for = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch has no CUDA"
        yield Finding("ok", "device", f"cpu, no CUDA device ({built_for}): pass -device cpu to nnU-Net's commands")
    yield _compile_state(torch.cuda.is_available())


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


def _folders_of_others() -> list[str]:
    """The folders on nnUNet_extTrainer that exist and are not ours."""
    ours = Path(autoregister.trainers_dir())
    return [f for f in autoregister.search_path() if Path(f).is_dir() and Path(f) != ours]


def _register_by_hand(keep_others: bool = True) -> str:
    others = _folders_of_others() if keep_others else []
    unix = ":".join([*others, "$(nnunet-xattnres trainers-dir)"])
    return _export(autoregister.VARIABLE, f'"{unix}"', ";".join([*others, autoregister.trainers_dir()]))


def _unset(name: str) -> str:
    return f"set {name}=" if os.name == "nt" else f"unset {name}"


def _export(name: str, value: str, windows_value: str) -> str:
    return f"set {name}={windows_value}" if os.name == "nt" else f"export {name}={value}"


def check_reads() -> Iterator[Finding]:
    """By which path the reads are computed on the device of a training, and why."""
    try:
        torch = importlib.import_module("torch")
        ops = importlib.import_module("nnunet_xattnres.ops")
    except Exception as error:
        yield Finding("error", "reads", f"nnunet_xattnres.ops cannot be imported: {error!r}", "pip install torch")
        return
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        forced, path = ops.forced_path(), ops.read_path(device, channels=ops.FUSED_CHANNELS)
    except ValueError as error:
        yield Finding("error", "reads", str(error), _unset(ops.VARIABLE))
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
            'pip install "torch>=2.4,!=2.9.*"',
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
        choice = chosen.decide(results, timed=True)
        states = ", ".join(f"{name} {result['status']}" for name, result in results.items())
        level: Level = "ok" if all(result["status"] == "ok" for result in results.values()) else "warning"
        taken = f"forward {choice.forward}, backward {choice.backward}" if choice else chosen.FALLBACK
        yield Finding(level, "reads", f"{shape}: {taken} ({states})")
