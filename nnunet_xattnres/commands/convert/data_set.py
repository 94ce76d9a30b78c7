"""What a data set is to the conversion: its description, and the cases that were found in a source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_xattnres.nnunet.pool import Progress


class SkippedCaseError(Exception):
    """A case that is left out; the message is the reason, the same for all cases of that kind."""


@dataclass(frozen=True)
class Pair:
    """A case as the content of its two files, and what was mended in it."""

    image: bytes
    label: bytes
    mended: tuple[str, ...] = ()
    fingerprint: str = ""  # equal for exact copies of an image


@dataclass(frozen=True)
class Case:
    """One case of a source; ``read`` raises ``SkippedCaseError`` for one that does not fit."""

    name: str
    read: Callable[[], Pair]
    files: Sequence[Path]  # that it reads
    part: str = "training"  # of the official split
    sequence: str = ""  # of a video


@dataclass
class Found:
    """What a source holds."""

    cases: list[Case]
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> file or case
    measured: dict[str, str] = field(default_factory=dict)  # what decides how the cases are read

    def skip(self, reason: str, what: str) -> None:
        self.skipped.setdefault(reason, []).append(what)


@dataclass(frozen=True)
class DataSet:
    """A data set that can be converted."""

    title: str
    number: int  # its default
    folder: str  # Dataset950_<folder>
    channels: tuple[str, ...]
    labels: tuple[str, ...]  # 1, 2, ...
    file_ending: str
    terms: str  # of the licence, in one line
    cite: str
    parts: Mapping[str, int]  # of the official split, and how many cases each has
    splits: tuple[str, ...]  # that it can have, the default first
    expected: str  # what a source looks like
    find: Callable[[Path, int | None, Progress], Found]  # source, size, progress
