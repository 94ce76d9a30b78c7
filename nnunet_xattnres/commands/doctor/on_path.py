"""Which ``nnUNetv2_train`` the shell runs, and whether it is this environment's."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from nnunet_xattnres.commands.doctor.findings import Finding
from nnunet_xattnres.commands.doctor.installation import NEEDED, install
from nnunet_xattnres.common.processes import find_here

COMMAND = "nnUNetv2_train"
_EXEC = re.compile(rb"'''exec' (?:\"([^\"]+)\"|'([^']+)'|(\S+)) ")  # where a path is too long for #!, or has a space


def check_command() -> Iterator[Finding]:
    """Whether ``nnUNetv2_train``, as the shell finds it, is run by this interpreter."""
    found, here = shutil.which(COMMAND), find_here(COMMAND)
    if here is None:
        message = f"{sys.prefix} has no such command"
        yield Finding("warning", COMMAND, message, install(NEEDED["nnunetv2"], "--force-reinstall", "--no-deps"))
    elif found is None:
        yield Finding("warning", COMMAND, f"not on PATH; this environment's is {here}", _first_on_path(here.parent))
    else:
        yield _judged(Path(found), here)


def _judged(found: Path, here: Path) -> Finding:
    interpreter = interpreter_of(found)
    mine = found.parent.resolve() == here.parent.resolve() if interpreter is None else is_this(interpreter)
    if mine:
        return Finding("ok", COMMAND, str(found))
    if interpreter is None and not _is_executable_of_windows(found):
        message = f"{found} is no Python script; which environment it starts is not known. This one's is {here}"
        return Finding("ok", COMMAND, message)
    of = f", run by {interpreter}" if interpreter is not None else ""
    if interpreter is not None and not interpreter.exists():
        of += ", which is not there any more"
    message = f"the one on PATH belongs to another environment: {found}{of}; this one's is {here}"
    return Finding("warning", COMMAND, message, _first_on_path(here.parent))


def interpreter_of(script: Path) -> Path | None:
    """The Python that runs a script, by its first lines; None when they name none, as those of Windows' launchers."""
    try:
        with script.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    if not head.startswith(b"#!"):
        return None
    words = head.splitlines()[0].removeprefix(b"#!").split()
    if indirect := _EXEC.search(head):
        words = [next(filter(None, indirect.groups()))]
    elif words and os.path.basename(words[0]) == b"env":  # the arguments: -S, NAME=VALUE, then the program
        rest = [os.fsdecode(w) for w in words[1:] if not w.startswith(b"-") and b"=" not in w]
        words = [os.fsencode(shutil.which(rest[0]) or rest[0])] if rest else []
    if not words or "python" not in os.path.basename(os.fsdecode(words[0])).lower():
        return None
    return Path(os.fsdecode(words[0]))


def is_this(interpreter: Path) -> bool:
    """Whether it is the running interpreter: all names in a folder that lead to the same program are one.

    The link itself must not be followed: the Pythons of all virtual environments lead to the same program.
    """
    ours = Path(sys.executable)
    same_folder = interpreter.parent.resolve() == ours.parent.resolve()
    return same_folder and interpreter.resolve() == ours.resolve()


def _is_executable_of_windows(file: Path) -> bool:
    return file.suffix.lower() == ".exe"


def _first_on_path(folder: Path) -> str:
    return f"set PATH={folder};%PATH%" if os.name == "nt" else f'export PATH="{folder}:$PATH"'
