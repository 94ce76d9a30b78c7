"""The doctor tells the truth: each check on a good and on a spoilt environment."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from helpers.reads import needs_operators
from typer.testing import CliRunner

from nnunet_xattnres import autoregister
from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.doctor import Finding, asking, findings, installation, machine, on_path, trainers
from nnunet_xattnres.common import shell
from nnunet_xattnres.common.installing import NEEDED, install
from nnunet_xattnres.training.epochs import TRAINERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OURS = installation.OURS
ROOT = Path(autoregister.__file__).parents[1]
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SCRIPTS = sysconfig.get_path("scripts")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in (*FOLDERS, autoregister.VARIABLE, autoregister.SWITCH, "nnUNet_compile"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good_environment(monkeypatch, tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))


def levels(found, topic=None):
    return [f.level for f in found if topic in (None, f.topic)]


def shell_environment(**environment):
    """That of a shell in which this environment is active, without anything of nnU-Net's but ``environment``."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")}
    path = os.pathsep.join([SCRIPTS, os.environ.get("PATH", "")])
    return clean | {"COLUMNS": "200", "PATH": path} | environment


def run_doctor(*command, cwd=None, **environment):
    """Exit code and report of the real command."""
    command = command or (sys.executable, "-m", "nnunet_xattnres", "doctor")
    done = subprocess.run(command, env=shell_environment(**environment), cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def remedies(report):
    return [line.partition("mend it with:  ")[2] for line in report.splitlines() if "mend it with:" in line]


def test_good_install(tmp_path):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    code, report = run_doctor(cwd=tmp_path, **{name: str(tmp_path / name) for name in FOLDERS})
    assert code == 0
    assert f"{autoregister.trainers_dir()} (put there by nnunet_xattnres.pth when Python started)" in report
    named = [report.count(f" {name},") + report.count(f" {name} ") for name in TRAINERS]
    assert max(named) == 1 and sum(named) + sum(map(int, re.findall(r" and (\d+) more ", report))) == len(TRAINERS)
    assert f"nnU-Net finds every trainer in {sys.prefix}" in report
    if hasattr(torch.library, "custom_op"):  # an older torch is warned about
        warnings = [line for line in report.splitlines() if line.startswith("warning")]
        # these tests may be run on another checkout than the installed one
        assert not [line for line in warnings if "PYTHONPATH" not in line or "PYTHONPATH" not in os.environ], report


def test_autoregistration_off_and_its_remedy_mends_it(tmp_path):
    code, report = run_doctor(cwd=tmp_path, NNUNET_XATTNRES_AUTOREGISTER="0")
    assert code == 1
    assert "NNUNET_XATTNRES_AUTOREGISTER=0 switches that off" in report
    remedy = f"export nnUNet_extTrainer={shlex.quote(autoregister.trainers_dir())}"
    assert remedies(report).count(remedy) == 1, "for all trainers together"
    assert report.count("nnU-Net does not find it") == 1
    again = f"{remedy}; exec {shlex.quote(sys.executable)} -m nnunet_xattnres doctor"
    code, report = run_doctor("sh", "-c", again, cwd=tmp_path, NNUNET_XATTNRES_AUTOREGISTER="0")
    assert code == 0 and "(from the environment)" in report


@pytest.fixture
def other_environment(tmp_path, monkeypatch):
    """A virtual environment that sees this one's libraries and this checkout, but has no nnunet_xattnres.pth."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "other", with_pip=False)
    python = tmp_path / "other" / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site_packages,) = (tmp_path / "other").glob("[Ll]ib/**/site-packages")
    (site_packages / "libraries.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return python, site_packages


def test_without_the_pth_nnunet_finds_nothing_whatever_we_have_put_there_ourselves(other_environment, tmp_path):
    python, _ = other_environment
    code, report = run_doctor(python, "-m", "nnunet_xattnres", "doctor", cwd=tmp_path)
    assert code == 1
    assert "our folder is not on it: nnunet_xattnres.pth did not run" in report
    assert report.count("nnU-Net does not find it") == 1
    assert f"export nnUNet_extTrainer={autoregister.trainers_dir()}" in remedies(report)


def make_installed(site_packages, direct_url=None, *lines):
    folder = site_packages / "nnunet_xattnres-0.1.0.dist-info"
    folder.mkdir(parents=True)
    head = ["Metadata-Version: 2.1", "Name: nnunet-xattnres", "Version: 0.1.0"]
    (folder / "METADATA").write_text("\n".join([*head, *lines]))
    if direct_url is not None:
        (folder / "direct_url.json").write_text(json.dumps(direct_url))


def test_an_editable_install_whose_checkout_was_moved(other_environment, tmp_path):
    """Python and nnU-Net start as ever and find no trainer of ours; in its new place the checkout can say why."""
    python, site_packages = other_environment
    gone = tmp_path / "moved away"
    (site_packages / "libraries.pth").write_text(f"{gone}\n{sysconfig.get_path('purelib')}\n")
    (site_packages / "nnunet_xattnres.pth").write_text((ROOT / "nnunet_xattnres.pth").read_text())
    make_installed(site_packages, {"url": gone.as_uri(), "dir_info": {"editable": True}})
    alive = subprocess.run([python, "-c", "import nnunetv2"], env=shell_environment(), capture_output=True, text=True)
    assert (alive.returncode, alive.stderr) == (0, "")
    code, report = run_doctor(python, "-m", "nnunet_xattnres", "doctor", cwd=ROOT)
    assert code == 1
    assert f"it was installed with -e from {gone}, and that is not there any more" in report
    assert "nnU-Net's commands cannot import nnunet_xattnres" in report
    remedy = f"{python} -m pip install --force-reinstall --no-deps -e {ROOT}"
    assert remedies(report).count(remedy) == 1


@pytest.mark.parametrize(
    ("by_us", "before", "after"),
    [
        (True, "{ours}", None),
        (True, "/mine{sep}{ours}", "/mine"),
        (False, "/mine{sep}{ours}", "/mine{sep}{ours}"),
        (False, "{ours}", "{ours}"),
    ],
)
def test_what_this_process_put_there_the_commands_do_not_have(monkeypatch, by_us, before, after):
    def filled(text):
        return text and text.format(ours=autoregister.trainers_dir(), sep=os.pathsep)

    monkeypatch.setattr(autoregister, "registered_at_start", by_us)
    monkeypatch.setenv(autoregister.VARIABLE, filled(before))
    assert asking.users_environment().get(autoregister.VARIABLE) == filled(after)


def test_on_windows_names_of_variables_are_in_capitals(monkeypatch):
    monkeypatch.setattr(autoregister, "registered_at_start", True)
    monkeypatch.setattr(asking, "folders_of_others", list)
    monkeypatch.setattr(asking.os, "environ", {autoregister.VARIABLE.upper(): autoregister.trainers_dir(), "PATH": "p"})
    assert asking.users_environment() == {"PATH": "p"}


def fake_package(folder):
    (folder / "nnunetv2").mkdir(parents=True)
    (folder / "nnunetv2" / "__init__.py").write_text("")
    return folder / "nnunetv2"


def test_an_nnunet_by_pythonpath_and_one_in_the_current_folder(monkeypatch, tmp_path):
    """PYTHONPATH alone goes before the installed one; the current folder counts for python -m and not for commands."""
    installed = asking.ask(shell_environment(), "origins")["origins"]
    lies_here = fake_package(tmp_path / "current")
    monkeypatch.chdir(lies_here.parent)
    assert asking.ask(shell_environment(), "origins")["origins"] == installed
    (warning,) = (f for f in installation.check_origins(installed, installed) if f.level == "warning")
    assert warning.topic == "nnunetv2" and f"in this folder takes {lies_here}" in warning.message
    assert warning.remedy == shell.command("cd", str(tmp_path))

    shadow = fake_package(tmp_path / "shadow")
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join([str(shadow.parent), os.environ.get("PYTHONPATH", "")])
    found = asking.ask(shell_environment(PYTHONPATH=path), "origins")["origins"]
    first, second = installation.check_origins(found, installed)
    assert (first.level, second.level, first.remedy) == ("warning", "ok", shell.unset("PYTHONPATH"))
    assert f"PYTHONPATH puts {shadow} before the installed one" in first.message


def test_packages_that_the_commands_cannot_import():
    nothing = {"nnunetv2": None, "nnunet_xattnres": None}
    assert levels(installation.check_origins(nothing, nothing)) == ["error", "error"]


def test_a_python_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(asking, "_AS_A_SCRIPT", "import sys; sys.exit('out of luck')")
    answer = asking.ask(shell_environment())
    assert not list(trainers.check_registration(answer))
    (finding,) = trainers.check_trainers(answer)
    assert finding.level == "error" and finding.message.endswith("ended with 1: out of luck")


def test_a_trainer_in_front_of_ours_and_a_folder_that_is_missing(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerXAttnRes(nnUNetTrainer): pass\n"
    )
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setenv(autoregister.VARIABLE, os.pathsep.join([str(tmp_path), nowhere]))
    answer = asking.ask(shell_environment(nnUNet_extTrainer=os.environ[autoregister.VARIABLE]))
    registration, missing = trainers.check_registration(answer)
    assert registration.level == "ok" and "nnunet_xattnres.pth when Python started" in registration.message
    assert f"{nowhere} is listed but does not exist" in missing.message
    assert missing.remedy == shell.export(autoregister.VARIABLE, str(tmp_path))
    first, *others = trainers.check_trainers(answer)
    assert first.level == "warning" and str(tmp_path / "mine.py") in first.message
    assert [f.topic for f in others] == list(TRAINERS)[1:] and set(levels(others)) == {"ok"}
    files = {Path(f.message).name for f in others}
    assert files == {"comparators.py", "emcad.py", "epochs.py", "xattnres.py"}
    assert len(list(findings.grouped(others))) == len(files), "a line for each file"


def test_a_broken_module_in_a_folder_of_the_users(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.setenv(autoregister.VARIABLE, str(tmp_path))
    answer = asking.ask(shell_environment(nnUNet_extTrainer=str(tmp_path)))
    (finding,) = findings.grouped(trainers.check_trainers(answer))
    assert finding.topic == f"{', '.join(list(TRAINERS)[:4])} and {len(TRAINERS) - 4} more"
    assert finding.level == "error" and "a_module_that_nobody_has" in finding.message
    assert str(tmp_path) not in finding.remedy, "keeping the broken folder would mend nothing"


def test_by_hand_keeps_the_users_folders(monkeypatch, tmp_path):
    monkeypatch.setenv(autoregister.VARIABLE, str(tmp_path))
    (finding,) = trainers.check_registration({"variable": str(tmp_path), "registered_at_start": False})
    assert finding.level == "error"
    assert finding.remedy == f"export nnUNet_extTrainer={shlex.quote(f'{tmp_path}:{autoregister.trainers_dir()}')}"


def test_missing_trainers_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(autoregister, "trainers_dir", lambda: str(tmp_path / "gone"))
    missing, not_there = trainers.check_registration({"variable": ""})
    assert missing.level == "error" and "gone is missing" in missing.message
    (not_found,) = trainers.check_trainers({"trainers": {"nnUNetTrainerXAttnRes": {"why": ""}}})
    assert missing.remedy == not_there.remedy == not_found.remedy == installation.reinstall(), "no variable mends it"


def test_the_same_is_said_once(monkeypatch):
    many = [Finding("error", name, "not found", "do it") for name in "abc"] + [Finding("ok", "d", "fine")]
    assert list(findings.grouped(many)) == [Finding("error", "a, b, c", "not found", "do it"), many[-1]]
    (short,) = findings.grouped([Finding("ok", name, "fine") for name in "abcde"])
    assert short.topic == "a, b, c, d, e", "in the place of one name there would only be the words that one is left out"
    monkeypatch.setattr("nnunet_xattnres.commands.doctor.diagnose", lambda: iter(many))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and done.stdout.count("do it") == 1 and "3 error(s)" in done.stdout


def program(file, text="", mode=0o755):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    file.chmod(mode)
    return file


@pytest.fixture
def two_environments(monkeypatch, tmp_path):
    """This one, and another whose Python is a link to the same program; their commands."""
    base = program(tmp_path / "usr" / "python3.11")
    for name in ("this", "other"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "pyvenv.cfg").touch()
        for python in ("python", "python3"):
            (tmp_path / name / "bin" / python).symlink_to(base)
        program(tmp_path / name / "bin" / on_path.COMMAND, f"#!{tmp_path / name}/bin/python3\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "this" / "bin" / "python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "this"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme=None: str(tmp_path / "this" / "bin"))

    def judge(*folders):
        monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
        (finding,) = on_path.check_command()
        return finding

    return tmp_path, judge


def test_the_command_on_path_is_this_environments(two_environments):
    root, judge = two_environments
    assert judge(root / "this" / "bin", root / "other" / "bin").level == "ok"
    (root / "local").mkdir()
    (root / "local" / on_path.COMMAND).symlink_to(root / "this" / "bin" / on_path.COMMAND)  # as pipx and uv do
    assert judge(root / "local").level == "ok"


def test_the_command_on_path_is_another_environments(two_environments):
    root, judge = two_environments
    finding = judge(root / "other" / "bin", root / "this" / "bin")
    assert finding.level == "warning" and "belongs to another environment" in finding.message
    assert f"run by {root}/other/bin/python3;" in finding.message
    assert finding.remedy == f'export PATH={root}/this/bin:"$PATH"'
    for python in ("python", "python3"):
        (root / "other" / "bin" / python).unlink()
    assert "python3, which is not there any more" in judge(root / "other" / "bin").message


def test_the_command_is_not_on_path(two_environments):
    """As after `uv tool install`, which puts the commands of nnunet-xattnres there and not those of nnU-Net."""
    root, judge = two_environments
    finding = judge(root)
    assert finding.level == "warning" and "not on PATH" in finding.message
    assert finding.remedy == f'export PATH={root}/this/bin:"$PATH"'
    (root / "this" / "bin" / on_path.COMMAND).unlink()
    finding = judge(root / "other" / "bin")
    assert "has no such command" in finding.message and "install" in finding.remedy and "nnunetv2" in finding.remedy


def test_a_launcher_that_says_nothing_is_no_warning(two_environments):
    root, judge = two_environments
    program(root / "shims" / on_path.COMMAND, "#!/usr/bin/env bash\nexec pyenv exec\n")
    finding = judge(root / "shims")
    assert finding.level == "ok" and "is not known" in finding.message


def test_windows_launchers_are_judged_by_their_folders(two_environments, monkeypatch):
    root, judge = two_environments
    monkeypatch.setattr(on_path, "COMMAND", "nnUNetv2_train.exe")
    for name in ("this", "other"):
        program(root / name / "bin" / "nnUNetv2_train.exe", "MZ")
    assert judge(root / "this" / "bin").level == "ok"
    finding = judge(root / "other" / "bin")
    assert finding.level == "warning" and "belongs to another environment" in finding.message


OPTIONS = "--force-reinstall --no-deps"
GIT = {"vcs": "git", "requested_revision": "v1", "commit_id": "1"}


@pytest.mark.parametrize(
    ("direct_url", "lines", "source"),
    [
        ({"url": "{root}", "dir_info": {"editable": True}}, [], "-e {path}"),
        ({"url": "{root}", "dir_info": {}}, [], "{path}"),
        ({"url": "{root}/x.whl", "archive_info": {}}, [], "{path}/x.whl"),
        ({"url": "https://x.org/x.whl", "archive_info": {}}, [], "'nnunet-xattnres @ https://x.org/x.whl'"),
        ({"url": "https://x.org/r.git", "vcs_info": GIT}, [], "'nnunet-xattnres @ git+https://x.org/r.git@v1'"),
        (
            None,
            ["Project-URL: Issues, https://x.org/i", "Project-URL: Repository, https://x.org/r"],
            "'nnunet-xattnres @ git+https://x.org/r'",
        ),
        (
            {"url": "file:///nowhere", "dir_info": {"editable": True}},
            ["Project-URL: Homepage, https://x.org/h"],
            "'nnunet-xattnres @ git+https://x.org/h'",
        ),
        (None, [], None),
    ],
)
def test_it_is_installed_again_from_where_it_came_from(monkeypatch, tmp_path, direct_url, lines, source):
    """No index has to have it."""
    place = tmp_path / "place"
    program(place / "x.whl")
    if direct_url is not None:
        direct_url = direct_url | {"url": direct_url["url"].format(root=place.as_uri())}
    make_installed(tmp_path / "site", direct_url, *lines)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))  # no checkout
    remedy = installation.reinstall()
    if source is None:
        assert remedy == "install it again from the file or the clone that you have it from"
    else:
        assert remedy == f"{shlex.quote(sys.executable)} -m pip install {OPTIONS} {source.format(path=place)}"


def test_in_a_checkout_that_is_not_installed(monkeypatch, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(installation, "_direct_url", dict)
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "nnunet_xattnres" / "commands" / "doctor" / "x.py"))
    assert installation.reinstall().endswith(f" {OPTIONS} -e {tmp_path}")


def test_paths(good_environment, monkeypatch, tmp_path):
    assert levels(machine.check_paths()) == ["ok"] * 3
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "absent" / "below"))
    monkeypatch.setattr(machine, "_writable", lambda folder: not folder.endswith("results"))
    unset, absent, read_only = machine.check_paths()
    assert (unset.message, absent.level, read_only.level) == ("not set", "warning", "warning")
    assert unset.remedy == "export nnUNet_raw=/path/to/nnUNet_raw"
    subprocess.run(["sh", "-c", absent.remedy], check=True)
    assert (tmp_path / "absent" / "below").is_dir()
    assert "nnU-Net must write there" in read_only.message
    assert read_only.remedy == "export nnUNet_results=/path/to/nnUNet_results", "its mode is right: chmod mends nothing"


def test_a_folder_of_ones_own_without_the_permission(good_environment, monkeypatch, tmp_path):
    folder = tmp_path / "nnUNet_results"
    folder.chmod(0o555)
    monkeypatch.setattr(machine, "_writable", lambda name: name != str(folder))
    *_, finding = machine.check_paths()
    subprocess.run(["sh", "-c", finding.remedy], check=True)
    assert folder.stat().st_mode & 0o200


@pytest.mark.skipif(os.name != "posix", reason="the remedy is tried in sh")
@pytest.mark.parametrize("value", ["~/nnUNet_raw", "nnUNet_raw"])
def test_a_folder_that_nnunet_takes_literally(good_environment, monkeypatch, tmp_path, value):
    """nnU-Net expands no tilde, and a relative folder is another one in every folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", value)
    finding, *_ = machine.check_paths()
    assert finding.level == "warning" and "taken literally" in finding.message
    mended = subprocess.run(["sh", "-c", f"{finding.remedy}; echo $nnUNet_raw"], capture_output=True, text=True)
    assert mended.stdout.strip() == str(tmp_path / "nnUNet_raw")


def test_quotes_that_are_part_of_the_value(monkeypatch):
    """As after `set X="C:\\data"` in cmd."""
    monkeypatch.setenv("nnUNet_raw", '"/data/raw"')
    finding, *_ = machine.check_paths()
    assert finding.level == "warning" and finding.remedy == "export nnUNet_raw=/data/raw"


def test_a_file_in_the_place_of_a_folder(good_environment, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    finding = next(iter(machine.check_paths()))
    assert finding.message.endswith("is no folder") and finding.remedy.startswith("export nnUNet_raw=")


STATED = [
    "nnunetv2<3,>=2.8.1",
    "torch!=2.9.*,>=2.1.2",
    "filelock>=3.30",
    "tomli>=2; python_version < '3'",
    "torch>=2.12; extra == 'onnx'",
]


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [
        *(("nnunetv2", version, "ok") for version in ("2.8.1", "2.10")),
        *(("nnunetv2", version, "error") for version in ("2.8.0", "2.7", "3.0.0", "of my own")),
        *(("torch", version, "ok") for version in ("2.8.0+cu128", "2.10.0", "2.11.0a0+gitabc.nv26.01")),
        *(("torch", version, "error") for version in ("2.1.1", "2.9.0", "2.9.1+cu128")),
        ("filelock", "3.29.9", "error"),
    ],
)
def test_versions_are_held_against_what_the_package_needs(monkeypatch, name, version, level):
    """All that its metadata say, but the extras and what is for other machines."""
    versions = {OURS: "0.1.0", "nnunetv2": "2.8.1", "torch": "2.8.0", "filelock": "3.30"} | {name: version}
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: STATED)
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    found = {finding.topic: finding for finding in installation.check_versions()}
    assert found.keys() == {"Python", *versions} and found[name].level == level
    assert {finding.level for topic, finding in found.items() if topic != name} == {"ok"}
    if level == "error":
        (stated,) = (text for text in STATED if text.startswith(name) and "extra" not in text)
        assert found[name].message == f"{version}; this package needs {stated.removeprefix(name)}"
        for_a_gpu = f"install {stated} for your GPU (cu128 now): https://pytorch.org/get-started/locally"
        assert found[name].remedy == (for_a_gpu if version.endswith("+cu128") else install(stated))


