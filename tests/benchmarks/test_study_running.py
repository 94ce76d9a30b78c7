"""The runner, with programs of a line in the place of nnU-Net's."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock
from helpers.study import write_a_record
from rich.console import Console

from benchmarks.study import leash, running, starts
from benchmarks.study.folders import Folders
from benchmarks.study.progress import Progress
from benchmarks.study.records import read_records
from benchmarks.study.starts import starts_of
from nnunet_xattnres.common.errors import UserError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups and signals are Unix's")


@pytest.fixture
def nnunet(study, folders, monkeypatch):
    """Each training runs ``nnunet.program``; ``nnunet.ran`` has the arguments of all that were started."""

    class NNUNet:
        program = "pass"
        ran: list[list[str]]

    NNUNet.ran = []

    def leashed(command, arguments):
        NNUNet.ran.append([command, *arguments])
        return [sys.executable, leash.__file__, sys.executable, "-c", NNUNet.program, *arguments]

    monkeypatch.setattr(running, "leashed", leashed)
    monkeypatch.setattr(running, "prepare", lambda *_: None)
    monkeypatch.setattr(running, "refuse_other_data", lambda *_: None)
    recording = threading.Lock()  # trainings end at the same time

    def record(study, folders, training):
        with recording:
            write_a_record(study, folders, training)

    monkeypatch.setattr(running, "write_record", record)
    return NNUNet


def run(study, folders, jobs=2):
    console = Console(file=(folders.work.parent / "shown.txt").open("a"), width=200)
    return running.run_study(study, folders, jobs=jobs, threads=1, console=console)


def test_every_training_runs_once_and_never_again(study, folders, nnunet):
    assert run(study, folders) == []
    assert len(nnunet.ran) == len(study.trainings()) == len(read_records(study, folders))
    assert len({" ".join(command) for command in nnunet.ran}) == len(nnunet.ran)
    expected = "nnUNetv2_train 907 3d_fullres 0 -tr nnUNetTrainer_study -p StudyPlans_long_rep0 -device cpu"
    assert expected.split() in nnunet.ran
    assert run(study, folders) == [] and len(nnunet.ran) == len(study.trainings())


@pytest.mark.parametrize("check", ["prepare", "refuse_other_data"])
def test_what_is_refused_is_refused_before_anything_is_trained(study, folders, nnunet, monkeypatch, check):
    def refuse(*_):
        raise UserError("other data")

    monkeypatch.setattr(running, check, refuse)
    with pytest.raises(UserError, match="other data"):
        run(study, folders)
    assert nnunet.ran == []


def test_a_training_that_fails_is_told_and_the_others_run(study, folders, nnunet):
    nnunet.program = "import sys; print('it broke'); sys.exit('nnUNetTrainerXAttnRes_study' in sys.argv)"
    failures = run(study, folders)
    assert len(failures) == 3 and all("XAttnRes-fold0 ended with exit status 1" in text for text in failures)
    assert "it broke" in failures[0]
    assert {record.training.trainer for record in read_records(study, folders)} == {"nnUNetTrainer"}
    nnunet.program = "pass"
    assert run(study, folders) == []
    assert len(nnunet.ran) == 6 + 3


def test_a_record_that_cannot_be_written_is_told_and_the_others_run(study, folders, nnunet, monkeypatch):
    first, *others = study.trainings()
    write = running.write_record

    def fail(study, folders, training):
        if training == first:
            raise ValueError("a damaged checkpoint")
        write(study, folders, training)

    monkeypatch.setattr(running, "write_record", fail)
    (failure,) = run(study, folders)
    assert failure.startswith(f"{first.name} has been trained") and "(ValueError: a damaged checkpoint)" in failure
    assert [record.training for record in read_records(study, folders)] == others


def test_a_training_goes_on_from_what_nnunet_has_left(study, folders, nnunet):
    never, begun, trained, finished, *_ = study.trainings()
    for training, files in (
        (begun, ["checkpoint_latest.pth"]),
        (trained, ["checkpoint_final.pth"]),
        (finished, ["checkpoint_final.pth", "validation/summary.json"]),
    ):
        for name in files:
            path = folders.fold(study, training) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    run(study, folders, jobs=1)
    assert [command[-1] for command in nnunet.ran[:3]] == ["cpu", "--c", "--val"]
    assert len(nnunet.ran) == 5  # what is finished lacked its record only
    assert never in {record.training for record in read_records(study, folders)}


def test_where_a_training_began_and_went_on_is_noted(study, folders, nnunet, monkeypatch):
    """Once for each machine and version; not when there is nothing left to train."""
    first, trained, *_ = study.trainings()
    for training, name in ((trained, "final"), (first, "latest")):
        (folders.fold(study, training)).mkdir(parents=True)
        (folders.fold(study, training) / f"checkpoint_{name}.pth").touch()
    nnunet.program = "import sys; sys.exit('failed')"
    for commit in ("before", "before", "after"):
        monkeypatch.setattr(starts, "describe_machine", lambda *_, commit=commit: {"commit": commit, "threads": 7})
        run(study, folders)
    found = starts_of(folders, first)
    assert [(start["commit"], start["threads"]) for start in found] == [("before", 1), ("after", 1)]
    assert all("nnunetv2" in start for start in found)
    assert starts_of(folders, trained) == []
    (folders.fold(study, first) / "checkpoint_latest.pth").unlink()
    run(study, folders)  # from the beginning: nothing that ran before is in it
    assert [start["commit"] for start in starts_of(folders, first)] == ["after"]


def test_each_training_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert running._a_gpu_each("cuda", 2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert running._a_gpu_each("cuda", 1) == [{}] and running._a_gpu_each("cpu", 3) == [{}] * 3
    with pytest.raises(UserError, match=r"--jobs 3: .* there are 2\."):
        running._a_gpu_each("cuda", 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,3")
    assert running._a_gpu_each("cuda", 2) == [{"CUDA_VISIBLE_DEVICES": "3"}] * 2


def test_stopped_it_leaves_no_process_and_goes_on(study, folders, nnunet, tmp_path):
    started = tmp_path / "started"
    nnunet.program = f"import os, time; open({str(started)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(600)"
    main = threading.main_thread().ident

    def stop():
        while not started.is_file() or len(started.read_text().split()) < 2:
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(study, folders)
    assert not any(is_alive(int(pid)) for pid in started.read_text().split())
    assert read_records(study, folders) == []
    nnunet.program = "pass"
    assert run(study, folders) == [] and len(read_records(study, folders)) == 6


def test_a_second_run_at_the_same_time_is_refused(study, folders, nnunet):
    folders.work.mkdir(parents=True)
    with FileLock(folders.work / "study.lock"), pytest.raises(UserError, match="another run of this study"):
        run(study, folders)
    assert nnunet.ran == []


def test_a_training_dies_with_a_runner_that_is_killed(tmp_path):
    """SIGKILL leaves the runner no time for anything; the training's own child goes, too."""
    child = tmp_path / "child"
    training = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"open({str(child)!r}, 'w').write(str(p.pid)); time.sleep(600)"
    )
    runner = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, {leash.__file__!r}, sys.executable, '-c', {training!r}],"
        "stdin=subprocess.PIPE, start_new_session=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", runner])
    wait_until(lambda: child.is_file() and child.read_text())
    pid = int(child.read_text())
    assert is_alive(pid)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(pid))


