"""Labels that are in no true mask of a case, which one model predicts in vain and another does not."""

import csv
import html
import math
import re

import numpy as np
import pytest
from helpers.trainings import invoke
from test_compare import welch_by_hand

from nnunet_xattnres.commands.compare import compare_cases
from nnunet_xattnres.commands.compare.statistics import NO_VALUE, TOO_FEW_FOR_AN_INTERVAL, over_repeats
from nnunet_xattnres.commands.compare.summary import summary
from nnunet_xattnres.commands.compare.table import make_rows

NONE, FALSE = math.nan, 0.0  # of a label that is not there: a correct empty prediction, and one that is not empty
N = 8  # cases; the spleen is in the first half


def liver(model, case, run=0):
    return 0.9 - 0.02 * case + 0.01 * (model == "b") + 0.001 * run


def write_cases(tmp_path, runs, spleen):
    """``runs``: of each model; ``spleen``: of (model, run, case), its Dice."""
    lines = ["model,run,fold,case,label,dice"]
    for model, n in runs.items():
        for run in range(n):
            for case in range(N):
                lines.append(f"{model},{model}{run},0,c{case},liver,{liver(model, case, run)}")
                lines.append(f"{model},{model}{run},0,c{case},spleen,{spleen(model, run, case)}")
    file = tmp_path / "cases.csv"
    file.write_text("\n".join(lines))
    return file


def in_vain(model, run, case):
    """b predicts the spleen where it is not, but in the last case."""
    return 0.9 if case < N // 2 else FALSE if model == "b" and case < N - 1 else NONE


def compared(tmp_path, file):
    """The rows of comparison.csv by model and label, and the other texts."""
    done = invoke(tmp_path, "--cases", file)
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / "comparison.csv").open() as lines:
        rows = {(row["model"], row["label"]): row for row in csv.DictReader(lines)}
    texts = [(tmp_path / "out" / name).read_text() for name in ("comparison.html", "comparison.md")]
    return rows, " ".join(done.output.split()), *texts


def test_a_case_that_neither_has_is_among_those_that_are_left_out(tmp_path):
    """Three that only b has, and the last one, which neither has."""
    *_, text = compared(tmp_path, write_cases(tmp_path, {"a": 1, "b": 1}, in_vain))
    assert "b, spleen: 4 cases without a Dice in one of the two, or in both, are left out." in text


def test_a_false_positive_is_told_wherever_the_numbers_are(tmp_path):
    rows, screen, page, text = compared(tmp_path, write_cases(tmp_path, {"a": 1, "b": 1}, in_vain))
    counts = {label: [rows["b", label][f"only_{one}"] for one in ("first", "this")] for _, label in rows}
    assert counts == {"liver": ["0", "0"], "spleen": ["0", "3"], "mean": ["0", "3"]}
    assert rows["b", "spleen"]["left_out"] == "4" and rows["a", "spleen"]["only_this"] == ""
    assert float(rows["a", "spleen"]["dice"]) == 0.9 and float(rows["b", "spleen"]["dice"]) == pytest.approx(3.6 / 7)
    assert float(rows["b", "spleen"]["difference"]) == 0  # nnU-Net's numbers: over the cases that have both

    note = "b against a: in 3 pairs of case and label only b predicted a label that is not there. nnU-Net gives such a"
    assert all(note in of for of in (screen, page, text))
    verdict = (
        "<b>Where both have a Dice: These networks of b are better than those of a; other trainings may differ; in 3 "
        "pairs of case and label only b predicted a label that is not there.</b>"
    )
    assert verdict in page and "a difference of +0.0050 where both have a Dice. Of 8 cases" in page

    (line,) = (line for line in text.splitlines() if line.startswith("| b | spleen |"))
    assert line.endswith(" | 0/4/0 | 3 |") and "| better/equal/worse | only this |" in text
    how = "'only the first' and 'only this': of the cases that are left out"
    assert how in text and how in html.unescape(page)
    assert '<td data-name="only this">3</td>' in page and "only the first</th>" not in page  # which no line has
    assert "0/4/0 3 " in screen  # the column of the first model has nothing, and is not there
    # a case's own line: 0.81 and 0.41 with a difference of +0.0100
    (of_case,) = re.findall('<th scope="row">c5</th>(.*?)</tr>', page)
    cells = re.findall(">([^<]*)</td>", of_case)
    assert cells == ["0.8000", "0.4050", "+0.0100", "spleen"]
    (of_case,) = re.findall('<th scope="row">c7</th>(.*?)</tr>', page)
    assert re.findall(">([^<]*)</td>", of_case)[-1] == ""  # neither predicts it


