"""The means of a knockout, from numbers by hand."""

import json
import math

import pytest

from nnunet_xattnres.commands.inspect.knockout import knockout_means
from nnunet_xattnres.commands.inspect.routing import write_rows
from nnunet_xattnres.commands.inspect.sections import knockout_section

NONE = math.nan


def rows_of(values):
    """``values``: for each label, the Dice with the source and without, of each case."""
    return [
        {
            "case": str(i),
            "read": "d1",
            "source": "e1",
            "label": label,
            "name": "",
            "dice": before,
            "dice_without": after,
        }
        for label, of_cases in values.items()
        for i, (before, after) in enumerate(of_cases)
    ]


def test_a_label_that_only_one_of_the_two_predicts_in_vain_is_counted(tmp_path):
    values = {"1": [(0.9, 0.7), (NONE, 0.0), (NONE, 0.0), (0.0, NONE)], "2": [(0.8, 0.8), (NONE, NONE)] * 2}
    found = {row["label"]: row for row in knockout_means(rows_of(values))}
    assert [(row["cases"], row["only_with"], row["only_without"]) for row in found.values()] == [
        (1, 1, 2),
        (2, 0, 0),
        (2, 1, 2),
    ]
    means = [row["difference"] for row in found.values()]
    assert means == pytest.approx([-0.2, 0, -0.1]) and found["mean"]["dice"] == pytest.approx(0.85)
    page = knockout_section(list(found.values()), tmp_path)
    assert "only one of the two predictions has a label that is not in the truth" in page and "only without" in page


def test_none_is_null_in_json_and_nan_in_csv(tmp_path):
    """Most readers of JSON take no NaN."""
    rows = [{"label": "1", "dice": 0.5}, {"label": "2", "dice": NONE}]
    write_rows(rows, tmp_path / "dice.csv")
    content = json.loads((tmp_path / "dice.json").read_text(), parse_constant=pytest.fail)
    assert content == [{"label": "1", "dice": 0.5}, {"label": "2", "dice": None}]
    assert (tmp_path / "dice.csv").read_text().split() == ["label,dice", "1,0.5", "2,nan"]


def test_a_label_that_no_case_has_is_out_of_the_mean(tmp_path):
    rows = knockout_means(rows_of({"1": [(0.9, 0.7)], "2": [(NONE, NONE)]}))
    assert [row["dice"] for row in rows] == pytest.approx([0.9, NONE, 0.9], nan_ok=True)
    assert "only one of the two" not in knockout_section(rows, tmp_path)
