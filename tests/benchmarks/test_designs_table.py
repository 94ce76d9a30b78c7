"""The table of what the designs cost is that of the committed files, and says what they say."""

from benchmarks.cost.designs_table import END, PAGE, RESULTS, START, table, written
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.training.epochs import TRAINERS

PLAIN = {"trainer": "nnUNetTrainer", "parameters": 1_352_000, "multiply_adds": 2 * 10**9, "seconds": 0.5,
         "memory": 3 * 2**20, "parameters_ratio": 1.0, "multiply_adds_ratio": 1.0, "seconds_ratio": 1.0,
         "memory_ratio": 1.0}  # fmt: skip
RESULT = {"dataset": "Dataset004_Hippocampus", "plans": "nnUNetPlans", "configuration": "3d_fullres", "batch": 2,
          "machine": "CPU, 2 threads", "torch": "2.9"}  # fmt: skip


def test_a_table():
    ours = PLAIN | {"trainer": "ours", "parameters_ratio": 1.5, "multiply_adds_ratio": 2, "seconds_ratio": None}
    missing = dict.fromkeys(PLAIN) | {"trainer": "not there"}
    lines = table(RESULT | {"rows": [PLAIN, ours, missing]}).splitlines()
    assert lines[0] == "Dataset004_Hippocampus, nnUNetPlans, 3d_fullres, batch 2; CPU, 2 threads, torch 2.9:"
    assert lines[4:] == ["| `nnUNetTrainer` | 1.35 M | 2 G | 0.5 s | 3 MiB |",
                         "| `ours` | 1.50 | 2.00 | not known | 1.00 |"]  # fmt: skip


def test_what_is_not_known_of_the_plain_network_has_no_column():
    lines = table(RESULT | {"rows": [PLAIN | {"seconds": None}]}).splitlines()
    assert lines[2:] == ["| trainer | parameters | multiply-adds | memory of a step |", "|---|---|---|---|",
                         "| `nnUNetTrainer` | 1.35 M | 2 G | 3 MiB |"]  # fmt: skip


def test_what_is_around_the_tables_stays_and_a_second_time_changes_nothing():
    once = written(f"before\n{START}old{END}\nafter", [RESULT | {"rows": [PLAIN]}])
    assert once.startswith(f"before\n{START}\nDataset004") and once.endswith(f" |\n{END}\nafter")
    assert written(once, [RESULT | {"rows": [PLAIN]}]) == once


def test_the_page_has_the_committed_files_with_every_design_of_its_own_table():
    page, files = PAGE.read_text(encoding="utf-8"), sorted(RESULTS.glob("designs-*.json"))
    results = list(map(read_json, files))
    assert len(results) == 2 and written(page, results) == page
    described = {line.split("`")[1] for line in page.partition(START)[0].splitlines() if line.startswith("| `nnUNet")}
    assert described <= {"nnUNetTrainer", *TRAINERS}
    for result in results:
        assert {row["trainer"] for row in result["rows"]} == described
