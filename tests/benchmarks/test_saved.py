"""The budget of what a training step keeps for its backward: the reads add 5% at most, and no map in float32."""

import pytest

from benchmarks.cost import saved
from benchmarks.cost.launches import STANDARD

pytestmark = pytest.mark.skipif(not saved.possible(), reason="this torch does not pretend to have a GPU")


@pytest.fixture(scope="module")
def plain():
    return saved.count(mode=None)


def test_the_plain_network(plain):
    assert plain.total / 2**30 == pytest.approx(3.39, rel=0.01)
    assert plain.largest_float32 < 1000  # of its norms


@pytest.mark.parametrize("path", saved.PATHS)
@pytest.mark.parametrize("mode", ["add", "replace"])
def test_the_reads_keep_little(plain, mode, path):
    found = saved.count(mode=mode, path=path)
    assert plain.total < found.total <= 1.05 * plain.total
    assert found.float32_maps == []
    assert found.largest_float32 == STANDARD.batch * 128**3  # L, one number a position; a source has channels, too


def test_what_is_too_much_is_seen(plain):
    found = saved.count(path="reference")
    assert found.total > 1.05 * plain.total
    assert found.float32_maps
