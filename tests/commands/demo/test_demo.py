import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from nnunet_xattnres import autoregister
from nnunet_xattnres.cli.command import NnunetCommand
from nnunet_xattnres.cli.demo import demo as demo_command
from nnunet_xattnres.commands import demo
from nnunet_xattnres.commands.demo import commands, preparation, results, running, settings, synthetic


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, highlight=False)


def printed(console):
    return console.file.getvalue()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_cli(*arguments):
    app = typer.Typer()
    app.command(cls=NnunetCommand)(demo_command)
    return CliRunner().invoke(app, list(map(str, arguments)))


# --- the folder


@pytest.mark.parametrize("make", [False, True])
def test_a_new_or_empty_folder_is_taken(tmp_path, make):
    out = tmp_path / "some where" / "demo"
    if make:
        out.mkdir(parents=True)
    preparation.prepare_folder(out, force=False)
    assert list(contents(out)) == [settings.MARKER]


def test_a_second_run_asks_for_force(tmp_path):
    preparation.prepare_folder(tmp_path, force=False)
    (tmp_path / "predictions").mkdir()
    with pytest.raises(demo.DemoError, match="--force"):
        preparation.prepare_folder(tmp_path, force=False)
    assert (tmp_path / "predictions").is_dir()


def test_force_removes_what_the_demo_made_and_nothing_else(tmp_path):
    preparation.prepare_folder(tmp_path, force=False)
    for name in settings.OURS:
        if name == settings.OVERLAY:
            (tmp_path / name).write_text("picture")
        else:
            (tmp_path / name / "sub").mkdir(parents=True)
            (tmp_path / name / "sub" / "file").write_text("made")
    other_training = f"{settings.DATASET}/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth"
    mine = [
        tmp_path / "notes.txt",
        tmp_path / "nnUNet_raw" / "Dataset001_Mine" / "dataset.json",
        tmp_path / "nnUNet_results" / other_training,
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    preparation.prepare_folder(tmp_path, force=True)
    assert set(contents(tmp_path)) == {settings.MARKER, *(str(path.relative_to(tmp_path)) for path in mine)}


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_force_does_not_follow_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    out = tmp_path / "demo"
    preparation.prepare_folder(out, force=False)
    (out / "logs").symlink_to(elsewhere)
    preparation.prepare_folder(out, force=True)
    assert (elsewhere / "precious").is_file() and not (out / "logs").exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_foreign_folder_is_refused(tmp_path, force):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(demo.DemoError, match="did not make it"):
        preparation.prepare_folder(tmp_path, force)
    assert contents(tmp_path) == before


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(demo.DemoError, match="is a file"):
        preparation.prepare_folder(tmp_path / "file", force=True)
    with pytest.raises(demo.DemoError, match="cannot write"):
        preparation.prepare_folder(tmp_path / "file" / "below", force=True)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(demo.DemoError, match=r"cannot write to .*: Permission denied") as caught:
        preparation.prepare_folder(tmp_path / "demo", force=False)
    assert "\n" not in str(caught.value)


# --- what it needs


def test_missing_nnunet_is_an_error_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    result = run_cli("--out", tmp_path / "demo", "--device", "cpu")
    assert result.exit_code == 1
    assert "nnUNetv2_plan_and_preprocess is neither" in result.output and "pip install" in result.output
    assert not (tmp_path / "demo").exists()


def test_cuda_without_cuda_is_an_error_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run_cli("--out", tmp_path / "demo", "--device", "cuda")
    assert result.exit_code == 1 and "torch sees no such device" in result.output
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("registered", ["", "mine"])
def test_child_environment(tmp_path, monkeypatch, registered):
    monkeypatch.setenv(autoregister.VARIABLE, registered)
    monkeypatch.setenv("nnUNet_raw", "/somewhere/else")
    environment = commands.child_environment(tmp_path, commands.nnunet_exports(tmp_path, "cpu"))
    for name in (*settings.EXPORTED, "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        assert Path(environment[name]).is_relative_to(tmp_path)
    folders = [*filter(None, [registered]), autoregister.trainers_dir()]
    assert environment[autoregister.VARIABLE] == os.pathsep.join(folders)
    assert os.environ["nnUNet_raw"] == "/somewhere/else" and os.environ[autoregister.VARIABLE] == registered


def test_trainers_are_listed_once(tmp_path, monkeypatch):
    monkeypatch.setenv(autoregister.VARIABLE, autoregister.trainers_dir())
    environment = commands.child_environment(tmp_path, commands.nnunet_exports(tmp_path, "cpu"))
    assert environment[autoregister.VARIABLE] == autoregister.trainers_dir()


# --- running a command


def python(tmp_path, console, program):
    command = [sys.executable, "-c", program]
    running.run_command(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, log=tmp_path / "log.txt", console=console)


def test_a_command_keeps_its_output(tmp_path, console):
    python(tmp_path, console, "import sys; print('one'); print('[bold]two', file=sys.stderr)")
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["[bold]two", "one"]
    assert "done" in printed(console)


def test_a_failing_command_shows_its_end_and_its_log(tmp_path, console):
    with pytest.raises(demo.DemoError) as caught:
        python(tmp_path, console, "for i in range(50): print('line', i)\nraise SystemExit(3)")
    message = str(caught.value)
    assert "exit status 3" in message and sys.executable in message and str(tmp_path / "log.txt") in message
    assert "line 49" in message and "line 30" in message and "line 29" not in message
    assert "line 0\n" in (tmp_path / "log.txt").read_text()


def test_a_silent_command_shows_that_it_runs(tmp_path, console, monkeypatch):
    monkeypatch.setattr(running, "HEARTBEAT", 0.5)
    python(tmp_path, console, "import time; print('working'); time.sleep(2.5)")
    assert printed(console).count("working") >= 2


@pytest.mark.skipif(os.name == "nt", reason="process groups of POSIX")
def test_ctrl_c_ends_the_command_and_its_children(tmp_path, console, monkeypatch):
    pid_file = tmp_path / "pid"
    program = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(pid_file)!r}, 'w').write(str(child.pid)); print('Parameters: ready', flush=True); time.sleep(60)"
    )

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running.TrainingLines, "read", lambda _, line: interrupt() if "ready" in line else None)
    with pytest.raises(KeyboardInterrupt):
        python(tmp_path, console, program)
    for _ in range(50):
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid_file.read_text()], capture_output=True, text=True).stdout
        if not state.strip() or state.startswith("Z"):
            return
        time.sleep(0.1)
    pytest.fail("the command's child still runs")


