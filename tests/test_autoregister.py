"""What an interpreter's start does to nnUNet_extTrainer, tried in new interpreters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_xattnres
from nnunet_xattnres import autoregister

VARIABLE, SWITCH = "nnUNet_extTrainer", "NNUNET_XATTNRES_AUTOREGISTER"
SHOW = f"import os; print(os.environ.get('{VARIABLE}'))"


def python(code, tmp_path, **environment):
    """What ``code`` prints in a new interpreter, started in another folder, with no variable of ours set."""
    clean = {k: v for k, v in os.environ.items() if k not in (VARIABLE, SWITCH)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.strip()


@pytest.fixture
def ours():
    return autoregister.trainers_dir()


def test_the_folder_is_there_and_holds_reexports_only(ours):
    files = [f for f in Path(ours).iterdir() if f.name != "__pycache__"]
    assert [f.name for f in files] == ["nnunet_xattnres_trainers.py"]


def test_an_environment_that_only_inherits_the_variable_goes_on_without_us(ours, tmp_path):
    """nnU-Net imports all files there for every trainer that is not its own, and ends at a module that is missing."""
    (file,) = Path(ours).glob("*.py")

    def run(**environment):
        command = [sys.executable, "-S", str(file)]  # without this environment's packages
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    assert run().returncode == 0
    half = run(PYTHONPATH=str(Path(autoregister.__file__).parents[1]))  # we are there, what we need is not
    assert half.returncode and "ModuleNotFoundError" in half.stderr and "'nnunet_xattnres'" not in half.stderr


def test_registers_at_start(ours, tmp_path):
    assert python(SHOW, tmp_path) == ours


def test_appends_to_what_the_user_has_set(ours, tmp_path):
    user = os.pathsep.join(["/my trainers", "/more"])
    assert python(SHOW, tmp_path, **{VARIABLE: user}) == user + os.pathsep + ours


@pytest.mark.parametrize("value", ["", " ", os.pathsep])
def test_an_empty_variable_counts_as_unset(ours, tmp_path, value):
    assert python(SHOW, tmp_path, **{VARIABLE: value}) == ours


def test_once_only_also_in_processes_started_from_processes(ours, tmp_path):
    nested = f"import subprocess, sys; print(subprocess.check_output([sys.executable, '-c', {SHOW!r}], text=True))"
    assert python(nested, tmp_path) == ours
    value = ours + os.sep + os.pathsep + "/mine"  # spelt otherwise, and not last
    assert python(SHOW, tmp_path, **{VARIABLE: value}) == value


def test_in_spawned_processes(ours, tmp_path):
    code = (
        "import multiprocessing, os\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        f"        print(pool.apply(os.getenv, ('{VARIABLE}',)))\n"
    )
    assert python(code, tmp_path) == ours


def test_switched_off(ours, tmp_path):
    assert python(SHOW, tmp_path, **{SWITCH: "0"}) == "None"
    assert python(SHOW, tmp_path, **{SWITCH: "1"}) == ours
    by_hand = f"import nnunet_xattnres; nnunet_xattnres.register(); nnunet_xattnres.register(); {SHOW}"
    assert python(by_hand, tmp_path, **{SWITCH: "0"}) == ours


def test_never_raises(monkeypatch):
    monkeypatch.setattr(autoregister, "register", lambda: 1 / 0)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    assert autoregister._register_at_start() is False


def test_a_broken_install_does_not_break_python(tmp_path):
    line = Path(nnunet_xattnres.__file__).parents[1] / "nnunet_xattnres.pth"
    line = line.read_text() if line.is_file() else None
    if line is None:
        pytest.skip("nnunet_xattnres.pth stands in a checkout only")
    (tmp_path / "nnunet_xattnres").mkdir()
    (tmp_path / "nnunet_xattnres" / "__init__.py").write_text("raise RuntimeError('half installed')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules.pop('nnunet_xattnres', None)\n"
    code += f"sys.modules.pop('nnunet_xattnres.autoregister', None)\n{line}\nprint('alive')"
    assert python(code, tmp_path) == "alive"


def test_imports_the_standard_library_only_and_little_of_it(tmp_path):
    code = (
        "import sys; before = set(sys.modules)\n"
        "import nnunet_xattnres, nnunet_xattnres.autoregister\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('nnunet_xattnres')))"
    )
    clean = [sys.executable, "-S", "-c", code]  # without site, so that the import happens here
    root = str(Path(nnunet_xattnres.__file__).parents[1])
    done = subprocess.run(
        clean, env={**os.environ, "PYTHONPATH": root}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"os", "stat", "_stat", "posixpath", "ntpath", "genericpath", "os.path", "abc",
                                        "_abc", "_collections_abc", "_weakrefset"}  # fmt: skip


def test_costs_less_than_two_milliseconds(tmp_path):
    code = (
        "import sys, time\n"
        "def once():\n"
        "    for name in [m for m in sys.modules if m.startswith('nnunet_xattnres')]: del sys.modules[name]\n"
        "    start = time.perf_counter(); import nnunet_xattnres.autoregister; return time.perf_counter() - start\n"
        "print(min(once() for _ in range(20)))"
    )
    assert float(python(code, tmp_path)) < 2e-3


def test_the_package_imports_neither_torch_nor_nnunetv2(tmp_path):
    code = "import sys, nnunet_xattnres; print([m for m in ('torch', 'nnunetv2', 'numpy') if m in sys.modules])"
    assert python(code, tmp_path) == "[]"


def test_every_public_name_loads():
    for name in nnunet_xattnres.__all__:
        assert getattr(nnunet_xattnres, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nnunet_xattnres.nothing  # noqa: B018
