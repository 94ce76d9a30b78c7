"""Runs a command and shows how it goes on."""

import queue
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from nnunet_xattnres.commands.demo.settings import N_EPOCHS, DemoError
from nnunet_xattnres.common import shell
from nnunet_xattnres.common.processes import process_group

HEARTBEAT = 20  # s between two lines when the output is no terminal
TAIL = 20  # lines of a failed command that are shown


@dataclass
class TrainingLines:
    """Finds in nnU-Net's output what is worth a line of its own: one for each epoch, and the final validation.

    Attributes:
        latest: what the command is at, in a few words.
    """

    epoch: int = 0
    pseudo_dice: str = "?"
    latest: str = "no output yet"

    def read(self, line: str) -> str | None:
        """What to show for ``line``, if anything."""
        self.latest = re.sub(r"^\d{4}-\d\d-\d\d [\d:.]+: ?", "", line.strip()) or self.latest
        if match := re.search(r": Epoch (\d+)\s*$", line):
            self.epoch = int(match[1]) + 1
        elif "Current learning rate" in line:  # the last line before an epoch's silence
            self.latest = f"epoch {self.epoch} of {N_EPOCHS} is running"
        elif "Pseudo dice" in line:
            values = re.findall(r"(?<![\w.])(?:nan|\d+\.\d+)", line.split("Pseudo dice", 1)[1])
            self.pseudo_dice = "  ".join(f"{float(value):.3f}" for value in values)
        elif match := re.search(r"Epoch time: ([\d.]+) s", line):
            seconds = float(match[1])
            return f"epoch {self.epoch} of {N_EPOCHS}  pseudo Dice {self.pseudo_dice}  {seconds:.1f} s"
        elif match := re.search(r"(Parameters: .*|Mean Validation Dice: .*)", line):
            return match[1].strip()
        return None


def run_command(command: Sequence[str], *, env: Mapping[str, str], log: Path, console: Console) -> None:
    """Run ``command``, show how it goes on, and keep its whole output in ``log``.

    Raises:
        DemoError: when it ends with another exit status than 0.
    """
    started = last_print = time.monotonic()
    interesting, tail = TrainingLines(), deque[str](maxlen=TAIL)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as log_file,
        process_group(command, env) as process,
        console.status("starting") as status,
    ):
        for line in _output(process):
            if line:
                log_file.write(f"{line}\n")
                log_file.flush()
                tail.append(line)
            found, now = interesting.read(line), time.monotonic()
            latest = f"{now - started:4.0f} s  {_shortened(interesting.latest, console.width - 14)}"
            status.update(Text(latest))
            if found:
                print_plainly(console, f"  {now - started:4.0f} s  {found}")
                last_print = now
            elif not console.is_terminal and now - last_print > HEARTBEAT:
                print_plainly(console, f"  {latest}")
                last_print = now
        status_code = process.wait()
    if status_code:
        shown = "\n".join(f"  {line}" for line in tail)
        failed = f"this command ended with exit status {status_code}:\n  {shell.command(*command)}"
        raise DemoError(f"{failed}\nIts last lines:\n{shown}\nIts whole output: {log}")
    print_plainly(console, f"  {time.monotonic() - started:4.0f} s  done", style="green")


def _output(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines of the output as they come, and an empty one whenever there was none for half a second."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        with suppress(ValueError):  # closed under the reader
            for line in process.stdout:
                lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            if process.poll() is not None:  # a worker left behind can hold the pipe open
                return
            line = ""
        if line is None:
            return
        yield line


def _shortened(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: max(1, width - 3)]}..."


def print_plainly(console: Console, text: str, style: str | None = None) -> None:
    """Print text that is not ours: no markup, and no line breaks in what a user may copy."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
