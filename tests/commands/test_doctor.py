"""The doctor tells the truth: each check on a good and on a spoilt environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.reads import needs_operators
from typer.testing import CliRunner

from nnunet_xattnres import autoregister
from nnunet_xattnres.cli import app
from nnunet_xattnres.commands import doctor
from nnunet_xattnres.training.epochs import TRAINERS

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*FOLDERS, autoregister.VARIABLE, autoregister.SWITCH, "nnUNet_compile"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good_environment(monkeypatch, tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    autoregister.register()


def levels(findings, topic=None):
    return [f.level for f in findings if topic in (None, f.topic)]


def run_doctor(**environment):
    """Exit code and report of the real command, in an environment that has nothing of nnU-Net's but ``environment``."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")} | {"COLUMNS": "200"}
    code = "from nnunet_xattnres.cli import app; app(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_good_install(tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    code, report = run_doctor(**{name: str(tmp_path / name) for name in FOLDERS})
    assert code == 0
    assert f"{autoregister.trainers_dir()} (put there by nnunet_xattnres.pth when Python started)" in report
    for name in TRAINERS:
        assert f"{name}  " in report
    if hasattr(torch.library, "custom_op"):  # an older torch is warned about
        assert "warning" not in report.replace("0 warning", "") and "mend it" not in report


def test_autoregistration_off():
    code, report = run_doctor(NNUNET_XATTNRES_AUTOREGISTER="0")
    assert code == 1
    assert "NNUNET_XATTNRES_AUTOREGISTER=0 switches that off" in report
    assert 'export nnUNet_extTrainer="$(nnunet-xattnres trainers-dir)"' in report
    assert report.count("nnU-Net does not find it") == len(TRAINERS)


