"""The order of names."""

from graphlib import CycleError

import pytest

from nnunet_xattnres.common.order import by_number, merged


def test_numbers_count_as_numbers():
    assert sorted(["fold_10", "fold_all", "fold_2"], key=by_number) == ["fold_2", "fold_10", "fold_all"]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([["e1", "e2"], ["e1", "e2", "e3"]], ["e1", "e2", "e3"]),
        ([["block1", "block2"], ["input", "block1"]], ["input", "block1", "block2"]),
        ([["block1"], ["block1", "block2", "x"], ["input", "block1"]], ["input", "block1", "block2", "x"]),
        ([["a"], []], ["a"]),
        ([], []),
    ],
)
def test_one_order_for_several_lists(lists, expected):
    assert merged(lists) == expected


def test_lists_that_disagree_have_none():
    with pytest.raises(CycleError):
        merged([["a", "b"], ["b", "a"]])
