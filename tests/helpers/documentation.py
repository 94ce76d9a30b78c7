"""The commands that the documentation shows, and a process that runs them one after another."""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PLACEHOLDER = re.compile(r"(?<!\w)[A-Z][A-Z_]+(?!\w)")


@dataclass(frozen=True)
class Shown:
    """A command, or a whole block of Python, as a page shows it."""

    page: str
    text: str
    is_python: bool = False

    @property
    def words(self) -> list[str]:
        """Of a command; a block of Python has one."""
        return ["python"] if self.is_python else shlex.split(self.text)

    def filled(self, values: dict[str, str]) -> list[str]:
        """The words with something in the place of each PLACEHOLDER."""
        return [fill(word, values) for word in self.words]


def fill(text: str, values: dict[str, str]) -> str:
    """``text`` with something in the place of each PLACEHOLDER; where it is a part of it, KEY/ goes before KEY."""

    def value(match: re.Match) -> str:
        name = match.group()
        return values.get(f"{name}/" if match.string != name else name, values.get(name, name))

    return _PLACEHOLDER.sub(value, text)


def shown(pages: Iterable[Path] = PAGES) -> list[Shown]:
    """Every command of the shell blocks and every block of Python, in the order of the pages; the same only once."""
    found: dict[str, Shown] = {}
    for page in pages:
        name = page.relative_to(ROOT).as_posix()
        for language, content in _BLOCK.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                found.setdefault(content, Shown(name, content, is_python=True))
            for command in _commands(content) if language == "bash" else ():
                found.setdefault(command, Shown(name, command))
    return list(found.values())


def _commands(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", ";", "|"):
                command.append(word)
            elif command:
                yield shlex.join(command)
                command = []


# Runs in a new process, for all at once: each of nnU-Net's commands imports torch first, for seconds. Every trainer
# has one epoch of two iterations, whatever it sets itself.
RUNNER = '''
import contextlib, importlib.metadata, io, json, os, shutil, subprocess, sys, time, traceback
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from unittest.mock import patch

def program(name):
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
    return entry.load()

# Of these, each of the processes that nnU-Net starts would first import torch, for ten seconds.
IN_THREADS = ("nnUNetv2_train", "nnUNetv2_plan_and_preprocess")

def in_threads():
    return patch("multiprocessing.get_context", lambda method: SimpleNamespace(Pool=ThreadPool))

def shrink(file):
    """The planner's networks with an eighth of their features."""
    with open(file) as f:
        plans = json.load(f)
    for configuration in plans["configurations"].values():
        configuration["batch_size"] = 2
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs["features_per_stage"] = [max(4, n // 8) for n in kwargs["features_per_stage"]]
    with open(file, "w") as f:
        json.dump(plans, f)

def perform(step):
    for path in map(os.path.expandvars, step.get("away", [])):
        shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)
    if "python" in step:
        exec(compile(step["python"], "a block of the documentation", "exec"), {"__name__": "__main__"})
        return 0
    words = [os.path.expandvars(word) for word in step["words"]]
    if words[0] == "export":
        return subprocess.run(["sh", "-ec", step["line"]]).returncode
    sys.argv = words
    os.environ["nnUNet_n_proc_DA"] = "0" if words[0] == "nnUNetv2_train" else "1"  # the planner needs one
    try:
        with in_threads() if words[0] in IN_THREADS else contextlib.nullcontext():
            program(words[0])()
    except SystemExit as end:
        return end.code or 0
    if words[0] == "nnUNetv2_plan_and_preprocess":
        shrink(step["plans"])
    return 0

def main():
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    for name, number in {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}.items():
        setattr(nnUNetTrainer, name, property(lambda self, n=number: n, lambda self, value: None))
    steps, results = sys.argv[1:]
    for step in json.load(open(steps)):
        start, output = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                code = perform(step)
            except Exception:
                traceback.print_exc()
                code = 1
        result = {"key": step["key"], "code": code, "seconds": time.monotonic() - start}
        result["end"] = output.getvalue()[-4000:]
        with open(results, "a") as f:
            f.write(json.dumps(result) + "\\n")

if __name__ == "__main__":
    main()
'''
