"""A study with nnU-Net's own commands, killed in the middle."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.workspace import SHAPE, wait_for

from nnunet_xattnres.commands.demo.synthetic import write_dataset

pytestmark = [pytest.mark.nnunet, pytest.mark.skipif(os.name == "nt", reason="signals of Unix")]

ROOT = Path(__file__).parents[2]
STUDY = """
dataset: Dataset908_Study
configuration: 2d
plans: {batch_size: 2}
mirroring: false
folds: [0]
device: cpu
trainers: [nnUNetTrainer, nnUNetTrainerXAttnRes]
schedules:
  only: {epochs: 6, iterations: 4, validation_iterations: 1, repeats: 1}
cut_down: everything
"""
# Each process of nnU-Net's pools would first import torch.
IN_THREADS = """
from multiprocessing.context import SpawnContext
from multiprocessing.pool import ThreadPool

SpawnContext.Pool = lambda self, processes: ThreadPool(processes)
"""
TRAININGS = [f"only-rep0-{trainer}-fold0" for trainer in ("nnUNetTrainer", "nnUNetTrainerXAttnRes")]


def test_a_study_that_is_killed_goes_on_and_ends_with_its_tables(empty_workspace, tmp_path, request):
    write_dataset(empty_workspace.raw, "Dataset908_Study", n_train=5, n_test=0, shape=SHAPE, seed=8)
    file, work, results = tmp_path / "killed.yaml", tmp_path / "work" / "killed", tmp_path / "results" / "killed"
    file.write_text(STUDY)
    (tmp_path / "sitecustomize.py").write_text(IN_THREADS)
    process = None

    def start():
        nonlocal process
        folders = ["--raw", empty_workspace.raw, "--work", work.parent, "--results", results.parent]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.study", "run", str(file), *map(str, folders)],
            cwd=ROOT,
            env=empty_workspace.environment(PYTHONPATH=str(tmp_path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        request.addfinalizer(process.kill)

    def log(training):
        path = work / "logs" / f"{training}.log"
        return path.read_text() if path.is_file() else ""

    def epochs(training):
        return [int(epoch) for epoch in re.findall(r": Epoch (\d+)", log(training))]

    def wait_until(condition):
        wait_for(lambda: condition() or process.poll() is not None, seconds=600)
        assert process.poll() is None, process.stdout.read()

    start()
    wait_until(lambda: 2 in epochs(TRAININGS[1]))
    process.kill()
    process.communicate()
    wait_for(lambda: not trainings_that_run())
    first = epochs(TRAININGS[0])
    assert first == list(range(6))

    start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "1 trainings have a record, 1 are to run" in output
    assert epochs(TRAININGS[0]) == first, "a finished training ran again"
    assert epochs(TRAININGS[1]).count(0) == 1

    with (results / "only" / "cases.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len({row["case"] for row in rows}) == 1 and len(rows) == 2 * 2  # one case, two labels, two models
    page = (results / "RESULTS.md").read_text()
    assert "nnUNetv2_train 908 2d 0 -tr nnUNetTrainerXAttnRes_study" in page and "Not complete" not in page
    records = [json.loads(line) for line in (results / "trainings.jsonl").read_text().splitlines()]
    assert [bool(record["routing"]) for record in records] == [False, True]


def trainings_that_run() -> list[str]:
    found = subprocess.run(["ps", "axwweo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if "StudyPlans_only_rep0" in line and not line.startswith("Z")]
