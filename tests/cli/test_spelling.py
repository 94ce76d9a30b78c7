"""Every command takes the options that it shares with nnU-Net's commands in nnU-Net's spelling, too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from helpers.plans import make_plans
from typer.testing import CliRunner

from nnunet_xattnres.cli import app

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands
# The meaning of an option, by its long name, and how nnU-Net's commands spell it.
SPELLING = {
    "device": "-device",
    "dataset": "-d",
    "configuration": "-c",
    "fold": "-f",
    "folds": "-f",
    "plans": "-p",
    "trainer": "-tr",
    "trainers": "-tr",
    "images": "-i",
    "out": "-o",
    "checkpoint": "-chk",
    "num-gpus": "-num_gpus",
}


def options(command):
    return [p for p in command.params if any(name.startswith("-") for name in p.opts)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_both_spellings(name):
    for option in options(COMMANDS[name]):
        long = {word.removeprefix("--") for word in option.opts if word.startswith("--")}
        for meaning in long & set(SPELLING):
            assert SPELLING[meaning] in option.opts, f"{name} --{meaning} lacks {SPELLING[meaning]}"
        short = set(option.opts) & set(SPELLING.values())
        assert not short or long & set(SPELLING), f"{name}: {short} means something else in nnU-Net's commands"


# One line for each command: everything that it shares with nnU-Net's, in nnU-Net's spelling, and what it must mean.
LINES = {
    "compare": ("-d 4 -c 3d_fullres -tr A B -p P Q -f 0 1 -o OUT",
                {"dataset": "4", "configuration": "3d_fullres", "trainers": ["A", "B"], "plans": ["P", "Q"],
                 "folds": ["0", "1"]}),
    "convert": ("clinicdb SOURCE OUT -d 950", {"dataset": 950}),
    "demo": ("-device cpu -o OUT", {"device": "cpu"}),
    "doctor": ("", {}),
    "export-onnx": ("MODEL OUT -f 0 -chk checkpoint_best.pth", {"fold": "0", "checkpoint": "checkpoint_best.pth"}),
    "gallery": ("-i IMAGES -d 4 -c 2d -tr A B -p P -f 0 1 -o OUT",
                {"images": Path("IMAGES"), "dataset": "4", "configuration": "2d", "trainers": ["A", "B"],
                 "plans": ["P"], "folds": ["0", "1"]}),
    "inspect": ("MODEL -i IMAGES -o OUT -f 0 1 -chk best.pth -device cpu",
                {"folds": ["0", "1"], "checkpoint": "best.pth", "device": "cpu"}),
    "plan": ("-d 4 -p P -o Q", {"dataset": "4", "plans": "P", "out": "Q"}),
    "profile": ("-d 4 -device cpu -c 2d -p P -tr A B -o OUT",
                {"dataset": "4", "configuration": "2d", "plans": "P", "trainers": ["A", "B"], "device": "cpu"}),
    "repeat": ("-d 4 -p P", {"dataset": "4", "plans": "P"}),
    "trainers-dir": ("", {}),
    "tune": ("-d 4 -c 2d -p P -tr A -num_gpus 2",
             {"dataset": "4", "configuration": "2d", "plans": "P", "trainer": "A", "num_gpus": 2}),
    "upgrade": ("SOURCE OUT", {}),
}  # fmt: skip


def plain(value):
    """Of a choice its name; several values are a list or, with older versions of typer, a tuple."""
    return list(value) if isinstance(value, tuple) else getattr(value, "value", value)


@pytest.mark.parametrize("name", COMMANDS)
def test_nnunets_spelling_means_what_it_means_there(name):
    line, expected = LINES[name]
    context = COMMANDS[name].make_context(name, line.split())
    found = {key: plain(context.params[key]) for key in expected}
    assert found == expected
    shared = {spelling for option in options(COMMANDS[name]) for spelling in set(option.opts) & set(SPELLING.values())}
    assert shared <= set(line.split()), "an option is missing from the line above"


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_everywhere(name, flag):
    done = CliRunner().invoke(app, [*filter(None, [name]), flag])
    assert done.exit_code == 0 and "Usage: " in done.output


@pytest.mark.parametrize("name", [name for name in COMMANDS if "-device" not in LINES[name][0]])
def test_where_there_is_no_device_it_is_refused_by_its_name(name):
    done = CliRunner().invoke(app, [name, *LINES[name][0].split(), "-device", "cpu"])
    assert done.exit_code == 2 and "No such option: -device" in done.output


def run(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_xattnres", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_name_that_the_encoding_of_the_output_lacks_is_no_traceback(tmp_path):
    """As in a file on Windows."""
    folder = tmp_path / "\u0159" / "Dataset001_Test"
    folder.mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(make_plans()))
    variables = dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), str(folder.parent))
    said = run("repeat", "-d", "1", "-n", "1", PYTHONIOENCODING="cp1252", **variables)
    assert said.startswith("wrote ") and "\\u0159" in said


def test_python_m():
    assert run("--version").startswith("nnunet-xattnres ")
    assert "Usage: nnunet-xattnres profile" in run("profile", "-h")


def test_completion():
    """As a shell asks for it; and the script that makes a shell ask."""
    words = {"_NNUNET_XATTNRES_COMPLETE": "complete_bash"}
    assert run(**words, COMP_WORDS="nnunet-xattnres pro", COMP_CWORD="1").split() == ["profile"]
    assert run(**words, COMP_WORDS="nnunet-xattnres profile -dev", COMP_CWORD="2").split() == ["-device"]
    assert run(**words, COMP_WORDS="nnunet-xattnres profile -device c", COMP_CWORD="3").split() == ["cpu", "cuda"]
    script = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "complete -o default -F _nnunet_xattnres_completion nnunet-xattnres" in script
    assert "--install-completion" in run("-h")
