"""A function over many cases, in as many processes as nnU-Net uses for its own."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

from nnunet_xattnres.common.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str, int], Callable[[], None]]  # from what is done, and how often, to what says that one is done
_ALONE = 10.0  # seconds: a further process imports torch for about as long, and a few small cases are done meanwhile
_MOST = 61  # that Windows waits for
_KILLED = (
    "its process was killed, most likely because the main memory does not suffice: take a machine that has more, or "
    "end other programs"
)


def outcomes(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result | UserError]:
    """What the function returns for each item, in their order; where it raises a UserError, that error.

    The first seconds of the work are done in this process, the rest in as many as nnU-Net uses
    (``nnUNet_def_n_proc``). Where one of them is killed, half as many go on; an item that is killed alone has an error.

    Args:
        function: pickled, as the items are; nothing of them may be defined in ``__main__``.
    """
    from nnunetv2.configuration import default_num_processes

    processes, rest, end = default_num_processes, list(items), time.monotonic() + _ALONE
    while rest and (processes == 1 or time.monotonic() < end):
        yield _outcome(function, rest.pop(0))
    while rest:
        try:
            # it sees, unlike a Pool of multiprocessing, that a process has died
            with (
                ProcessPoolExecutor(
                    min(processes, len(rest), _MOST), get_context("spawn"), _leave_interrupts_to_the_parent
                ) as pool,
                _ended(pool),
            ):
                for future in [pool.submit(_outcome, function, item) for item in rest]:
                    outcome = future.result()
                    rest.pop(0)
                    yield outcome
        except BrokenProcessPool:
            if processes == 1:
                rest.pop(0)
                yield UserError(_KILLED)
            processes = max(1, processes // 2)


@contextmanager
def _ended(pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the processes when the work is given up: they would first finish what they have begun, and some more."""
    try:
        yield
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(function: Callable[[Item], Result], item: Item) -> Result | UserError:
    try:
        return function(item)
    except UserError as error:
        return error