@pytest.mark.parametrize("metadata", [False, True], ids=["not installed", "with metadata that name nothing"])
def test_what_is_needed_is_known_without_metadata(monkeypatch, metadata):
    def requires(name):
        if not metadata:
            raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"torch": "2.9.0"}.get(name, "2.8.1"))
    (torch,) = (finding for finding in installation.check_versions() if finding.topic == "torch")
    assert torch.level == "error"


def test_what_is_named_for_want_of_metadata_is_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(NEEDED.values()) <= set(project["dependencies"])


def test_a_missing_nnunet_is_named(monkeypatch):
    def version(name):
        if name == "nnunetv2":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert levels(installation.check_versions(), "nnunetv2") == ["error"]


@pytest.mark.parametrize(
    ("built_for", "driver", "level"), [(None, True, "warning"), (None, False, "ok"), ("12.8", True, "ok")]
)
def test_a_torch_without_cuda_beside_a_driver_is_a_warning(monkeypatch, built_for, driver, level):
    """As pip installs it on Windows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if driver else None)
    device, _ = machine.check_device()
    assert (device.level, bool(device.remedy)) == (level, level == "warning")


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
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
    finding = machine._compile_state(cuda)
    assert finding.level == level and finding.message.startswith(state)


def test_trainers_dir_command():
    result = CliRunner().invoke(app, ["trainers-dir"])
    assert result.exit_code == 0 and result.stdout == autoregister.trainers_dir() + "\n"


def test_trainers_dir_is_written_as_it_is_or_not_at_all():
    """A program reads it, and nnU-Net skips a folder that is not there."""
    code = (
        "import sys; from nnunet_xattnres.cli import app, trainers_dir;"
        "trainers_dir.trainers_dir = lambda: '/\\u0159/\\udcff'; sys.argv[1:] = ['trainers-dir']; app()"
    )

    def run(encoding):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)

    assert run("utf-8").stdout.rstrip() == b"/\xc5\x99/\xff"
    done = run("cp1252")
    assert done.returncode == 1 and not done.stdout and b"PYTHONUTF8" in done.stderr


def test_version_and_help():
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("nnunet-xattnres ")
    commands = CliRunner().invoke(app, ["--help"]).stdout
    assert all(name in commands for name in ("demo", "doctor", "trainers-dir"))


def test_the_path_of_the_reads_is_shown(monkeypatch):
    if hasattr(torch.library, "custom_op"):
        (finding,) = machine.check_reads()
        assert (finding.level, finding.topic) == ("ok", "reads") and finding.message.startswith("tiled on ")
    monkeypatch.setattr("nnunet_xattnres.ops.read_path", lambda *args, **kwargs: "reference")
    (finding,) = machine.check_reads()
    assert finding.level == "warning" and "older than 2.4" in finding.message and finding.remedy


@needs_operators
def test_what_is_proved_and_chosen_on_a_gpu_is_shown(monkeypatch, tmp_path):
    from nnunet_xattnres.ops import chosen
    from nnunet_xattnres.ops.shapes import ReadShape

    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path))
    monkeypatch.setattr(chosen, "machine", lambda device: "a made-up GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (finding,) = machine.check_reads()
    assert "a training first tries the other paths" in finding.message and "nnunet-xattnres tune" in finding.message
    well = {"status": "ok", "forward": 2.0, "backward": 2.0}
    for channels, fused in ((32, {**well, "forward": 1.0}), (64, {"status": "crashed", "why": "it fell"})):
        shape = ReadShape("float16", 2, channels, (8, 8), ((channels, 8, 8),), (0,), None, 0)
        chosen.save("a made-up GPU", shape, {"fused": fused, "tiled": well})
    first, second = machine.check_reads()
    assert first.level == "ok" and "32 channels at 8x8" in first.message
    assert "forward fused, backward fused (fused ok, tiled ok)" in first.message
    assert second.level == "warning" and "forward tiled, backward tiled (fused crashed, tiled ok)" in second.message
    chosen.save("a made-up GPU", shape, {"fused": fused, "tiled": {"status": "wrong", "why": "the read is off"}})
    _, third = machine.check_reads()
    assert third.level == "error" and "tiled is wrong (the read is off)" in third.message
    assert "NNUNET_XATTNRES_PATH" in third.remedy


def test_a_forced_path_is_shown(monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", "reference")
    (finding,) = machine.check_reads()
    assert finding.level == "ok" and "NNUNET_XATTNRES_PATH forces it" in finding.message
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", "fast")
    (finding,) = machine.check_reads()
    assert finding.level == "error" and "NNUNET_XATTNRES_PATH is 'fast'" in finding.message
    assert finding.remedy.endswith(" NNUNET_XATTNRES_PATH") or "Remove-Item" in finding.remedy


def test_the_reference_on_mps_is_no_old_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    (finding,) = machine.check_reads()
    assert (finding.level, finding.topic, finding.remedy) == ("ok", "reads", "")
    assert finding.message.startswith("reference on mps") and "has not been run there" in finding.message
