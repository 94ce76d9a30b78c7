"""What lands in an environment: the wheel, the wheel built from the sdist, and the editable install."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

ROOT = Path(__file__).parents[1]
FIND = (
    "import contextlib, inspect, io, os\n"
    "with contextlib.redirect_stdout(io.StringIO()):\n"
    "    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
    "    file = inspect.getfile(find('nnUNetTrainerXAttnRes'))\n"
    "print(file)\n"
    "print(os.environ['nnUNet_extTrainer'])\n"
)


def run(*command, cwd):
    clean = {k: v for k, v in os.environ.items() if not k.lower().startswith(("nnunet", "python"))}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files that a clone would have, elsewhere, so that nothing of this checkout can be found by accident."""
    copy = tmp_path_factory.mktemp("clone") / "nnunet-xattnres"
    ignore = shutil.ignore_patterns(".git", ".venv*", "venv*", "*_cache", "__pycache__", "dist", "nnunet-xattnres-demo")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=checkout)
    return next(out.glob("*.whl"))


@pytest.fixture
def environment(tmp_path):
    """A new virtual environment that sees this one's libraries, but no .pth file and no editable install of it."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site_packages = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    site_packages.joinpath("zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_everything_needed(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "nnunet_xattnres.pth" in names
    assert "nnunet_xattnres/trainers/nnunet_xattnres_trainers.py" in names
    assert not [n for n in names if n.startswith(("tests", "trainers", "benchmarks", "docs", "nnunetv2"))]


def test_a_wheel_built_from_the_sdist_is_the_same(checkout, wheel, tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=checkout)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path)
    (unpacked,) = (p for p in tmp_path.iterdir() if p.is_dir())
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=unpacked)
    (again,) = (tmp_path / "dist").glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_wheel(environment, wheel, tmp_path):
    run(sys.executable, "-m", "pip", "--python", environment, "install", "--no-deps", wheel, cwd=tmp_path)
    file, variable = run(environment, "-c", FIND, cwd=tmp_path).split("\n")[:2]
    assert file.startswith(str(tmp_path)) and Path(file).parts[-2:] == ("training", "xattnres.py")
    assert variable.startswith(str(tmp_path)) and Path(variable).name == "trainers"

    run(sys.executable, "-m", "pip", "--python", environment, "uninstall", "-y", "nnunet-xattnres", cwd=tmp_path)
    left = run(environment, "-c", "import os; print(os.environ.get('nnUNet_extTrainer'))", cwd=tmp_path)
    assert left.strip() == "None"
    assert not list((tmp_path / "venv").rglob("*nnunet_xattnres*"))


def test_editable(environment, checkout, tmp_path):
    options = ("--no-deps", "--no-build-isolation", "-e", checkout)
    run(sys.executable, "-m", "pip", "--python", environment, "install", *options, cwd=tmp_path)
    file, variable = run(environment, "-c", FIND, cwd=tmp_path).split("\n")[:2]
    assert file == str(checkout / "nnunet_xattnres" / "training" / "xattnres.py")
    assert variable == str(checkout / "trainers")
    checkout.rename(checkout.with_name("moved"))  # Python must still start
    assert run(environment, "-c", "print('alive')", cwd=tmp_path) == "alive\n"
    checkout.with_name("moved").rename(checkout)
