"""What becomes of work in a process of its own: whatever happens there, every item has a result."""

import subprocess
import sys
import time

from nnunet_xattnres.common.children import results

FAKE = "helpers.candidates:fake"


def run(*does, limit=30.0, seconds=90.0):
    items = [{"does": d} for d in does]
    return list(results(FAKE, items, {}, limit=limit, deadline=time.monotonic() + seconds))


def test_what_fails_is_written_and_the_rest_goes_on():
    found = run("ok", "wrong", "raise", "memory", "spoil", "crash", "ok")
    expected = ["ok", "wrong", "failed", "out of memory", "failed", "crashed", "ok"]
    assert [r["status"] for r in found] == expected
    assert found[2]["why"] == "RuntimeError: no kernel image" and "139" in found[5]["why"]


def test_what_hangs_is_ended():
    found = run("hang", "ok", limit=10.0)
    assert [r["status"] for r in found] == ["too slow", "ok"]


def test_the_time_is_kept():
    start = time.monotonic()
    found = run("ok", "hang", "ok", seconds=15.0)
    assert [r["status"] for r in found] == ["ok", "no time", "no time"]
    assert time.monotonic() - start < 25
    assert [r["status"] for r in run("ok", seconds=0)] == ["no time"]


def test_a_script_without_a_guard_is_not_run_again(tmp_path):
    """As users write them; a process that multiprocessing spawns runs such a script once more."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from nnunet_xattnres.common.children import results\n"
        "print('begins')\n"
        f"found = results({FAKE!r}, [{{'does': 'ok'}}], {{}}, limit=30, deadline=time.monotonic() + 60)\n"
        "print([r['status'] for r in found])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "begins\n['ok']\n"


def test_it_says_what_the_process_said():
    (found,) = run("speak")
    assert found == {"status": "crashed", "why": "its process ended with 7: out of registers"}
