"""Writing so that no file is ever half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file anew without ever damaging the one that is there.

    Yields:
        A path beside ``path`` to write to. It takes the place of ``path`` once the block has ended well; if the block
        raises (the disk is full, say) it is removed, and the old file is as it was.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    try:
        yield partial
        if partial.exists():  # the block may have decided to write nothing
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