def ctrl_c(*_, **__):
    raise KeyboardInterrupt  # the signal may be ignored where the tests run


def sigterm(*_, **__):
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [ctrl_c, sigterm])
def test_ctrl_c_and_sigterm_are_exit_status_130(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(demo, "run_demo", stop)
    result = run_cli("--out", tmp_path / "demo")
    assert result.exit_code == 130 and "stopped. Start anew with --force" in result.output


def test_training_lines():
    stamp = "2030-01-02 03:04:05.678901:"
    lines = running.TrainingLines()
    assert lines.latest == "no output yet"
    assert lines.read(f"{stamp} Epoch 1 ") is None
    assert lines.read(f"{stamp} Current learning rate: 0.008 ") is lines.read("") is None
    assert lines.latest == "epoch 2 of 5 is running"
    assert lines.read(f"{stamp} Pseudo dice [np.float32(0.8042), np.float32(nan), 1.0]") is None
    assert lines.read(f"{stamp} Epoch time: 12.34 s") == "epoch 2 of 5  pseudo Dice 0.804  nan  1.000  12.3 s"
    assert lines.read(f"{stamp} Mean Validation Dice:  0.9") == "Mean Validation Dice:  0.9"


# --- what nnU-Net is told, and what came out


def test_small_plans_keep_the_preprocessed_data(tmp_path):
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "batch_size": 7,
        "patch_size": [64, 64, 64],
        "architecture": {
            "arch_kwargs": {
                "n_stages": 5,
                "features_per_stage": [32, 64, 128, 256, 320],
                "n_conv_per_stage": [2] * 5,
                "n_conv_per_stage_decoder": [2] * 4,
            }
        },
    }
    plans = {"plans_name": "nnUNetPlans", "configurations": {"2d": {}, "3d_fullres": configuration}}
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    small = json.loads(commands.write_small_plans(tmp_path).read_text())
    assert small["plans_name"] == settings.SMALL_PLANS
    assert small["configurations"]["3d_fullres"]["data_identifier"] == "nnUNetPlans_3d_fullres"
    network = small["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert network["features_per_stage"] == [8, 16, 32, 64, 64]
    assert network["n_conv_per_stage"] == [1, 2, 2, 2, 2] and network["n_conv_per_stage_decoder"] == [2, 2, 2, 1]
    assert json.loads((tmp_path / "nnUNetPlans.json").read_text()) == plans


@pytest.fixture
def finished(tmp_path):
    """A tiny dataset, its truth as the predictions, and a summary as nnU-Net writes it."""
    raw = synthetic.write_dataset(tmp_path / "raw", "Dataset001_Tiny", 1, 2, (16, 18, 16), seed=0)
    predictions = tmp_path / "predictions"
    predictions.mkdir()
    for path in (raw / "labelsTs").iterdir():
        (predictions / path.name).write_bytes(path.read_bytes())
    values = {"heldout_001": (0.5, math.nan), "heldout_000": (0.9, math.nan)}
    entries = [
        {
            "reference_file": str(raw / "labelsTs" / f"{case}.nii.gz"),
            "prediction_file": str(predictions / f"{case}.nii.gz"),
            "metrics": {str(label): {"Dice": value} for label, value in enumerate(both, start=1)},
        }
        for case, both in values.items()
    ]
    (predictions / "summary.json").write_text(json.dumps({"metric_per_case": entries}))
    return raw, predictions


def test_table(finished, console):
    raw, predictions = finished
    dice = results.read_dice(predictions / "summary.json", results.structures_of(raw))
    assert list(dice) == ["heldout_000", "heldout_001"]
    assert results.mean_dice(dice)["organ"] == pytest.approx(0.7) and math.isnan(results.mean_dice(dice)["duct"])
    console.print(results.dice_table(dice))
    text = printed(console)
    assert all(word in text for word in ("organ", "duct", "heldout_001", "0.900", "0.700", "n/a"))
    assert "nan" not in text


def test_overlay(finished, tmp_path):
    raw, predictions = finished
    dice = results.read_dice(predictions / "summary.json", results.structures_of(raw))
    results.draw_overlay(raw, predictions, dice, tmp_path / "overlay.png")
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")


def test_a_full_disk_leaves_the_overlay_of_an_earlier_demo(finished, tmp_path, disk_full_at):
    raw, predictions = finished
    overlay = tmp_path / "overlay.png"
    overlay.write_bytes(b"old")
    dice = results.read_dice(predictions / "summary.json", results.structures_of(raw))
    with disk_full_at(1000), pytest.raises(OSError, match="File too large"):
        results.draw_overlay(raw, predictions, dice, overlay)
    assert overlay.read_bytes() == b"old" and not list(tmp_path.glob(".partial-*"))


@pytest.mark.filterwarnings("error")
def test_overlay_of_an_empty_prediction(finished, tmp_path):
    raw, predictions = finished
    for path in predictions.glob("*.nii.gz"):
        synthetic._write(np.zeros((16, 18, 16), dtype=np.uint8), path)
    dice = {"heldout_000": {"organ": 0.0, "duct": math.nan}}
    results.draw_overlay(raw, predictions, dice, tmp_path / "overlay.png")
    assert (tmp_path / "overlay.png").is_file()


def test_the_whole_demo_without_nnunet(tmp_path, console, monkeypatch):
    """Every step in its order, with a runner that leaves what nnU-Net would."""
    out, commands = tmp_path / "my demo", []

    def pretend(command, *, env, log, console):
        commands.append(Path(command[0]).stem)
        predictions, raw = out / "predictions", out / "nnUNet_raw" / settings.DATASET
        if log.name == "1_plan.log":
            preprocessed = Path(env["nnUNet_preprocessed"]) / settings.DATASET
            preprocessed.mkdir(parents=True)
            network = {"n_stages": 4, "n_conv_per_stage": [2] * 4, "n_conv_per_stage_decoder": [2] * 3}
            plans = {"configurations": {"3d_fullres": {"architecture": {"arch_kwargs": network}}}}
            (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
        elif log.name == "3_predict.log":
            predictions.mkdir()
            for path in (raw / "labelsTs").iterdir():
                (predictions / path.name).write_bytes(path.read_bytes())
        elif log.name == "4_evaluate.log":
            metrics = {"1": {"Dice": 0.95}, "2": {"Dice": 0.5}}
            files = sorted(map(str, (raw / "labelsTs").iterdir()))
            entries = [{"reference_file": file, "prediction_file": file, "metrics": metrics} for file in files]
            (predictions / "summary.json").write_text(json.dumps({"metric_per_case": entries}))

    monkeypatch.setattr(demo, "run_command", pretend)
    monkeypatch.setenv("MPLCONFIGDIR", "")
    dice = demo.run_demo(out, device="cpu", console=console)
    assert commands == list(settings.STEPS.values()) and len(dice) == settings.N_TEST
    assert (out / settings.OVERLAY).is_file()
    text = printed(console)
    assert "duct's mean Dice is 0.500" in text and "organ's" not in text
    assert "-tr nnUNetTrainerXAttnRes\n" in text and settings.SMALL_PLANS in text
    assert f"nnUNetv2_train 900 3d_fullres 0 -tr {settings.TRAINER}" in text


SHORTER = """
from nnunet_xattnres.nnunet_trainer import {name} as TheDemos


class {name}(TheDemos):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = {iterations}
        self.num_val_iterations_per_epoch = {validations}
"""


@pytest.mark.nnunet
@pytest.mark.parametrize(
    ("iterations", "validations", "learned", "good"),
    [
        (60, 5, ["organ"], 0.5),  # few for the duct, with which a training may not have begun by then
        pytest.param(250, 50, ["organ", "duct"], settings.GOOD_DICE, marks=pytest.mark.thorough),
    ],
)
def test_the_real_demo(tmp_path, tmp_path_factory, iterations, validations, learned, good):
    """With fewer iterations, by a trainer of that name in a folder in front of ours; or whole."""
    out, trainers = tmp_path / "my demo", tmp_path_factory.mktemp("trainers")
    shorter = SHORTER.format(name=settings.TRAINER, iterations=iterations, validations=validations)
    (trainers / "shorter.py").write_text(shorter)
    program = "import sys; from nnunet_xattnres.cli import app; app(['demo', *sys.argv[1:]])"
    command = [sys.executable, "-c", program, "--out", str(out), "--device", "cpu"]
    environment = {**os.environ, autoregister.SWITCH: "0", autoregister.VARIABLE: str(trainers)}
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"epoch {settings.N_EPOCHS} of {settings.N_EPOCHS}" in first.stdout
    structures = results.structures_of(out / "nnUNet_raw" / settings.DATASET)
    dice = results.read_dice(out / "predictions" / "summary.json", structures)
    assert len(dice) == settings.N_TEST
    means = results.mean_dice(dice)
    assert means.keys() == {"organ", "duct"} and min(means[structure] for structure in learned) >= good, means
    assert (out / settings.OVERLAY).read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]

    before = contents(out)
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert second.returncode == 1 and "--force" in second.stderr
    assert contents(out) == before
