"""A line of the report, and the commands that mend things, as the user's shell takes them."""

import os
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

SHOWN = 4  # names of which the same was found
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "error" when nnU-Net would not find a trainer, "warning" for what else may stop a user, or "ok".
        topic: what was looked at; several, with commas, when the same was found of each.
        message: what was found.
        remedy: what mends it, a command where one can; empty when there is nothing to mend.
    """

    level: Level
    topic: str
    message: str
    remedy: str = ""


def grouped(findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for all that say the same and have the same remedy, where the first of them stood."""
    topics: dict[tuple[Level, str, str], list[str]] = {}
    for finding in findings:
        topics.setdefault((finding.level, finding.message, finding.remedy), []).append(finding.topic)
    for (level, message, remedy), names in topics.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN + 1 else ""
        yield Finding(level, ", ".join(names[:SHOWN] if more else names) + more, message, remedy)


def command(*words: str) -> str:
    """A command line that can be copied, whatever stands in its words."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def export(name: str, value: str) -> str:
    """Set a variable for this shell."""
    return f"set {name}={value}" if os.name == "nt" else f"export {name}={shlex.quote(value)}"


def unset(name: str) -> str:
    """Take a variable from this shell."""
    return f"set {name}=" if os.name == "nt" else f"unset {name}"
