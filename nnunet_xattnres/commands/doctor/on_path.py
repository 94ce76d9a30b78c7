"""Which ``nnUNetv2_train`` the shell runs, and whether it is this environment's."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from nnunet_xattnres.commands.doctor.findings import Finding
from nnunet_xattnres.common.installing import install_nnunet
from nnunet_xattnres.common.programs import find_here, interpreter_of, is_this
from nnunet_xattnres.common.shell import put_first_on_path

COMMAND = "nnUNetv2_train"


def check_command() -> Iterator[Finding]:
    """Whether ``nnUNetv2_train``, as the shell finds it, is run by this interpreter."""
    found, here = shutil.which(COMMAND), find_here(COMMAND)
    if here is None:
        message = f"{sys.prefix} has no such command"
        yield Finding("warning", COMMAND, message, install_nnunet())
    elif found is None:
        yield Finding(
            "warning", COMMAND, f"not on PATH; this environment's is {here}", put_first_on_path(str(here.parent))
        )
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
    return Finding("warning", COMMAND, message, put_first_on_path(str(here.parent)))


def _is_executable_of_windows(file: Path) -> bool:
    return file.suffix.lower() == ".exe"
