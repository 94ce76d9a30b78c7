"""Finding the files of a source, and reading them."""

import filecmp
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_xattnres.commands.convert.data_set import Found, SkippedCaseError
from nnunet_xattnres.common.errors import UserError

COPY = "the same file once more"


def files_of(source: Path) -> list[Path]:
    """Every file below a folder, also a linked one, without hidden ones and those that macOS adds to archives.

    Raises:
        UserError: when it is no folder.
        OSError: when a folder below it cannot be read.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; unpack the data set, and name the folder that holds it")
    files: list[Path] = []
    places: dict[Path, str] = {}
    for walked, below, names in os.walk(source, followlinks=True, onerror=_raise):
        folder = Path(walked)
        places[folder] = os.path.realpath(folder)
        if any(places.get(parent) == places[folder] for parent in folder.parents):  # a link leads back
            below.clear()
            continue
        below[:] = filter(_is_shown, below)
        files += [folder / name for name in filter(_is_shown, names)]
    return sorted(files)


def _raise(error: OSError) -> None:
    """For a folder that cannot be read: what is in it would be missing without a word."""
    raise error


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def stamp_of(files: Sequence[Path]) -> str:
    """Another one where a file is another one, by its name, its size or the time it was written."""
    facts = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in (file.stat(),)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def only_one(paths: Sequence[Path], found: Found) -> Path:
    """The one of several files of the same name, which must be copies: archives unpacked twice, say.

    Raises:
        UserError: when they differ.
    """
    first, *others = paths
    for other in others:
        if not filecmp.cmp(first, other, shallow=False):
            raise UserError(f"{first} and {other} should be the same, and differ; name a folder that holds one of them")
        found.skip(COPY, str(other))
    return first


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file that a library cannot read.

    Raises:
        UserError: for everything that goes wrong: the libraries raise errors of many kinds about a damaged file.
    """
    try:
        yield
    except (UserError, SkippedCaseError):
        raise
    except Exception as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {error}); fetch it again") from error
