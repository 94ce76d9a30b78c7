import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from nnunet_xattnres.common import installing, programs
from nnunet_xattnres.common.errors import UserError

COMMAND = "nnUNetv2_of_a_test"


def script(file, text=""):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    file.chmod(0o755)
    return file


def test_programs_come_from_this_environment(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert programs.find_program("nnUNetv2_train").is_file()


@pytest.fixture
def of_the_user(monkeypatch, tmp_path):
    """The folder of the commands of pip install --user, which is not on PATH."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    place, folder = sysconfig.get_path, str(tmp_path)
    monkeypatch.setattr(sysconfig, "get_path", lambda name, *scheme: folder if scheme else place(name))
    return tmp_path / COMMAND


@pytest.mark.skipif(os.name == "nt", reason="needs a program that is a script")
@pytest.mark.parametrize("head", ["#!/bin/sh\n", f"#!{sys.executable}\n"])
def test_programs_of_the_users_own_installs_are_found(of_the_user, head):
    assert programs.find_program(script(of_the_user, head).name) == of_the_user


@pytest.mark.skipif(os.name == "nt", reason="needs a program that is a script")
def test_programs_of_another_python_are_none_of_this_environment(of_the_user, monkeypatch):
    """All Pythons of one user share that folder; the trainers are found in this environment alone."""
    script(of_the_user, "#!/usr/bin/python3.0\n")
    assert programs.find_here(COMMAND) is None
    with pytest.raises(UserError, match=r"neither beside .* nor on PATH"):
        programs.find_program(COMMAND)
    monkeypatch.setenv("PATH", str(of_the_user.parent))
    with pytest.raises(UserError, match=r"is another Python's, .*python3\.0\. Install nnU-Net with its"):
        programs.find_program(COMMAND)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_python_by_another_name_is_the_same_and_one_of_another_environment_is_not(tmp_path, monkeypatch):
    base = script(tmp_path / "opt" / "python3.11")
    for name in ("local", "venv/bin", "other/bin"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "python3").symlink_to(base)
    for name in ("venv", "other"):
        (tmp_path / name / "pyvenv.cfg").touch()
    named, venv, other = (tmp_path / name / "python3" for name in ("local", "venv/bin", "other/bin"))
    for running, same in ((base, {base, named}), (named, {base, named}), (venv, {venv}), (other, {other})):
        monkeypatch.setattr(sys, "executable", str(running))
        assert {python for python in (base, named, venv, other) if programs.is_this(python)} == same
    copy = shutil.copy(base, venv.with_name("python"))  # as of a file system without links
    monkeypatch.setattr(sys, "executable", str(copy))
    assert programs.is_this(venv) and not programs.is_this(base) and not programs.is_this(other)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("2.6.0", "/bin/python -m pip install 'torch>=2.7'"),
        ("2.6.0+cu124", "install torch>=2.7 for your GPU (cu124 now): https://pytorch.org/get-started/locally"),
        ("2.2.2+rocm5.7", "install torch>=2.7 for your GPU (rocm5.7 now): https://pytorch.org/get-started/locally"),
        ("2.6.0+cpu", "/bin/python -m pip install --index-url https://download.pytorch.org/whl/cpu 'torch>=2.7'"),
        ("2.11.0a0+gitabc.nv26.01", "/bin/python -m pip install 'torch>=2.7'"),
    ],
)
def test_a_torch_for_a_gpu_is_not_replaced_by_that_of_pypi(monkeypatch, version, remedy):
    monkeypatch.setattr(sys, "executable", "/bin/python")
    monkeypatch.setattr(installing.importlib.metadata, "version", lambda name: version)
    assert installing.install_torch("torch>=2.7") == remedy


def test_an_nnunet_that_is_seen_but_elsewhere_has_to_be_forced(monkeypatch):
    assert "--force-reinstall --no-deps" in installing.install_nnunet()

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "--force-reinstall" not in installing.install_nnunet()


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        ("#!/a/bin/python3.11\n", "/a/bin/python3.11"),
        ("#! /a/bin/python -E\n", "/a/bin/python"),
        ("#!/bin/sh\n'''exec' \"/a b/bin/python3\" \"$0\" \"$@\"\n' '''\n", "/a b/bin/python3"),
        ("#!/bin/sh\n'''exec' '/a b/bin/python3' \"$0\" \"$@\"\n' '''\n", "/a b/bin/python3"),
        ("#!/bin/sh\n'''exec' /a/bin/python3 \"$0\" \"$@\"\n' '''\n", "/a/bin/python3"),
        ("#!/usr/bin/env bash\nexec pyenv\n", None),
        ("#!/bin/sh\nexec something\n", None),
        ("MZ a launcher of Windows", None),
        ("", None),
    ],
)
def test_which_python_runs_a_script(tmp_path, head, interpreter):
    found = programs.interpreter_of(script(tmp_path / "command", head))
    assert found == (interpreter and Path(interpreter))


def test_env_looks_on_path(monkeypatch, tmp_path):
    python = script(tmp_path / "bin" / "python3")
    monkeypatch.setenv("PATH", str(python.parent))
    assert programs.interpreter_of(script(tmp_path / "command", "#!/usr/bin/env -S python3 -s\n")) == python


def test_an_environment_without_pip_takes_uv(monkeypatch):
    monkeypatch.setattr(installing, "_has_pip", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: "/bin/uv" if name == "uv" else None)
    monkeypatch.setattr(sys, "executable", "/bin/python")
    assert installing.install("x>=1") == "uv pip install --python /bin/python 'x>=1'"


def test_a_look_for_pip_spoils_no_later_import_of_setuptools():
    """Which torch.compile imports."""
    pytest.importorskip("setuptools")
    code = "from nnunet_xattnres.common.installing import install; print(install('x')); import setuptools"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "-m pip install" in done.stdout, done.stderr
