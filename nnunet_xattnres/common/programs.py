"""Where the programs of an environment are, and which Python runs them."""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.installing import install

_EXEC = re.compile(rb"'''exec' (?:\"([^\"]+)\"|'([^']+)'|(\S+)) ")  # where a path is too long for #!, or has a space


def find_program(name: str) -> Path:
    """One of nnU-Net's commands, from this interpreter's environment if it is there, else from PATH.

    Raises:
        UserError: when it is in neither, or the one on PATH is run by another Python, which need not have this package.
    """
    found = find_here(name)
    if found is not None:
        return found
    way_out = (
        f"Install nnU-Net in this environment: {install('nnunetv2>=2.8.1,<3')}. "
        "If it is installed, add the folder of its commands to PATH."
    )
    on_path = shutil.which(name)
    if on_path is None:
        raise UserError(f"{name} is neither beside {sys.executable} nor on PATH. {way_out}")
    interpreter = interpreter_of(Path(on_path))
    if interpreter is not None and not is_this(interpreter):
        raise UserError(
            f"{name} is not beside {sys.executable}, and {on_path} is another Python's, {interpreter}. {way_out}"
        )
    return Path(on_path)


def find_here(name: str) -> Path | None:
    """A command of this interpreter's environment, one of the user's own installs (pip install --user), too."""
    folders = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    if found := shutil.which(name, path=os.pathsep.join(folders)):
        return Path(found)
    if sys.prefix != sys.base_prefix:
        return None
    # All Pythons of one user share this folder.
    found = shutil.which(name, path=sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    interpreter = interpreter_of(Path(found)) if found else None
    return Path(found) if found and (interpreter is None or is_this(interpreter)) else None


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
