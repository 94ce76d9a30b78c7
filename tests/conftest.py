import os
import signal
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

# Tests run beside each other and beside nnU-Net's processes: threads that wait must not spin, and of a small operation
# they would do little else. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each further process of nnU-Net's, and of ours that are as many, first imports torch. Read when nnunetv2 loads.
os.environ.setdefault("nnUNet_def_n_proc", "1")
sys.path.insert(0, str(Path(__file__).parent))  # tests/helpers
sys.path.append(str(Path(__file__).parents[1]))  # benchmarks/, which is no part of the package

# Before torch 2.4 there are no custom operators, and of the reads the reference alone can be tested.
_OPS = ("arguments", "choice", "forced_path", "fused", "kernels_compiled", "resize", "schemas", "tiled")
_OF_OPERATORS = [
    *(f"ops/test_{name}.py" for name in _OPS),
    "benchmarks/test_gpu.py",
    "benchmarks/test_launches.py",
    "benchmarks/test_saved.py",
]
collect_ignore = _OF_OPERATORS if tuple(map(int, version("torch").split(".")[:2])) < (2, 4) else []


def pytest_collection_modifyitems(config, items):
    if "thorough" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="a variant: only with -m thorough"))


@pytest.fixture(autouse=True)
def signal_handlers_stay():
    """One that is left behind is inherited by the processes of nnU-Net's pools, which then may not end when told to."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = list(map(signal.getsignal, signals))
    yield
    assert list(map(signal.getsignal, signals)) == before, "a signal handler was left behind"


@pytest.fixture
def disk_full_at():
    """A limit on the size of a file, in bytes: what goes beyond it fails, as it does when the disk is full."""
    resource = pytest.importorskip("resource", reason="limits of file sizes are Unix's")

    @contextmanager
    def limited(size):
        _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal that comes with it
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def study():
    from helpers.study import little_study

    return little_study()


@pytest.fixture
def folders(tmp_path):
    """Of the study."""
    from benchmarks.study.folders import Folders

    return Folders(tmp_path / "raw", tmp_path / "work", tmp_path / "results" / "little")
