"""What stands on the page of an inspection."""

import re

import pytest

from nnunet_xattnres.commands.inspect import drawing
from nnunet_xattnres.commands.inspect.sections import summary_section
from nnunet_xattnres.commands.inspect.truth import dice_means
from nnunet_xattnres.reads.history import Stage

STAGES = [Stage(f"e{i + 1}", 8 * 2**i, (2**i,) * 3) for i in range(4)]
STAGES += [Stage(f"d{3 - i}", 8 * 2**i, (2**i,) * 3) for i in (2, 1, 0)]


def test_the_drawing_has_every_stage_where_its_resolution_is():
    svg = drawing.network_svg(STAGES, {"d3": {"source": "e2", "mean_weight": 0.4}})
    at = {name: float(y) for y, name in re.findall(r'y="([\d.]+)" class="name">(\w+)<', svg)}
    assert set(at) == {stage.name for stage in STAGES}
    assert at["e1"] == at["d3"] < at["e2"] == at["d2"] < at["e3"] == at["d1"] < at["e4"]
    assert "d3 reads e2 most: 0.40" in svg and svg.count('class="box reads"') == 1


def test_what_the_stages_are_in_words():
    text = drawing.stages_text(STAGES, {"e3": ["e1", "e2"], "d1": ["e1", "e2", "e3", "e4"]})
    assert "e1 to e4 are the stages of the encoder" in text and "e4 is the bottleneck, at 1/8" in text
    assert "d1 follows e4, d3 is at full resolution again" in text and "d1 reads e1, e2, e3, e4" in text
    assert drawing.size_of((1, 2, 2)) == "1/(1×2×2)"  # noqa: RUF001


def test_the_mean_dice_is_over_the_cases_that_have_the_label():
    rows = [
        {"case": "a", "label": "1", "name": "mean", "dice": 0.5},
        {"case": "b", "label": "1", "name": "mean", "dice": float("nan")},
        {"case": "a", "label": "2", "name": "x", "dice": 0.7},
        {"case": "b", "label": "2", "name": "x", "dice": 0.9},
    ]
    one, two, mean = dice_means(rows)
    assert (one["dice"], one["cases"], two["dice"], two["cases"]) == (0.5, 1, pytest.approx(0.8), 2)
    assert mean == {"label": "mean", "name": "", "dice": pytest.approx(0.65), "cases": 2}


def test_the_summary(tmp_path):
    identity = {"trainer": "T", "plans": "P", "configuration": "3d", "fold_0/checkpoint_final.pth": "sha256 1"}
    html = summary_section(identity, "nnunet-xattnres inspect a -o 'b c'", [tmp_path / "x.png"], ["x"], "cpu", [])
    assert "fold_0/checkpoint_final.pth" in html and "inspect a -o &#x27;b c&#x27;" in html
    assert f"1 from {tmp_path}: x" in html and re.search(r"<td>20\d\d-\d\d-\d\d \d\d:\d\d", html) and "Dice" not in html
