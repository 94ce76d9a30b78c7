"""Command lines that can be copied, as the user's shell takes them."""

import os
import shlex
import subprocess


def command(*words: str) -> str:
    """A command line, whatever stands in its words."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def export(name: str, value: str) -> str:
    """Set a variable for this shell."""
    return f'set "{name}={value}"' if os.name == "nt" else f"export {name}={shlex.quote(value)}"


def unset(name: str) -> str:
    """Take a variable from this shell."""
    return f"set {name}=" if os.name == "nt" else f"unset {name}"
