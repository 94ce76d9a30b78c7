"""A line of the report."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

SHOWN = 4  # names of which the same was found
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "error" when nnU-Net would not find a trainer or a requirement is not met, "warning" for what else may
            stop a user, or "ok".
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