def test_a_variable_that_points_to_nowhere(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    code, report = run_doctor(nnUNet_extTrainer=nowhere)
    assert code == 0, "nnU-Net skips the missing folder and finds ours behind it"
    assert f"{nowhere} is listed but does not exist" in report and "unset nnUNet_extTrainer" in report


def test_the_trainers_as_nnunet_finds_them(good_environment):
    findings = list(doctor.check_trainers())
    assert [f.topic for f in findings] == list(TRAINERS) and set(levels(findings)) == {"ok"}
    assert {Path(f.message).name for f in findings} == {"xattnres.py", "epochs.py"}


def test_another_trainer_of_the_same_name_in_front_of_ours(good_environment, monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerXAttnRes(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv(autoregister.VARIABLE, os.pathsep.join([str(tmp_path), autoregister.trainers_dir()]))
    first, *others = doctor.check_trainers()
    assert first.level == "warning" and str(tmp_path / "mine.py") in first.message
    assert set(levels(others)) == {"ok"}


def test_a_broken_module_in_a_folder_of_the_users(good_environment, monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.setenv(autoregister.VARIABLE, os.pathsep.join([str(tmp_path), autoregister.trainers_dir()]))
    finding = next(iter(doctor.check_trainers()))
    assert finding.level == "error" and "a_module_that_nobody_has" in finding.message
    assert str(tmp_path) not in finding.remedy, "keeping the broken folder would mend nothing"


def test_by_hand_keeps_the_users_folders(monkeypatch, tmp_path):
    monkeypatch.setenv(autoregister.VARIABLE, str(tmp_path))
    finding = next(f for f in doctor.check_registration() if f.level == "error")
    assert finding.remedy == f'export nnUNet_extTrainer="{tmp_path}:$(nnunet-xattnres trainers-dir)"'


def test_registered_from_the_environment(good_environment, monkeypatch):
    monkeypatch.setattr(autoregister, "registered_at_start", False)
    assert [f.message.endswith("(from the environment)") for f in doctor.check_registration()] == [True]


def test_missing_trainers_folder(good_environment, monkeypatch, tmp_path):
    monkeypatch.setattr(autoregister, "trainers_dir", lambda: str(tmp_path / "gone"))
    finding = next(iter(doctor.check_registration()))
    assert finding.level == "error" and "gone is missing" in finding.message


def test_paths(good_environment, monkeypatch, tmp_path):
    assert levels(doctor.check_paths()) == ["ok"] * 3
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "absent"))
    monkeypatch.setattr(doctor, "_writable", lambda folder: not folder.endswith("results"))
    unset, absent, read_only = doctor.check_paths()
    assert (unset.message, absent.level, read_only.level) == ("not set", "warning", "warning")
    assert unset.remedy == "export nnUNet_raw=/path/to/nnUNet_raw"
    assert absent.remedy == f'mkdir "{tmp_path / "absent"}"'
    assert "nnU-Net must write there" in read_only.message


@pytest.mark.parametrize(
    ("version", "supported"), [("2.8.1", True), ("2.10", True), ("2.8.0", False), ("2.7", False), ("3.0.0", False)]
)
def test_supported_versions(version, supported):
    assert doctor._supported(version) is supported


def test_a_missing_nnunet_is_named(monkeypatch):
    def version(name):
        if name == "nnunetv2":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    assert levels(doctor.check_versions(), "nnunetv2") == ["error"]


@pytest.mark.parametrize(
    ("cuda", "setting", "compiler", "level", "state"),
    [
        (False, None, True, "ok", "off"),
        (True, None, True, "ok", "on"),
        (True, "f", True, "ok", "off"),
        (True, "1", False, "warning", "on"),
    ],
)
def test_compile_state_is_nnunets(monkeypatch, cuda, setting, compiler, level, state):
    monkeypatch.delenv("CC", raising=False)
    if setting is not None:
        monkeypatch.setenv("nnUNet_compile", setting)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
    finding = doctor._compile_state(cuda)
    assert finding.level == level and finding.message.startswith(state)


def test_trainers_dir_command():
    result = CliRunner().invoke(app, ["trainers-dir"])
    assert result.exit_code == 0 and result.stdout == autoregister.trainers_dir() + "\n"


def test_version_and_help():
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("nnunet-xattnres ")
    commands = CliRunner().invoke(app, ["--help"]).stdout
    assert all(name in commands for name in ("demo", "doctor", "trainers-dir"))


def test_the_path_of_the_reads_is_shown(monkeypatch):
    if hasattr(torch.library, "custom_op"):
        (finding,) = doctor.check_reads()
        assert (finding.level, finding.topic) == ("ok", "reads") and finding.message.startswith("tiled on ")
    monkeypatch.setattr("nnunet_xattnres.ops.read_path", lambda *args, **kwargs: "reference")
    (finding,) = doctor.check_reads()
    assert finding.level == "warning" and "older than 2.4" in finding.message and finding.remedy


@needs_operators
def test_what_is_proved_and_chosen_on_a_gpu_is_shown(monkeypatch, tmp_path):
    from nnunet_xattnres.ops import chosen
    from nnunet_xattnres.ops.shapes import ReadShape

    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path))
    monkeypatch.setattr(chosen, "machine", lambda device: "a made-up GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (finding,) = doctor.check_reads()
    assert "a training first tries the other paths" in finding.message and "nnunet-xattnres tune" in finding.message
    well = {"status": "ok", "forward": 2.0, "backward": 2.0}
    for channels, fused in ((32, {**well, "forward": 1.0}), (64, {"status": "crashed", "why": "it fell"})):
        shape = ReadShape("float16", 2, channels, (8, 8), ((channels, 8, 8),), (0,), None, 0)
        chosen.save("a made-up GPU", shape, {"fused": fused, "tiled": well})
    first, second = doctor.check_reads()
    assert first.level == "ok" and "32 channels at 8x8" in first.message
    assert "forward fused, backward fused (fused ok, tiled ok)" in first.message
    assert second.level == "warning" and "forward tiled, backward tiled (fused crashed, tiled ok)" in second.message


def test_a_forced_path_is_shown(monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", "reference")
    (finding,) = doctor.check_reads()
    assert finding.level == "ok" and "NNUNET_XATTNRES_PATH forces it" in finding.message
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", "fast")
    (finding,) = doctor.check_reads()
    assert finding.level == "error" and "NNUNET_XATTNRES_PATH is 'fast'" in finding.message
    assert finding.remedy.endswith(" NNUNET_XATTNRES_PATH") or finding.remedy == "set NNUNET_XATTNRES_PATH="


def test_the_reference_on_mps_is_no_old_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    (finding,) = doctor.check_reads()
    assert (finding.level, finding.topic, finding.remedy) == ("ok", "reads", "")
    assert finding.message.startswith("reference on mps") and "has not been run there" in finding.message
