"""Work in a process of its own: what fails there costs one item, and nothing of it is left behind."""

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from nnunet_xattnres.common import children
from nnunet_xattnres.common.children import results

FAKE, BARE, HOLD = (f"helpers.candidates:{name}" for name in ("fake", "bare", "hold"))
PATHS = os.pathsep.join(map(str, (Path(children.__file__).parents[2], Path(__file__).parents[1])))


def run(*does, function=BARE, limit=60.0, seconds=120.0, environment=None, **arguments):
    items = [{"does": d} for d in does]
    deadline = time.monotonic() + seconds
    return list(results(function, items, arguments, limit=limit, deadline=deadline, environment=environment))


def statuses(*does, **options):
    return [r["status"] for r in run(*does, **options)]


def test_what_fails_is_written_and_the_rest_goes_on():
    found = run("ok", "wrong", "raise", "memory", "spoil", "crash", "ok", function=FAKE)
    expected = ["ok", "wrong", "failed", "out of memory", "failed", "crashed", "ok"]
    assert [r["status"] for r in found] == expected
    assert found[2]["why"] == "RuntimeError: no kernel image"
    assert found[5]["why"] == "its process ended with 139: assertion `n > 0` failed"


def test_what_is_raised_and_what_no_line_can_hold_costs_one_item():
    found = run("raise", "ok", "object", "ok")
    assert [r["status"] for r in found] == ["crashed", "ok", "crashed", "ok"]
    assert found[0]["why"] == "its process ended with 1: and more"
    assert "not JSON serializable" in found[2]["why"]
    (missing,) = run("ok", function="helpers.candidates:none")
    assert missing["status"] == "crashed" and "has no attribute 'none'" in missing["why"]


@pytest.mark.skipif(os.name != "posix", reason="signals are Unix's")
def test_a_signal_is_no_exit_status():
    crashed, killed, ok = run("signal", "be killed", "ok")
    assert "ended with -11" in crashed["why"] and ok["status"] == "ok"
    assert killed["status"] == "out of memory" and "want of main memory" in killed["why"]


def test_what_hangs_is_ended():
    assert statuses("hang", "ok", limit=4.0) == ["too slow", "ok"]


def test_the_time_is_kept():
    start = time.monotonic()
    assert statuses("ok", "hang", "ok", seconds=7.0) == ["ok", "no time", "no time"]
    assert time.monotonic() - start < 17
    assert statuses("ok", seconds=0) == ["no time"]


def test_after_a_stop_another_process_goes_on():
    assert statuses("a", "b", "c", stop_after=2) == ["a", "b", "c"]
    assert statuses("a", "b", stop_after=0) == ["crashed", "crashed"]  # or it would go on for ever


def test_what_is_printed_is_no_result_and_there_is_nothing_to_read():
    assert statuses("print", "read", "ok") == ["print", "", "ok"]


def test_the_environment_is_set_there_only():
    assert statuses("environment", environment={"MADE_UP": "ä b"}) == ["ä b"]
    assert "MADE_UP" not in os.environ


def test_much_is_sent():
    deadline = time.monotonic() + 120
    (found,) = results(BARE, [{"does": "x" * 2_000_000}], {}, limit=60, deadline=deadline)
    assert len(found["status"]) == 2_000_000


def test_what_lies_in_the_current_folder_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    assert statuses("ok") == ["ok"]


def test_who_takes_no_more_results_waits_for_nothing():
    found = results(BARE, [{"does": "ok"}, {"does": "hang"}], {}, limit=60, deadline=time.monotonic() + 120)
    assert next(found) == {"status": "ok"}
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 2.5 and not children._RUNNING


SCRIPT = """
import os, signal, sys, time
from nnunet_xattnres.common.children import kill_all, results
{before}
print("the script runs", flush=True)
deadline = time.monotonic() + 100
print(list(results({function!r}, [{{"does": "ok"}}], {arguments!r}, limit=90, deadline=deadline)))
"""
STOP = "signal.signal(signal.SIGTERM, lambda *_: (kill_all(), os._exit(1)))"


def script(path, function, before="", **arguments):
    path.write_text(SCRIPT.format(before=before, function=function, arguments=arguments))
    return {"args": [sys.executable, str(path)], "env": {**os.environ, "PYTHONPATH": PATHS}, "text": True}


def test_an_unguarded_script_does_not_run_twice(tmp_path):
    done = subprocess.run(**script(tmp_path / "train.py", BARE), capture_output=True)
    assert done.stdout.splitlines() == ["the script runs", "[{'status': 'ok'}]"], done.stderr


@pytest.mark.skipif(os.name != "posix", reason="on Windows terminate is kill")
@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_whoever_is_ended_leaves_no_process(tmp_path, end):
    with closing(socket.create_server(("localhost", 0))) as server:
        server.settimeout(60)
        stop = end == "terminate"
        arguments = {"port": server.getsockname()[1], "stuck": stop}
        started = script(tmp_path / "train.py", HOLD, STOP if stop else "", **arguments)
        with subprocess.Popen(**started, stdout=subprocess.PIPE) as process, closing(server.accept()[0]) as connection:
            connection.settimeout(20)
            assert connection.recv(4) == b"here"
            getattr(process, end)()
            assert connection.recv(4) == b""
