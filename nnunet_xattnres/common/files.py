"""Files and folders that are never half of one, what is refused before one is written, JSON and digests."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nnunet_xattnres.common.errors import ExistsError, UserError, words_of

_PARTIAL, _OLD = ".partial-", ".old-"  # folders of new content while it is written, and of old while it gives way


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Write a file anew without ever damaging the one that is there.

    Args:
        overwrite: take the place of what is there; else only a name that nothing has.

    Yields:
        A path in a folder of its own beside ``path`` to write to. It takes the place of ``path`` once the block has
        ended well, and then what the block has written beside it, under other names; if the block raises (the disk is
        full, say) it is removed, and the old file is as it was.

    Raises:
        UserError: when ``path`` is a folder.
        ExistsError: when it is not to be overwritten, and is there once the block has ended.
    """
    target = Path(path)
    refuse_folder(target)
    folder = _folder_in(target.parent, _PARTIAL)
    try:
        partial = folder / target.name
        yield partial
        if partial.exists():  # the block may have decided to write nothing
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            _publish(partial, target, overwrite)
        for other in folder.iterdir():
            if other.name != target.name and other.is_file():
                other.replace(target.with_name(other.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(partial: Path, target: Path, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(partial, target)  # fails where the name is taken, in one step
            return
        except FileExistsError:
            if is_same(partial, target):  # NFS may report so of a link that it has made, if its answer was lost
                return
            raise ExistsError(target) from None
        except OSError:  # a file system without links
            refuse_existing(target, force=False)
    partial.replace(target)


@contextmanager
def replacing_folder(
    path: str | os.PathLike[str],
    former: Collection[str] | None = None,
    *,
    overwrite: bool = True,
    keep: bool = False,
) -> Iterator[Path]:
    """Fill a folder anew without ever damaging what is in it.

    Args:
        former: the names of what gives way, beside what the new content has the name of; None for all that is there.
        overwrite: take the place of what is there; else only fill a folder that has nothing in it.
        keep: if it fails, leave the files that the block has written, and let the error name their folder.

    Yields:
        An empty folder in ``path``: that may be a mount point. What it holds takes the place of what ``path`` holds
        once the block has ended well. If the block raises, or a move fails, all is as it was; a process that is killed
        leaves ``path/.partial-...``, and between the moves the old content in ``path/.old-...``. ``path`` itself stays:
        the user may be in it.

    Raises:
        ExistsError: when nothing is to be overwritten, and something is there once the block has ended.
        UserError: when ``path`` is a file; with ``keep``, in the place of an error or of Ctrl-C, once the block has
            written a file.
    """
    target = Path(path).resolve()  # the block may go to another folder
    with ExitStack() as undo:
        if target.is_file():
            raise UserError(f"{path} is a file; name a folder")
        missing = [folder for folder in (target, *target.parents) if not folder.exists()]
        target.mkdir(parents=True, exist_ok=True)
        for folder in reversed(missing):  # the innermost is the first to go
            undo.callback(_remove_empty, folder)
        partial = _folder_in(target, _PARTIAL)
        undo.callback(shutil.rmtree, partial, ignore_errors=True)
        try:
            yield partial
            _exchange(target, partial, former, overwrite)
        except (Exception, KeyboardInterrupt) as error:
            if keep and any(entry.is_file() for entry in partial.rglob("*")):
                undo.pop_all()
                raise UserError(f"{words_of(error)}\nWhat was finished is kept in {partial}") from error
            raise
        undo.pop_all()
    shutil.rmtree(partial, ignore_errors=True)


def _exchange(target: Path, partial: Path, former: Collection[str] | None, overwrite: bool) -> None:
    """Move what ``partial`` holds into ``target`` and what gives way out of it, all or nothing."""
    new, before = list(partial.iterdir()), content_of(target)
    if before and not overwrite:
        raise ExistsError(target)
    if former is not None:
        gives_way = {*former, *(entry.name for entry in new)}
        before = [entry for entry in before if entry.name in gives_way]
    old = _folder_in(target, _OLD)
    with ExitStack() as undo:
        undo.callback(old.rmdir)
        for entries, destination in ((before, old), (new, target)):
            for entry in entries:
                moved = entry.rename(destination / entry.name)
                undo.callback(moved.rename, entry)
        undo.pop_all()
    shutil.rmtree(old, ignore_errors=True)  # the new content is in place, whatever cannot be removed of the old


def _folder_in(parent: Path, prefix: str) -> Path:
    """A new folder with the usual permissions, which what is moved out of it may keep; tempfile's are its owner's."""
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()
    return folder


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed left half-written in a folder; no other may be writing to it now."""
    for partial in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)


def content_of(folder: Path) -> list[Path]:
    """What is in a folder, but for what is only being written into it, by whomever."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith((_PARTIAL, _OLD))]


def refuse_to_replace(source: Path, out: Path) -> None:
    """Refuse to write over what is read: over ``source`` itself or a folder that it lies in, by whatever name.

    Raises:
        UserError: naming both.
    """
    place = source.resolve()
    if out.exists() and any(out.samefile(folder) for folder in (place, *place.parents)):
        raise UserError(f"{out} would take the place of {source}, which is to be read; name another")


def refuse_folder_that_is_read(out: Path, folders: Iterable[Path]) -> None:
    """Refuse to write among the masks or images of a folder, where pictures would be taken for some of them.

    Raises:
        UserError: naming it.
    """
    if any(is_same(out, folder) for folder in folders):
        raise UserError(f"{out} holds masks or images that are to be read: name another folder with -o")


def is_same(path: Path, other: Path) -> bool:
    """Whether both are there and the same, by whatever name."""
    try:
        return path.samefile(other)
    except OSError:  # a link to nothing
        return False


def refuse_folder(path: Path) -> None:
    """Refuse a folder where a file is to be written.

    Raises:
        UserError: naming it.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")


def refuse_no_folder(path: Path) -> None:
    """Refuse what is no folder where one is to be read.

    Raises:
        UserError: naming it.
    """
    if not path.is_dir():
        raise UserError(f"{path} {'is no folder' if path.exists() else 'does not exist'}; name a folder that there is")


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to write where something stands already, unless it is to be replaced; an empty folder is nothing.

    Raises:
        ExistsError: with the two ways out.
    """
    if path.exists() and not force and not (path.is_dir() and not content_of(path)):
        raise ExistsError(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def sha256_of(file: Path) -> str:
    """The digest of a file, in hexadecimal digits; a part of it at a time is in memory."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def open_table(path: Path) -> IO[str]:
    """A CSV file to write, in UTF-8; bytes of a file's name that are no UTF-8 are escaped."""
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def write_text(text: str, path: Path, *, overwrite: bool = True) -> None:
    """Write a text file in UTF-8, whole or not at all; bytes of a file's name that are no UTF-8 are escaped."""
    with replacing(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(content: Any, path: Path, indent: int = 2, *, overwrite: bool = True) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(json.dumps(content, indent=indent) + "\n", path, overwrite=overwrite)
