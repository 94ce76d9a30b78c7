"""Asks a new process what nnU-Net finds, for this one has our folder on its list whatever nnU-Net's commands have."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_xattnres import autoregister
from nnunet_xattnres.commands.doctor.child import ANSWER

_CHILD = Path(__file__).with_name("child.py")
# In front of sys.path a script has its own folder, -c the current one.
_AS_A_SCRIPT = """\
import runpy, sys, sysconfig
if not getattr(sys.flags, "safe_path", False):
    sys.path[0] = sysconfig.get_path("scripts")
runpy.run_path(sys.argv[1], run_name="__main__")
"""
_LONGEST = 300  # seconds; a cold file system takes a minute to import torch


def users_environment() -> dict[str, str]:
    """The environment of the shell: without our folder, unless it was there before this interpreter started."""
    environment = dict(os.environ)
    if autoregister.registered_at_start:
        others = folders_of_others()
        # on Windows the keys of os.environ are in capitals
        environment = {key: value for key, value in environment.items() if key.upper() != autoregister.VARIABLE.upper()}
        if others:
            environment[autoregister.VARIABLE] = os.pathsep.join(others)
    return environment


def folders_of_others() -> list[str]:
    """The folders on nnUNet_extTrainer that are not ours."""
    return [folder for folder in autoregister.search_path() if not is_ours(folder)]


def is_ours(folder: str) -> bool:
    """Whether this is our folder of trainers, however it is spelt."""
    return os.path.realpath(folder) == os.path.realpath(autoregister.trainers_dir())


def ask(environment: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    """What ``child.py`` answers when this interpreter runs it; ``{"broken": "python", "why": ...}`` if it does not."""
    words = [sys.executable, "-c", _AS_A_SCRIPT, str(_CHILD), *arguments]
    try:
        done = subprocess.run(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_LONGEST,
        )
    except subprocess.TimeoutExpired:
        return {"broken": "python", "why": f"no answer in {_LONGEST} seconds"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(ANSWER):
            answer: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
            return answer
    last = (done.stderr.strip() or "it printed nothing").splitlines()[-1]
    return {"broken": "python", "why": f"ended with {done.returncode}: {last}"}
