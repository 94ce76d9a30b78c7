"""Killed, crowded, denied: what a training survives, and what it says when it cannot."""

import ctypes
import os
import re
import signal
import sys

import pytest
import torch
from helpers.workspace import wait_for

pytestmark = [pytest.mark.nnunet, pytest.mark.skipif(os.name == "nt", reason="signals and permissions of Unix")]

TRAINER = "nnUNetTrainerXAttnRes_slow"  # 8 epochs; checkpoint_latest after epochs 2 and 5
OPTIONS = ("901", "2d", "0", "-tr", TRAINER, "-device", "cpu")


@pytest.fixture
def fold(workspace):
    """The fold's folder, new for each test."""
    model = workspace.results / "Dataset901_Anatomy" / f"{TRAINER}__nnUNetPlans__2d"
    for file in sorted(model.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    return model / "fold_0"


def log(fold):
    return "".join(file.read_text() for file in sorted(fold.glob("training_log_*.txt")))


def test_killed_at_three_moments_a_training_still_ends(workspace, fold):
    """Killed before its first checkpoint, between two, and while it writes one; gone on with each time."""

    def start(*options, **environment):
        return workspace.start("nnUNetv2_train", *OPTIONS, *options, nnUNet_n_proc_DA="0", **environment)

    def kill_in(epoch, process):
        wait_for(lambda: f": Epoch {epoch}" in log(fold) or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    kill_in(0, start())
    assert not (fold / "checkpoint_latest.pth").exists()

    n_before = len(epochs(fold))
    process = start("--c")
    wait_for(lambda: log(fold).count(": Epoch 0") == 2 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGSTOP)  # holds the fold for as long as a second training takes
    refused = workspace.fail("nnUNetv2_train", *OPTIONS, nnUNet_n_proc_DA="0")
    assert f"another training is writing to {fold}" in refused and ": Epoch" not in refused
    os.killpg(process.pid, signal.SIGCONT)
    kill_in(4, process)
    assert epochs(fold)[n_before:][:5] == [0, 1, 2, 3, 4]
    assert saved_epoch(fold) == 3

    n_before = len(epochs(fold))
    start("--c", TEST_DIES="1").communicate()
    assert epochs(fold)[n_before:] == [3, 4, 5]
    assert [half.stat().st_size > 0 for half in fold.glob(".partial-*/checkpoint_latest.pth")] == [True]
    assert saved_epoch(fold) == 3

    n_before = len(epochs(fold))
    workspace.run("nnUNetv2_train", *OPTIONS, "--c", nnUNet_n_proc_DA="0")
    assert epochs(fold)[n_before:] == [3, 4, 5, 6, 7]
    assert saved_epoch(fold, "final") == 8 and (fold / "validation" / "summary.json").is_file()
    assert not list(fold.glob(".partial-*"))


def epochs(fold):
    """All that were begun; from the logs, for what a process prints is lost when it is killed."""
    return [int(n) for n in re.findall(r": Epoch (\d+)", log(fold))]


def saved_epoch(fold, which="latest"):
    return torch.load(fold / f"checkpoint_{which}.pth", weights_only=False)["current_epoch"]


def test_a_damaged_checkpoint(workspace, fold):
    fold.mkdir(parents=True)
    latest = fold / "checkpoint_latest.pth"
    latest.write_bytes(b"PK\x03\x04" + bytes(100_000))  # the beginning of one
    output = workspace.fail("nnUNetv2_train", *OPTIONS, "--c")
    assert "checkpoint_latest.pth is damaged, probably cut off while it was written" in output
    assert latest.stat().st_size == 100_004, "bad input was changed"


def obey_permissions():
    """Root may write anywhere; without these two capabilities it may not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            if libc.prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                os._exit(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")
def test_a_results_folder_that_is_read_only(workspace, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    results.chmod(0o555)
    output = workspace.fail("nnUNetv2_train", *OPTIONS, nnUNet_results=str(results), preexec_fn=obey_permissions)
    assert "PermissionError" in output and str(results) in output
    assert not list(results.iterdir())
