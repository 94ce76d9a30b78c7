"""Command lines that can be copied, as the user's shell takes them; on Windows that of cmd, and what PowerShell has."""

import os
import re
import shlex
import subprocess

_SPECIAL = re.compile(r"[<>&|^()%!,;='$@{}`]")  # to cmd or PowerShell; list2cmdline quotes spaces alone


def command(*words: str) -> str:
    """A command line, whatever stands in its words."""
    if os.name != "nt":
        return shlex.join(words)
    line = " ".join(map(_quoted_for_windows, words))
    if not line.startswith('"'):
        return line
    return f"{line}   (PowerShell: & {' '.join(map(_literal, words))})"  # to which a line in quotes is a text


def export(name: str, value: str) -> str:
    """Set a variable for this shell."""
    if os.name != "nt":
        return f"export {name}={shlex.quote(value)}"
    return f'set "{name}={value}"   (PowerShell: $env:{name} = {_literal(value)})'


def unset(name: str) -> str:
    """Take a variable from this shell."""
    return f'set "{name}="   (PowerShell: Remove-Item Env:{name})' if os.name == "nt" else f"unset {name}"


def put_first_on_path(folder: str) -> str:
    """Let this shell look for programs in a folder first."""
    if os.name != "nt":
        return f'export PATH={shlex.quote(folder)}:"$PATH"'
    return f'set "PATH={folder};%PATH%"   (PowerShell: $env:PATH = {_literal(folder + ";")} + $env:PATH)'


def _quoted_for_windows(word: str) -> str:
    quoted = subprocess.list2cmdline([word])
    if quoted.startswith('"') or not _SPECIAL.search(word):
        return quoted
    at_the_end = quoted[len(quoted.rstrip("\\")) :]  # backslashes, which would escape the closing quote
    return f'"{quoted}{at_the_end}"'


def _literal(text: str) -> str:
    """Of PowerShell."""
    return "'" + text.replace("'", "''") + "'"
