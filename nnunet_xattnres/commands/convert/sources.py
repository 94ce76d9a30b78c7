"""Finding the files of a source, and reading them."""

import filecmp
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_xattnres.commands.convert.data_set import Found, SkippedCaseError
from nnunet_xattnres.common.errors import UserError

COPY = "the same file once more"


def files_of(source: Path) -> list[Path]:
    """Every file below a folder, without hidden ones and those that macOS adds to archives.

    Raises:
        UserError: when it is no folder.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; unpack the data set, and name the folder that holds it")
    files = sorted(Path(folder) / name for folder, _, names in os.walk(source, followlinks=True) for name in names)
    return [path for path in files if not _is_hidden(path.relative_to(source))]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


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
