"""Where the programs of an environment are, and which Python runs them."""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.installing import install_nnunet

_EXEC = re.compile(rb"'''exec' (?:\"([^\"]+)\"|'([^']+)'|(\S+)) ")  # where a path is too long for #!, or has a space


def find_program(name: str) -> Path:
    """One of nnU-Net's commands, from this interpreter's environment if it is there, else from PATH.

    Raises:
        UserError: when it is in neither, or the one on PATH is run by another Python, which need not have this package.
    """
    found = find_here(name)
    if found is not None:
        return found
    on_path = shutil.which(name)
    if on_path is None:
        raise UserError(
            f"{name} is neither beside {sys.executable} nor on PATH. If nnU-Net is installed in this environment, add "
            f"the folder of its commands to PATH; else: {install_nnunet()}"
        )
    program = Path(on_path)
    if not _may_be_ours(program):
        raise UserError(
            f"{name} is not beside {sys.executable}, and {program} is another Python's, {interpreter_of(program)}. "
            f"Install nnU-Net with its commands in this environment: {install_nnunet()}"
        )
    return program


def find_here(name: str) -> Path | None:
    """A command of this interpreter's environment, one of the user's own installs (pip install --user), too."""
    folders = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    if sys.prefix == sys.base_prefix:
        folders.append(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    found = (shutil.which(name, path=folder) for folder in folders)  # several Pythons may share one of them
    return next((Path(program) for program in found if program and _may_be_ours(Path(program))), None)


def _may_be_ours(program: Path) -> bool:
    interpreter = interpreter_of(program)
    return interpreter is None or is_this(interpreter)


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
    """Whether it is the running interpreter, by whatever name; the Pythons of all its environments lead to it, too."""
    ours = Path(sys.executable)
    environment = _environment_of(ours)
    if environment is not None or _environment_of(interpreter) is not None:
        return _environment_of(interpreter) == environment  # its Pythons may be copies
    return interpreter.resolve() == ours.resolve()


def _environment_of(interpreter: Path) -> Path | None:
    """The virtual environment that a Python is of, if any; a link to it is not followed, as Python does not."""
    for folder in (interpreter.parent, interpreter.parent.parent):
        if (folder / "pyvenv.cfg").is_file():
            return folder.resolve()
    return None