def test_the_first_model_predicts_in_vain(tmp_path):
    file = write_cases(tmp_path, {"a": 1, "b": 1}, lambda m, r, c: in_vain("b" if m == "a" else "a", r, c))
    rows, _, page, _ = compared(tmp_path, file)
    assert [rows["b", "spleen"][name] for name in ("only_first", "only_this")] == ["3", "0"]
    assert "; in 3 pairs of case and label only a predicted a label that is not there.</b>" in page


def test_where_nothing_is_one_sided_there_is_no_word_of_it(tmp_path):
    both = write_cases(tmp_path, {"a": 1, "b": 1}, lambda _m, _r, case: 0.9 if case < N // 2 else NONE)
    rows, *texts = compared(tmp_path, both)
    assert "only_first" not in rows["b", "mean"] and rows["b", "spleen"]["left_out"] == "4"
    assert not [text for text in texts if "only" in text.replace("One fold only", "").replace("only with two", "")]


def test_repeats_differ_over_the_same_pairs_in_both_intervals(tmp_path):
    """In one case only the first run of b is wrong: its 0 is not the value of the other runs."""

    def spleen(model, run, case):
        if case < N // 2:
            return 0.8 + 0.01 * run * case - 0.1 * (model == "b")
        wrong = (model, case) == ("b", 4) or (model, run, case) == ("b", 0, 5) or (run == 1 and case == 6)
        return FALSE if wrong else NONE

    file = write_cases(tmp_path, {"a": 3, "b": 3}, spleen)
    rows, _, page, _ = compared(tmp_path, file)
    assert [rows["b", "spleen"][name] for name in ("only_first", "only_this", "left_out")] == ["0", "2", "4"]
    assert "in 2 pairs of case and label more of the repeats of b than of a predicted a label that is not there" in page
    of_spleen = {m: [np.mean([spleen(m, run, case) for case in range(N // 2)]) for run in range(3)] for m in "ab"}
    of_liver = {m: [np.mean([liver(m, case, run) for case in range(N)]) for run in range(3)] for m in "ab"}
    of_mean = {m: np.mean([of_liver[m], of_spleen[m]], axis=0) for m in "ab"}
    for label, values in (("liver", of_liver), ("spleen", of_spleen), ("mean", of_mean)):
        row = {name: float(rows["b", label][name]) for name in ("difference", "repeats_low", "repeats_high")}
        assert (row["repeats_low"], row["repeats_high"]) == pytest.approx(welch_by_hand(values["a"], values["b"]))
        assert (row["repeats_low"] + row["repeats_high"]) / 2 == pytest.approx(row["difference"])


@pytest.mark.parametrize(
    "has_spleen", [lambda _model, _run, _case: False, lambda model, run, case: (model, run, case) == ("b", 1, 0)]
)
def test_a_label_without_a_value_somewhere_is_out_of_the_mean(tmp_path, has_spleen):
    file = write_cases(tmp_path, {"a": 2, "b": 2}, lambda *of: FALSE if has_spleen(*of) else NONE)
    rows, screen, page, text = compared(tmp_path, file)
    for model in "ab":
        for name in (
            "dice",
            "lowest",
            "highest",
            "spread_between_repeats",
            "difference",
            "repeats_low",
            "interval_low",
        ):
            assert rows[model, "mean"][name] == rows[model, "liver"][name] != "nan"
    note = "The mean over the labels is without spleen: not every run has a Dice there."
    assert all(note in of for of in (screen, page, text))
    assert "takes two repeats" not in page.partition("How the numbers were made")[0]
    assert rows["b", "spleen"]["difference"] == "nan" and rows["b", "spleen"]["repeats_low"] == ""
    assert ("only b" in page or "more of the repeats of b" in page) == has_spleen("b", 1, 0)


def test_a_mean_without_labels(tmp_path):
    comparison = compare_cases(write_cases(tmp_path, {"a": 1, "b": 1}, lambda *_: NONE))
    file = tmp_path / "none.csv"
    file.write_text(re.sub(r"(liver|spleen),[\d.]+", r"\1,nan", (tmp_path / "cases.csv").read_text()))
    none = compare_cases(file)
    assert [math.isnan(row.value) for row in make_rows(none) if row.is_mean] == [True, True]
    assert summary(none, make_rows(none)) == [("b cannot be compared with a", "No case has a Dice in both.")]
    assert summary(comparison, make_rows(comparison))[0][0].startswith("These networks of b are better")


def test_why_there_is_no_interval_over_repeats():
    assert over_repeats([0.5], [0.5, 0.6]).missing == TOO_FEW_FOR_AN_INTERVAL
    found = over_repeats([0.5, NONE], [0.5, 0.6])
    assert found.missing == NO_VALUE and math.isnan(found.low) and found.doubt == ""
    assert over_repeats([0.5, 0.7], [0.5, 0.6]).missing == ""
