"""Work over many cases, in this process and in several."""

import os
import signal
import sys
import time

import pytest

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet import pool
from nnunet_xattnres.nnunet.pool import outcomes


@pytest.fixture
def processes(monkeypatch):
    """As many as a user has asked nnU-Net for, from the start of the work."""

    def set_to(n, alone=-1.0):
        monkeypatch.setattr("nnunetv2.configuration.default_num_processes", n)
        monkeypatch.setattr(pool, "_ALONE", alone)

    return set_to


def work(item):
    if item == "bad":
        raise UserError("this case is bad")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid()


def test_one_process_does_everything_itself(processes):
    processes(1)
    first, bad, last = outcomes(work, ["a", "bad", "b"])
    assert (first, last) == (("a", os.getpid()), ("b", os.getpid()))
    assert isinstance(bad, UserError) and str(bad) == "this case is bad"


def test_a_few_small_cases_are_done_before_others_would_have_started(processes, monkeypatch):
    processes(2, alone=10.0)
    monkeypatch.setattr(pool, "ProcessPoolExecutor", None)
    assert [item for item, _ in outcomes(work, "abc")] == ["a", "b", "c"]


def test_what_takes_longer_is_done_by_others(processes):
    processes(2, alone=0.2)
    found = []
    for outcome in outcomes(work, ["a", "b", "bad", "c"]):
        found.append(outcome)
        time.sleep(0.2)
    assert str(found.pop(2)) == "this case is bad"
    assert [item for item, _ in found] == ["a", "b", "c"]
    assert found[0][1] == os.getpid() and os.getpid() not in (found[1][1], found[2][1])


@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_a_process_that_is_killed_costs_its_case_alone(processes):
    processes(2)
    first, killed, *others = outcomes(work, ["a", "killed", "b", "c"])
    assert isinstance(killed, UserError) and "its process was killed, most likely" in str(killed)
    assert [item for item, _ in (first, *others)] == ["a", "b", "c"]
    assert os.getpid() not in {process for _, process in (first, *others)}


def slow(item):
    time.sleep(0 if item == "quick" else 120)
    return item


def test_work_that_is_given_up_ends_at_once(processes):
    """As by Ctrl-C, or by the first error."""
    processes(2)
    results = outcomes(slow, ["quick", "a", "b", "c", "d"])
    assert next(results) == "quick"
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 30
