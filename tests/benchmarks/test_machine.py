"""Where a result was measured."""

import subprocess

import pytest

import nnunet_xattnres
from benchmarks.machine import describe_machine


@pytest.mark.parametrize(
    ("path", "marked"),
    [
        ("nnunet_xattnres/ops/read.py", True),
        ("benchmarks/study/scheduled.py", True),
        ("benchmarks/study/results/little/dice.csv", False),  # what a study writes while it runs
        ("benchmarks/study/little.yaml", False),  # its settings are in the records themselves
    ],
)
def test_a_commit_with_changes_of_the_code_is_marked(tmp_path, monkeypatch, path, marked):
    monkeypatch.setattr(nnunet_xattnres, "__file__", str(tmp_path / "nnunet_xattnres" / "__init__.py"))

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text("before")
    git("init")
    git("add", ".")
    git("commit", "-m", "before")
    assert " " not in describe_machine(tmp_path, "cpu")["commit"]
    file.write_text("after")
    assert describe_machine(tmp_path, "cpu")["commit"].endswith(" with changes") == marked


def test_a_package_from_elsewhere_is_refused(tmp_path):
    """Its results would have the commit of other code."""
    with pytest.raises(RuntimeError, match="set PYTHONPATH to the latter"):
        describe_machine(tmp_path, "cpu")
