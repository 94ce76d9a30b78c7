"""Work in a process of its own: what crashes or hangs there costs one line, and the rest goes on."""

import importlib
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any

_LEAST = 5.0  # seconds: no process is begun for less
_GRACE = 3.0  # seconds in which a process that has done its work may end
_LOCK = Lock()  # to start a process asks the others for their exit codes, which can be read once
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
            with a ``status``. It may stop before the end: another process then goes on.
        items: what is to be done.
        arguments: the function's, by name.
        limit: seconds for one item, after which its process is ended.
        deadline: of ``time.monotonic()``, after which nothing is done any more.
        environment: variables that are set before the function's module is imported.
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

    def __init__(
        self, environment: Mapping[str, str], work: tuple[str, list[dict[str, Any]], Mapping[str, Any]]
    ) -> None:
        context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
        if os.name == "posix":
            context.set_forkserver_preload(["torch"])  # seconds less for each; it leaves CUDA alone
        self.connection, theirs = context.Pipe(duplex=False)
        # as bytes: what they name is imported only when the environment is set
        self.process = context.Process(target=_work, args=(theirs, environment, pickle.dumps(work)))
        with _LOCK:
            self.process.start()
        theirs.close()

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        wait([self.process.sentinel], _GRACE)
        self.process.kill()
        self._join()
        self.connection.close()

    def _join(self) -> None:
        wait([self.process.sentinel])
        with _LOCK:
            self.process.join()

    def next(self, until: float, too_long: str) -> tuple[Result | None, Result | None]:
        """The next result, or why there is none; an empty ``why`` if the work has merely stopped."""
        if not self.connection.poll(max(0.0, until - time.monotonic())):
            self.process.kill()
            return None, {"status": "too slow", "why": too_long}
        try:
            return self.connection.recv(), None
        except EOFError:
            self._join()
            code = self.process.exitcode
            return None, {"status": "crashed", "why": f"its process ended with {code}" if code else ""}


def _work(connection: Connection, environment: Mapping[str, str], work: bytes) -> None:
    os.environ.update(environment)
    function, items, arguments = pickle.loads(work)
    module, name = function.split(":")
    for result in getattr(importlib.import_module(module), name)(items, **arguments):
        connection.send(result)
    connection.close()
