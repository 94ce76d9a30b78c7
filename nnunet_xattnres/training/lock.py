"""One training a fold."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnunet_xattnres.common.errors import UserError


def locked(fold: Path, log: Callable[[str], None]) -> FileLock:
    """A lock on a fold's folder; the system takes it back when the process ends, however it ends.

    The file stays when the lock is released: who unlinks it lets two trainings lock two files of one name.

    Raises:
        UserError: when another training holds it.
    """
    # never a soft lock: a job that is killed on one machine would block its successor on another
    kept: dict[str, Any] = (
        {"preserve_lock_file": True} if "preserve_lock_file" in signature(FileLock).parameters else {}
    )
    lock = FileLock(fold / "training.lock", fallback_to_soft=False, thread_local=False, **kept)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another training is writing to {fold}. Wait for it or stop it; to train a second network beside it, use "
            f"another fold, or plans or a trainer of another name."
        ) from None
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks: no reason not to train
        log(f"A second training of this fold would not be noticed: {lock.lock_file} cannot be locked ({error})")
    return lock
