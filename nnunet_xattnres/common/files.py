"""Writing so that no file is ever half of one, and JSON files."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import UserError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file anew without ever damaging the one that is there.

    Yields:
        A path beside ``path`` to write to. It takes the place of ``path`` once the block has ended well; if the block
        raises (the disk is full, say) it is removed, and the old file is as it was.
    """
    target = Path(path)
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
