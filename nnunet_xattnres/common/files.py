"""Writing so that no file and no folder is ever half of one, and JSON files."""

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from nnunet_xattnres.common.errors import UserError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file anew without ever damaging the one that is there.

    Yields:
        A path beside ``path`` to write to. It takes the place of ``path`` once the block has ended well; if the block
        raises (the disk is full, say) it is removed, and the old file is as it was.

    Raises:
        UserError: when ``path`` is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed: no content of this block's
    try:
        yield partial
        if partial.exists():  # the block may have decided to write nothing
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], former: Collection[str] | None = None) -> Iterator[Path]:
    """Fill a folder anew without ever damaging what is in it.

    Args:
        former: the names of what gives way, beside what the new content has the name of; None for all that is there.

    Yields:
        An empty folder beside ``path``. What it holds takes the place of what ``path`` holds once the block has ended
        well. If the block raises, or a move fails, all is as it was; a process that is killed between the moves leaves
        the old content in a folder beside, ``path.name.old-...``. ``path`` itself stays: the user may be in it.
    """
    target = Path(path).resolve()  # "." has no name
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        old = Path(mkdtemp(prefix=f"{target.name}.old-", dir=target.parent))
        with ExitStack() as undo:
            undo.callback(old.rmdir)
            if not target.exists():
                target.mkdir()
                undo.callback(target.rmdir)
            new = list(partial.iterdir())
            gives_way = None if former is None else {*former, *(entry.name for entry in new)}
            before = [entry for entry in target.iterdir() if gives_way is None or entry.name in gives_way]
            for entries, destination in ((before, old), (new, target)):
                for entry in entries:
                    moved = entry.rename(destination / entry.name)
                    undo.callback(moved.rename, entry)
            undo.pop_all()
        shutil.rmtree(old, ignore_errors=True)  # the new content is in place, whatever cannot be removed of the old
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_to_replace(source: Path, out: Path) -> None:
    """Refuse to write over what is read: over ``source`` itself or a folder that it lies in, by whatever name.

    Raises:
        UserError: naming both.
    """
    place = source.resolve()
    if out.exists() and any(out.samefile(folder) for folder in (place, *place.parents)):
        raise UserError(f"{out} would take the place of {source}, which is to be read; name another")


def refuse_existing(path: Path, force: bool) -> None:
    """Refuse to write where something stands already, unless it is to be replaced; an empty folder is nothing.

    Raises:
        UserError: with the two ways out.
    """
    if path.exists() and not force and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists: name another, or replace it with --force")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def write_json(content: Any, path: Path, indent: int = 2) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
