"""Commands of this environment in children of one process that has imported what all of them import first.

The imports of one of nnU-Net's commands take some ten seconds, far more than its work on tiny data. Neither nnU-Net nor
our package is imported in advance: a child reads variables and files as a new process does.
"""

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from types import SimpleNamespace

IN_ADVANCE = (
    "torch._dynamo",
    "scipy.stats",
    "scipy.ndimage",
    "skimage.morphology",
    "skimage.transform",
    "sklearn.model_selection",
    "seaborn",
    "SimpleITK",
    "nibabel",
    "pandas",
    "batchgenerators.dataloading.multi_threaded_augmenter",
    "batchgeneratorsv2.transforms.nnunet.random_binary_operator",
    "dynamic_network_architectures.architectures.unet",
    "rich.progress",
    "typer",
)
# Each process of their pools would first import torch, too; nothing of ours runs in them.
IN_THREADS = (
    "nnUNetv2_plan_and_preprocess",
    "nnUNetv2_preprocess",
    "nnUNetv2_find_best_configuration",
    "nnUNetv2_accumulate_crossval_results",
    "nnUNetv2_ensemble",
    "nnUNetv2_evaluate_folder",
)


class ForkedCommands:
    """Runs one command at a time; the process that they are forked from ends with the one that made this object."""

    available = sys.platform == "linux"

    def __init__(self, environment: dict[str, str], cwd: Path) -> None:
        command, pipes = [sys.executable, __file__], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._parent = subprocess.Popen(command, env=environment, cwd=cwd, text=True, **pipes)

    def run(self, command: list[str], changes: dict[str, str], seconds: float) -> tuple[int, str]:
        """The exit code and what was printed.

        Args:
            command: a script of this environment's Python, and its arguments.
            changes: to the environment; nothing that is read when an interpreter starts.
            seconds: after which the command and all that it has started are killed.
        """
        with TemporaryDirectory() as folder:
            output = Path(folder) / "output"
            print(json.dumps([command, changes, str(output)]), file=self._parent.stdin, flush=True)
            pid = int(self._parent.stdout.readline())
            timer = Timer(seconds, os.killpg, (pid, signal.SIGKILL))
            timer.start()
            try:
                code = int(self._parent.stdout.readline())
            except BaseException:
                os.killpg(pid, signal.SIGKILL)
                raise
            finally:
                timer.cancel()
            return code, output.read_text()


def _serve() -> None:
    for name in IN_ADVANCE:
        __import__(name)
    early = {"nnunetv2", "nnunet_xattnres.nnunet_trainer"} & sys.modules.keys()
    assert not early, f"{early} would read the variables before a command has set them"
    for line in sys.stdin:
        command, changes, output = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return _become(command, changes, output)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def _become(command: list[str], changes: dict[str, str], output: str) -> None:
    os.setsid()
    with open(os.devnull) as nothing, open(output, "w") as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(changes)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    if Path(command[0]).name in IN_THREADS:
        multiprocessing.get_context = lambda method: SimpleNamespace(Pool=ThreadPool)
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
