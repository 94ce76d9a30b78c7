"""The tables on narrow and wide screens: nothing of a number is ever lost."""

import pytest
from helpers.trainings import A, B, compared, dice_of, write_fold
from rich.cells import cell_len

from nnunet_xattnres.commands.compare import compare_cases, tables
from nnunet_xattnres.commands.compare.report import cells
from nnunet_xattnres.commands.compare.table import make_rows

TRAINERS = ("nnUNetTrainer", "nnUNetTrainerXAttnResReplaceDoubleLR_250epochs", "nnUNetTrainerXAttnRes")
LABELS = {"background": 0, "left ventricular myocardium of the heart": 1, "aorta_with_a_name_of_one_long_word": 2}


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160])
def test_every_number_is_whole_at_every_width(results, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for i, trainer in enumerate(TRAINERS):
        for j, plans in enumerate(("nnUNetPlans", "nnUNetPlans_rep1")):
            write_fold(results, trainer, 0, dice_of(10 * i + j, 8), plans=plans, labels=LABELS)
    _, screen = compared(tmp_path, "-tr", *TRAINERS)
    lines = screen.splitlines()
    shown = [line for line in lines if not line.startswith("wrote ")]  # which a terminal wraps
    assert max(map(cell_len, shown)) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in screen
    rows = make_rows(compare_cases(tmp_path / "out" / "cases.csv"))
    for row in rows:
        if row.model != TRAINERS[0]:
            _, _, dice, _, between, _, *rest = cells(row)
            for number in filter(None, (dice, between, *rest[:3], rest[4] or rest[3], rest[5])):
                assert any(number in line for line in lines), number
    for number in (" 23 ", " 10.0 ", " not known "):
        assert any(number in line for line in lines), number
    for heading in TRAINERS[1:]:
        assert sum(line == f"against {TRAINERS[0]}" for line in lines) == 2 and heading[:30] in screen


def test_without_repeats_there_are_no_columns_of_them(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed))
    _, screen = compared(tmp_path, "-tr", A, B)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "over cases" in screen and "over repeats" not in screen
    heads = page.split('<th scope="col">')
    assert any(head.startswith("95% interval over cases") for head in heads)
    assert not any(head.startswith(("spread", "range", "95% interval over repeats")) for head in heads)


LONG = "liver_" * 10


@pytest.mark.parametrize(
    ("width", "n_tables", "label"),
    [(60, 4, "liver"), (80, 3, "liver"), (160, 1, "liver"), (60, 6, LONG), (80, 4, LONG), (200, 1, LONG)],
)
def test_what_does_not_fit_beside_each_other_stands_below(tmp_path, width, n_tables, label):
    file = tmp_path / "cases.csv"
    lines = [
        f"{model},{run},0,{case},{label},0.{n}{run}"
        for n, model in enumerate(("one", "two"), 4)
        for run in range(3)
        for case in range(4)
    ]
    file.write_text("\n".join(["model,run,fold,case,label,dice", *lines]))
    comparison = compare_cases(file)
    (group,) = tables(comparison, make_rows(comparison), width)
    _, *found = group.renderables
    assert len(found) == n_tables
    heads = [" ".join(column.header.split()) for table in found for column in table.columns]
    assert heads.count("label") == n_tables  # which line it is, is said in each
    assert [head for head in heads if head != "label"] == [
        "Dice before", "Dice", "difference", "95% interval over cases", "95% interval over repeats",
        "range of repeats before", "range of repeats", "p (Holm)", "better/ equal/ worse",
    ]  # fmt: skip
