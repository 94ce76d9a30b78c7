"""The budget of what a training step keeps for its backward: the reads add 5% at most, and no map in float32."""

import pytest

from benchmarks.cost import saved
from benchmarks.cost.launches import STANDARD


@pytest.fixture(scope="module")
def plain():
    return saved.count(mode=None)


def test_the_plain_network(plain):
    assert plain.total / 2**30 == pytest.approx(3.33, abs=0.01) and plain.widest < 1000


@pytest.mark.parametrize("path", saved.PATHS)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_the_reads_keep_little(plain, mode, path):
    found = saved.count(mode=mode, path=path)
    assert plain.total < found.total <= 1.05 * plain.total
    positions = STANDARD.batch * 128**3
    assert found.widest == positions  # L, one number a position; a source has as many in each channel
