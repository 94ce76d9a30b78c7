"""Runs what is missing of a study, several trainings at a time, and goes on where it was stopped."""

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from benchmarks.study.description import Study, Training
from benchmarks.study.folders import Folders, leashed, training_arguments
from benchmarks.study.preparation import prepare, refuse_other_data
from benchmarks.study.progress import Progress
from benchmarks.study.records import is_finished, read_records, write_record
from benchmarks.study.starts import note_start
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.processes import process_group, sigterm_as_interrupt

POLL = 0.5  # s


class StoppedError(Exception):
    """The user has stopped the study."""


def run_study(study: Study, folders: Folders, *, jobs: int, threads: int, console: Console) -> list[str]:
    """Run every training that has no record yet.

    Args:
        jobs: trainings at the same time, each on a GPU of its own.
        threads: of each of them, on the CPU.

    Returns:
        What went wrong, a line for each training that failed; the others have run all the same.

    Raises:
        UserError: when it cannot start.
        KeyboardInterrupt: when it was stopped; the trainings that ran go on from their last checkpoint next time.
    """
    runner = _Runner(study, folders, threads, threading.Event())
    folders.work.mkdir(parents=True, exist_ok=True)
    with _only_one(folders.work), sigterm_as_interrupt():
        recorded = read_records(study, folders)
        done = {record.training for record in recorded}
        missing = [training for training in study.trainings() if training not in done]
        console.print(f"{study.name}: {len(done)} trainings have a record, {len(missing)} are to run")
        if not missing:
            return []
        prepare(study, folders, runner.run)
        refuse_other_data(study, folders, recorded)
        for gpu in _a_gpu_each(study.device, jobs):
            runner.gpus.put(gpu)
        progress = Progress(study, folders, jobs, console, recorded, missing)
        with ThreadPoolExecutor(jobs) as pool:
            futures: dict[Future[None], Training] = {pool.submit(runner.train, t, progress): t for t in missing}
            try:
                return _failures(futures, progress)
            except BaseException:
                runner.stop.set()
                for future in futures:
                    future.cancel()
                raise


def _failures(futures: dict[Future[None], Training], progress: Progress) -> list[str]:
    failures, running = [], set(futures)
    while running:
        ended, running = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
        progress.show()
        for future in ended:
            error = future.exception()
            if isinstance(error, UserError):
                failures.append(str(error))
            elif error is not None:
                raise error
            progress.ended(futures[future], str(error) if error else None)
    return failures


class _Runner:
    def __init__(self, study: Study, folders: Folders, threads: int, stop: threading.Event) -> None:
        self.study, self.folders, self.threads, self.stop = study, folders, threads, stop
        self.environment = folders.environment(study.device, threads)
        self.gpus: SimpleQueue[dict[str, str]] = SimpleQueue()  # those that no training has

    def train(self, training: Training, progress: Progress) -> None:
        """Train and validate, from where that was stopped, and keep the record."""
        if self.stop.is_set():
            raise StoppedError
        progress.started(training)
        if not is_finished(self.study, self.folders, training):
            fold = self.folders.fold(self.study, training)
            arguments = training_arguments(self.study, training)
            if (fold / "checkpoint_final.pth").is_file():
                arguments.append("--val")
            else:
                goes_on = any((fold / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best"))
                note_start(self.study, self.folders, training, self.threads, goes_on=goes_on)
                if goes_on:
                    arguments.append("--c")
            gpu = self.gpus.get()
            try:
                self.run(leashed("nnUNetv2_train", arguments), training.name, **gpu)
            finally:
                self.gpus.put(gpu)
        try:
            write_record(self.study, self.folders, training)
        except UserError:
            raise
        except Exception as error:  # of one training, whatever it is, does not end the others
            raise UserError(
                f"{training.name} has been trained, and no record of it can be written ({type(error).__name__}: "
                f"{error}); the next run tries that again"
            ) from error

    def run(self, command: list[str], name: str, **variables: str) -> None:
        """Run a command; its output is added to the log of that name.

        Args:
            variables: of its environment, beside those of all commands.

        Raises:
            UserError: when it fails.
            StoppedError: when the study was stopped meanwhile.
        """
        self.folders.logs.mkdir(parents=True, exist_ok=True)
        log = self.folders.logs / f"{name}.log"
        with log.open("a", encoding="utf-8") as output:
            streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": output}  # stdin is the leash
            with process_group(command, {**self.environment, **variables}, **streams) as process:
                while process.poll() is None:
                    if self.stop.wait(POLL):
                        raise StoppedError
        if process.returncode:
            raise UserError(f"{name} ended with exit status {process.returncode}; see {log}\n{_tail(log)}")


def _a_gpu_each(device: str, jobs: int) -> list[dict[str, str]]:
    """What each of the trainings at a time is told of the GPUs: it takes the first that it sees.

    Raises:
        UserError: when there are fewer GPUs.
    """
    if device != "cuda" or jobs == 1:
        return [{}] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    if len(gpus) < jobs:
        raise UserError(
            f"--jobs {jobs}: each training needs a GPU of its own, and there are {len(gpus)}. Two on one slow each "
            "other down; if that is wanted, name it twice: CUDA_VISIBLE_DEVICES=0,0"
        )
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:jobs]]


def _tail(log: Path) -> str:
    return "\n".join(f"  {line}" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    try:
        with FileLock(work / "study.lock", timeout=0):
            yield
    except Timeout:
        raise UserError(f"another run of this study is at work in {work}; wait for it") from None
