"""How far a study is, and how long it will take."""

import re
import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from benchmarks.study.description import Study, Training
from benchmarks.study.folders import Folders
from benchmarks.study.records import Record

EVERY = 60.0  # s between two lines


class Progress:
    """Tells what has ended and, every minute, what runs and the time left."""

    def __init__(
        self,
        study: Study,
        folders: Folders,
        jobs: int,
        console: Console,
        recorded: Sequence[Record],
        missing: Sequence[Training],
    ) -> None:
        self.study, self.folders, self.jobs, self.console = study, folders, jobs, console
        self.missing, self.n_all = list(missing), len(recorded) + len(missing)
        self.running: dict[Training, float] = {}
        self.shown = time.monotonic()
        # seconds an iteration, of each trainer; what is not known is taken from the others
        self.seconds: dict[str, float] = {}
        for record in recorded:
            iterations, seconds, _ = record.curve
            self.seconds[record.training.trainer] = seconds[-1] / iterations[-1]

    def started(self, training: Training) -> None:
        self.running[training] = time.monotonic()

    def ended(self, training: Training, error: str | None) -> None:
        started = self.running.pop(training, None)
        self.missing.remove(training)
        if error:
            self.console.print(f"[red]{escape(error)}[/]", highlight=False, soft_wrap=True)
        elif started is not None:
            took = time.monotonic() - started
            self.seconds.setdefault(training.trainer, took / self.study.iterations(training.schedule))
            counted = f"{self.n_all - len(self.missing)} of {self.n_all}"
            self.console.print(f"{counted}  {training.name}  {took / 60:.1f} min", highlight=False, soft_wrap=True)

    def show(self) -> None:
        if time.monotonic() - self.shown < EVERY:
            return
        self.shown = time.monotonic()
        at = ", ".join(f"{t.name} {self._epoch(t)}/{self.study.schedules[t.schedule].epochs}" for t in [*self.running])
        left = self.left()
        text = "unknown until one has ended" if left is None else f"{left / 60:.0f} min"
        self.console.print(f"  running: {at}; left: {text}", highlight=False, soft_wrap=True)

    def left(self) -> float | None:
        """Seconds, from what iterations of the same trainer have taken; None while nothing is known."""
        if not self.seconds:
            return None
        usual = sum(self.seconds.values()) / len(self.seconds)
        total = 0.0
        for training in self.missing:
            schedule = self.study.schedules[training.schedule]
            epochs = schedule.epochs - (self._epoch(training) if training in self.running else 0)
            total += epochs * schedule.iterations * self.seconds.get(training.trainer, usual)
        return total / self.jobs

    def _epoch(self, training: Training) -> int:
        log = self.folders.logs / f"{training.name}.log"
        found = re.findall(r"Epoch (\d+)\s*$", log.read_text(errors="replace"), re.M) if log.is_file() else []
        return int(found[-1]) if found else 0