def test_a_leashed_command_ends_with_its_own_status():
    command = [sys.executable, leash.__file__, sys.executable, "-c", "raise SystemExit(3)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 3


def is_alive(pid):
    """Whether it runs; a zombie that nobody has waited for does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip()) and not found.stdout.startswith("Z")


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_the_time_left_is_that_of_the_trainers_own_iterations(study, folders):
    first, second, *rest = study.trainings()
    for training in (first, second):
        write_a_record(study, folders, training)  # 30 s for 10 iterations
    progress = Progress(study, folders, 2, Console(quiet=True), read_records(study, folders), rest)
    iterations = sum(study.schedules[t.schedule].epochs * 10 for t in rest)
    assert progress.left() == pytest.approx(iterations * 3.0 / 2)
    progress.started(rest[0])
    folders.logs.mkdir(parents=True)
    (folders.logs / f"{rest[0].name}.log").write_text("2026-01-01 00:00:00.0: Epoch 1\nCurrent learning rate: 1\n")
    assert progress.left() == pytest.approx((iterations - 10) * 3.0 / 2)
    progress.ended(rest[0], None)
    assert progress.left() == pytest.approx((iterations - 30) * 3.0 / 2)
    nothing = Progress(study, Folders(folders.raw, folders.work, folders.results), 2, Console(quiet=True), [], rest)
    assert nothing.left() is None
