"""The commands of the pages for those who measure: each has a benchmark, with these options."""

import importlib.util

import pytest
import typer
from helpers.documentation import ROOT, shown

from benchmarks.cost.__main__ import app as cost
from benchmarks.study.__main__ import app as study

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "study" / "README.md"]
APPS = {"benchmarks.cost": cost, "benchmarks.study": study}
SHOWN = [one for one in shown(PAGES) if one.words[:2] == ["python", "-m"] and one.words[2].startswith("benchmarks")]


def test_the_pages_show_some():
    assert set(APPS) < {one.words[2] for one in SHOWN}


@pytest.mark.parametrize("one", SHOWN, ids=lambda one: one.text)
def test_it_parses(one):
    module, *words = one.words[2:]
    if module in APPS:
        parse(typer.main.get_command(APPS[module]), words)
    else:
        assert importlib.util.find_spec(module) and not words


def test_a_wrong_command_does_not_parse():
    with pytest.raises(Exception, match="No such option: --works"):  # typer's own click, or click's
        parse(typer.main.get_command(study), ["run", "a.yaml", "--raw", "RAW", "--works", "WORK"])


def parse(command, words):
    if hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    assert command.make_context("benchmark", list(words))
