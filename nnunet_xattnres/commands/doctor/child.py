"""Run in a process of its own, as nnU-Net's commands are: what they import, and what nnU-Net's finder finds.

Prints one line, ``ANSWER`` and JSON. It must start where this package cannot be imported, too.
"""

import contextlib
import importlib.util
import inspect
import io
import json
import os
import sys
from typing import Any

ANSWER = "nnunet-xattnres doctor: "


def main() -> None:
    """Print what is found; with the argument "origins", only where the packages come from."""
    at_start = sys.modules.get("nnunet_xattnres.autoregister")  # before we import anything
    answer: dict[str, Any] = {
        "origins": {name: _origin(name) for name in ("nnunetv2", "nnunet_xattnres")},
        "variable": os.environ.get("nnUNet_extTrainer", ""),
        "registered_at_start": bool(getattr(at_start, "registered_at_start", False)),
    }
    if "origins" not in sys.argv[1:]:
        answer |= _trainers()
    print("\n" + ANSWER + json.dumps(answer), file=sys.__stdout__, flush=True)


def _origin(name: str) -> str | None:
    """The file of a package that can be imported, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _trainers() -> dict[str, Any]:
    silence = contextlib.redirect_stdout(io.StringIO())
    try:
        with silence:
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
    except (Exception, SystemExit) as error:
        return {"broken": "nnunetv2", "why": repr(error)}
    try:
        with silence:
            from nnunet_xattnres.training.epochs import TRAINERS
    except (Exception, SystemExit) as error:
        return {"broken": "nnunet_xattnres", "why": repr(error)}
    return {"trainers": {name: _found(find, name, ours) for name, ours in TRAINERS.items()}}


def _found(find: Any, name: str, ours: type) -> dict[str, Any]:
    """Of one trainer: its file and whether it is ours, or why it is not found."""
    with contextlib.redirect_stdout(io.StringIO()) as transcript:
        try:
            found = find(name)
        except (Exception, SystemExit) as error:
            not_found = isinstance(error, RuntimeError) and "Could not find" in str(error)
            return {"why": "" if not_found else repr(error)}
    return {"file": _file_of(found, transcript.getvalue()), "ours": found is ours}


def _file_of(trainer: type, transcript: str) -> str:
    """Where the finder got ``trainer`` from; it forgets the modules of external folders, but says which it searched."""
    try:
        return inspect.getfile(trainer)
    except TypeError:
        folder = transcript.rpartition(" from: ")[2].strip()
        return os.path.join(folder, *trainer.__module__.split(".")) + ".py"


if __name__ == "__main__":
    main()
