"""Programs that are started: nothing of them is left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any


@contextmanager
def process_group(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    stdin: int | IO[str] = subprocess.DEVNULL,
    stdout: int | IO[str] = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """The running command; when the block ends, by an error or Ctrl-C too, it and all that it started are gone."""
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # of Windows
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=os.name == "posix",
        creationflags=flags,
    )
    try:
        yield process
    finally:
        _stop_group(process)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM, by which schedulers stop, is taken as Ctrl-C is; in the block alone.

    A process that is forked inherits the handler, and those of a multiprocessing.Pool could not always be terminated.
    Outside the main thread nothing is changed.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop_group(process: subprocess.Popen[str]) -> None:
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        return
    with suppress(ProcessLookupError, PermissionError):  # nothing is left of it
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
