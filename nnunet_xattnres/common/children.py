"""Work in a process of its own: what crashes or hangs there costs one result, and the rest goes on.

The process is a new interpreter, and no fork or spawn of this one: that would run a user's script again which has no
``if __name__ == "__main__"``.
"""

import importlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from queue import Empty, Queue
from typing import Any

_LEAST = 5.0  # seconds: no process is begun for less
_GRACE = 3.0  # seconds in which a process that has done its work may end
_LONGEST = 200  # characters of what a process says at its end
Result = dict[str, Any]
Work = tuple[str, list[dict[str, Any]], Mapping[str, Any]]


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
            with a ``status`` that JSON can hold. It may stop before the end: another process then goes on.
        items: what is to be done.
        arguments: the function's, by name.
        limit: seconds for one item, after which its process is ended.
        deadline: of ``time.monotonic()``, after which nothing is done any more.
        environment: variables that are set in the process.

    Yields:
        What the function does; otherwise ``status`` is "crashed", "too slow" or "no time", with a ``why``.
    """
    rest = list(items)
    while rest:
        if deadline - time.monotonic() < _LEAST:
            yield from ({"status": "no time"} for _ in rest)
            return
        n_before = len(rest)
        with _Child(environment or {}, (function, rest, arguments)) as child:
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


class _Child:
    """A process that works on items; when the block ends, it is gone."""

    def __init__(self, environment: Mapping[str, str], work: Work) -> None:
        path = os.pathsep.join(filter(None, sys.path))  # what this process imports, that one does
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from nnunet_xattnres.common.children import _serve; _serve()"],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
        )
        self.lines: Queue[bytes] = Queue()
        threading.Thread(target=self._talk, args=(pickle.dumps(work),), daemon=True).start()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.process.wait(_GRACE if self.process.poll() is None else None)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()

    def _talk(self, work: bytes) -> None:
        """Hand over the work, and take the results; an empty line is the end of the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(len(work).to_bytes(8, "big") + work)
            self.process.stdin.flush()  # it stays open: when this process ends, that one sees it
        except OSError:
            pass  # it has ended already
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(b"")

    def next(self, until: float, too_long: str) -> tuple[Result | None, Result | None]:
        """The next result, or why there is none; an empty ``why`` if the work has merely stopped."""
        try:
            line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            self.process.kill()
            return None, {"status": "too slow", "why": too_long}
        if line:
            result: Result = json.loads(line)
            return result, None
        code = self.process.wait()
        return None, {"status": "crashed", "why": f"its process ended with {code}{self._last_words()}" if code else ""}

    def _last_words(self) -> str:
        self.said.seek(0)
        lines = [line for line in self.said.read().decode(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1].strip()[:_LONGEST]}" if lines else ""


def _serve() -> None:
    """What the process does."""
    results_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers and drivers print is no result
    n = int.from_bytes(sys.stdin.buffer.read(8), "big")
    work = sys.stdin.buffer.read(n)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function, items, arguments = pickle.loads(work)
    module, name = function.split(":")
    for result in getattr(importlib.import_module(module), name)(items, **arguments):
        print(json.dumps(result), file=results_to, flush=True)
    sys.stdout.flush()
    os._exit(0)  # at once: a thread still reads stdin


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
