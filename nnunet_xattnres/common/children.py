"""Work in a process of its own: what crashes or hangs there costs one item, and the rest goes on.

The process is a new interpreter that runs this module. It is none of multiprocessing's, which would run a user's script
once more in it, and with it the training, if the script does not guard against that.
"""

import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import IO, Any

# What lies in the current folder must not be taken for one of our modules, or torch's: -c would look there first.
_START = "import sys; sys.path[:] = filter(None, sys.path); from nnunet_xattnres.common.children import _main; _main()"
_LEAST = 5.0  # seconds: no process is begun for less
_GRACE = 3.0  # seconds in which a process that has done its work, or was killed, may end
_LONGEST, _END = 300, 8192  # characters of the line that a process wrote last, bytes in which it is looked for
_KILLED = -9  # by SIGKILL; on Windows no process ends so
_RUNNING: set["_Child"] = set()
_LOCK = Lock()  # on Windows processes that are begun at the same time hold each other's pipes open
Result = dict[str, Any]


def results(
    function: str,
    items: Sequence[dict[str, Any]],
    arguments: Mapping[str, Any],
    *,
    limit: float,
    deadline: float,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Result]:
    """One result for every item, in their order, whatever becomes of the process that works on them.

    Args:
        function: ``module:name`` of a generator that is given items and yields a result for each in turn, a dictionary
            with a ``status``, of what JSON can hold. It may stop before the end: another process then goes on.
        items: what is to be done. They and the arguments are pickled; nothing of them may be defined in ``__main__``.
        arguments: the function's, by name.
        limit: seconds for one item, after which its process is ended; the start of the process counts.
        deadline: of ``time.monotonic()``, after which nothing is done any more.
        environment: variables that the process starts with, beside those of this one.

    Returns:
        What the function yields; where it does not, ``status`` and mostly ``why``: "too slow", "crashed" (by an
        exception, too), "out of memory" (SIGKILL, by which the system ends what takes too much), "no time".

    Raises:
        OSError: no process can be started.
        pickle.PicklingError, TypeError, AttributeError: items or arguments cannot be pickled.
    """
    rest = list(items)
    while rest:
        if deadline - time.monotonic() < _LEAST:
            yield from ({"status": "no time"} for _ in rest)
            return
        n_before = len(rest)
        with _Child(pickle.dumps((function, rest, dict(arguments))), environment or {}) as child:
            failure = None
            while rest and failure is None:
                now = time.monotonic()
                result, failure = child.next(min(now + limit, deadline), f"longer than {limit:.0f} s")
                if result is not None:
                    rest.pop(0)
                    yield result
        if rest and failure is not None and time.monotonic() < deadline and (failure["why"] or len(rest) == n_before):
            rest.pop(0)
            yield failure


def kill_all() -> None:
    """Kill every process that works for ``results``, in all threads; it waits for nothing: made for signal handlers."""
    for child in tuple(_RUNNING):
        child.process.kill()


class _Child:
    """A process that works on items; when the block ends, it is gone."""

    def __init__(self, work: bytes, environment: Mapping[str, str]) -> None:
        self._found: SimpleQueue[Result | None] = SimpleQueue()
        self._written = tempfile.TemporaryFile()  # noqa: SIM115
        paths = os.pathsep.join(map(os.path.abspath, sys.path))
        try:
            with _LOCK:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _START],
                    env={**os.environ, "PYTHONPATH": paths, **environment},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._written,
                )
        except OSError:
            self._written.close()
            raise
        _RUNNING.add(self)
        self._talk = Thread(target=self._send_and_receive, args=(work,), daemon=True)
        self._talk.start()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._wait()
        self.process.kill()
        self._wait()  # not for ever: what hangs in a driver cannot be killed
        _RUNNING.discard(self)
        self._talk.join(_GRACE)
        if self.process.stdin is not None and not self._talk.is_alive():
            with suppress(OSError):  # it still had something to send
                self.process.stdin.close()
        self._written.close()

    def next(self, until: float, too_long: str) -> tuple[Result | None, Result | None]:
        """The next result, or why there is none; an empty ``why`` if the work has merely stopped."""
        try:
            result = self._found.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            if self.process.poll() is None:
                self.process.kill()
                return None, {"status": "too slow", "why": too_long}
            result = None  # something that it started holds the pipe open
        if result is not None:
            return result, None
        self._wait()
        code = self.process.poll()
        if code == _KILLED:
            why = "its process was killed, most likely for want of main memory"
            return None, {"status": "out of memory", "why": why}
        why = ": ".join(filter(None, (f"its process ended with {code}", _last_line(self._written))))
        return None, {"status": "crashed", "why": why if code != 0 else ""}

    def _wait(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE)

    def _send_and_receive(self, work: bytes) -> None:
        """In a thread, for Windows cannot wait for a pipe; stdin stays open, and ends when this process does."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        with suppress(OSError):  # the process has ended already
            stdin.write(len(work).to_bytes(8, "big") + work)
            stdin.flush()
        with stdout:
            for line in stdout:
                if line.startswith(b"{"):
                    with suppress(ValueError):  # it was ended within the line
                        self._found.put(json.loads(line))
        self._found.put(None)


def _last_line(file: IO[bytes]) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
    lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next(filter(None, reversed(lines)), "")[:_LONGEST]


def _main() -> None:
    """The process: from the work on standard input to a line of JSON on standard output for each result."""
    stdin, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what is started from here must not read it
    os.close(nothing)
    os.dup2(2, 1)  # Triton, ptxas and drivers print
    work = stdin.read(int.from_bytes(stdin.read(8), "big"))
    Thread(target=_end_with_parent, args=(stdin.fileno(),), daemon=True).start()
    code = 0
    try:
        out.write(b"\n")  # something may have printed while the interpreter started
        _do(work, out)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)  # CUDA, once it is spoilt, can crash or hang when an interpreter takes it down


def _do(work: bytes, out: IO[bytes]) -> None:
    function, items, arguments = pickle.loads(work)
    module, name = function.split(":")
    for result in getattr(importlib.import_module(module), name)(items, **arguments):
        out.write(json.dumps(result).encode() + b"\n")
        out.flush()


def _end_with_parent(stdin: int) -> None:
    """Its end is the parent's, however that was ended."""
    while os.read(stdin, 1):
        pass
    os._exit(1)
