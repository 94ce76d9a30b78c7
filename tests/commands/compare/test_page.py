"""The page, and the learning curves in it."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.trainings import A, B, compared, dice_of, invoke, log_of, write_fold

from nnunet_xattnres.commands.compare import compare_cases, write_comparison, write_page
from nnunet_xattnres.commands.compare.curves import figure_of_curves, mean_curve, window
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.page import LONG
from nnunet_xattnres.commands.compare.statistics import OverRepeats, over_repeats
from nnunet_xattnres.commands.compare.summary import summary
from nnunet_xattnres.commands.compare.table import make_rows
from nnunet_xattnres.nnunet.results import Fold, Run
from nnunet_xattnres.nnunet.training_log import Epoch, read_log


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and for each table its lines and whether it is folded."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.tables, self.open, self.folded = [], "", [], [], False
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "details":
            self.folded = "open" not in dict(attrs)
        if tag == "table":
            self.tables.append({"folded": self.folded, "lines": 0, "head": False})
        if tag == "tr":
            self.tables[-1]["lines"] += 1
        if tag == "thead":
            self.tables[-1]["head"] = True
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.folded = self.folded and tag != "details"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def page_of(tmp_path, folder="out"):
    return Page((tmp_path / folder / "comparison.html").read_text(encoding="utf-8"))


def write_repeats(results, better=0.0, n_cases=LONG + 5):
    for i, trainer in enumerate((A, B)):
        for j, plans in enumerate(("nnUNetPlans", "nnUNetPlans_rep1", "nnUNetPlans_rep2")):
            write_fold(results, trainer, 0, dice_of(10 * i + j, n_cases, better * i - 0.2), plans=plans)


def test_the_page_needs_no_other_file_and_folds_what_is_long(results, tmp_path):
    write_repeats(results)
    _, screen = compared(tmp_path, "-tr", A, B)
    assert "comparison.html, curves.png in" in " ".join(screen.split())
    page = page_of(tmp_path)
    assert not [name for name, _ in page.tags if name in ("script", "link", "iframe", "object")]
    sources = [attrs[key] for _, attrs in page.tags for key in ("src", "href", "data") if key in attrs]
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(table["head"] for table in page.tables)  # which a printer repeats
    assert {table["lines"] - 1: table["folded"] for table in page.tables} == {
        3: False,  # the labels and their mean
        LONG + 5: True,  # the cases
        2: False,  # the costs
        6: False,  # the folders
    }
    style = (tmp_path / "out" / "comparison.html").read_text()
    for rule in (
        "@media print",
        "h1, h2, summary, figure { break-after: avoid }",
        "thead { display: table-header-group }",
    ):
        assert rule in style


def test_a_summary_in_plain_words_comes_first(results, tmp_path):
    write_repeats(results, better=0.15)
    rows, _ = compared(tmp_path, "-tr", A, B)
    text = page_of(tmp_path).text
    mean = rows[B, "mean"]
    said = (
        f"These networks of {B} are better than those of {A}; other trainings may differ. Mean Dice "
        f"{float(mean['dice']):.4f} against {float(rows[A, 'mean']['dice']):.4f}, a difference of "
        f"{float(mean['difference']):+.4f}. Of {LONG + 5} cases {mean['better']} are better, {mean['equal']} equal and "
        f"{mean['worse']} worse. The 95% interval over cases, "
        f"{float(mean['interval_low']):+.4f} to {float(mean['interval_high']):+.4f}, does not include 0"
    )
    assert said in text
    assert text.index("In short") < text.index(said) < text.index(f"{B} against {A}") < text.index("Learning curves")


@pytest.mark.parametrize(
    ("cases", "repeats", "verdict"),
    [
        ((0.1, 0.2), (0.05, 0.3), "two is better than one on this data"),
        ((-0.2, -0.1), (-0.3, -0.05), "two is worse than one on this data"),
        (
            (0.1, 0.2),
            (0.05, 0.3, "luck"),
            "These networks of two are better than those of one; other trainings may differ",
        ),
        ((0.1, 0.2), (-0.1, 0.3, "luck"), "No clear difference between two and one"),
        ((0.1, 0.2), None, "These networks of two are better than those of one; other trainings may differ"),
        ((-0.2, -0.1), None, "These networks of two are worse than those of one; other trainings may differ"),
        ((0.1, 0.2), (-0.1, 0.3), "No clear difference between two and one"),
        ((-0.1, 0.2), (0.1, 0.3), "No clear difference between two and one"),
        ((-0.1, 0.2), None, "No clear difference between two and one"),
        ((np.nan, np.nan), None, "No clear difference between two and one"),
        ((0.0, 0.2), None, "No clear difference between two and one"),
    ],
)
def test_the_verdict_follows_from_both_intervals(tmp_path, cases, repeats, verdict):
    comparison = comparison_of(tmp_path)
    rows = []
    for row in make_rows(comparison):
        if row.difference is not None:
            difference = row.difference.__class__(**{**vars(row.difference), "low": cases[0], "high": cases[1]})
            over = over_repeats([0.4], [0.6]) if repeats is None else OverRepeats(*repeats)
            row = replace(row, difference=difference, over_repeats=over)
        row = replace(row, repeats=[0.4, 0.6])
        rows.append(row)
    ((found, text),) = summary(comparison, rows)
    assert found == verdict
    assert ("takes two repeats" in text) == (repeats is None)
    doubtful = repeats is not None and len(repeats) == 3
    said = "This interval may mislead, for luck. The repeats themselves: one from 0.4000 to 0.6000, two from 0.4000 to"
    assert (said in text) == ("may mislead" in text) == doubtful
    assert not (doubtful and "other trainings would probably" in text)


def comparison_of(tmp_path, models=("one", "two"), labels=("liver",), dice=lambda model, case, label: 0.5):
    lines = [
        f'"{model}",r,0,{case},{label},{dice(model, case, label)}'
        for model in models
        for case in range(4)
        for label in labels
    ]
    (tmp_path / "cases.csv").write_text("\n".join(["model,run,fold,case,label,dice", *lines]))
    return compare_cases(tmp_path / "cases.csv")


def test_the_table_of_the_cases(tmp_path):
    dice = {"one": {"liver": 0.5, "spleen": 0.7}, "two": {"liver": 0.6, "spleen": 0.4}}
    comparison = comparison_of(
        tmp_path, labels=("liver", "spleen"), dice=lambda model, case, label: dice[model][label] + 0.01 * case
    )
    write_page(comparison, write_comparison(comparison, tmp_path, "title"), tmp_path, "title")
    line = (
        '<tr><th scope="row">3</th><td data-name="Dice before">0.6300</td><td data-name="Dice">0.5300</td>'
        '<td data-name="difference">-0.1000</td></tr>'
    )
    assert line in (tmp_path / "comparison.html").read_text()


def test_names_are_text_and_no_html(tmp_path):
    comparison = comparison_of(tmp_path, ("<i>one</i>", "<script>two & three"), ("<b>", r"$\frac$"))  # nor formulas
    rows = write_comparison(comparison, tmp_path, "<u>title</u>")
    write_page(comparison, rows, tmp_path, "<u>title</u>")
    page = page_of(tmp_path, ".")
    assert not [name for name, _ in page.tags if name in ("i", "script", "u")]
    assert "<script>two & three against <i>one</i>" in page.text and "<u>title</u>" in page.text


def test_without_logs_there_are_no_curves_and_no_picture_of_earlier_ones_stays(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed))
    compared(tmp_path, "-tr", A, B)
    assert (tmp_path / "out" / "curves.png").is_file() and "Learning curves" in page_of(tmp_path).text
    cases = (tmp_path / "out" / "cases.csv").rename(tmp_path / "cases.csv")
    done = invoke(tmp_path, "--cases", cases)
    assert done.exit_code == 0 and "curves.png" not in done.output
    assert not (tmp_path / "out" / "curves.png").exists() and "Learning curves" not in page_of(tmp_path).text


def test_a_label_called_mean_is_not_taken_for_the_mean(tmp_path):
    values = {"mean": 0.25, "liver": 0.75}
    comparison = comparison_of(tmp_path, labels=tuple(values), dice=lambda _model, _case, label: values[label])
    rows = make_rows(comparison)[:3]
    assert [(row.label, row.value) for row in rows] == [("mean (label mean)", 0.25), ("liver", 0.75), ("mean", 0.5)]
    assert [row.is_mean for row in rows] == [False, False, True]


def test_a_region_called_mean(results, tmp_path):
    labels = {"background": 0, "mean": [1, 2], "core": 2}
    for trainer in (A, B):
        write_fold(results, trainer, 0, dice_of(0), keys=("(1, 2)", "2"), labels=labels)
    rows, _ = compared(tmp_path, "-tr", A, B)
    values = np.array(list(dice_of(0).values()))
    assert float(rows[A, "mean (label (1, 2))"]["dice"]) == pytest.approx(values[:, 0].mean())
    assert float(rows[A, "mean"]["dice"]) == pytest.approx(values.mean())
    assert json.loads((results / f"{A}__nnUNetPlans__2d" / "dataset.json").read_text())["labels"] == labels


# --- learning curves


def model_of(name, *curves):
    runs = [
        Run([], {str(i): Fold({}, curve=curve) for i, curve in enumerate(curves)}, {}, None, {}),
    ]
    return Model(name, runs)


def curve_of(*dice):
    return {i: Epoch(train_loss=-d, val_loss=1 - d, dice=d, seconds=1.0) for i, d in enumerate(dice)}


def test_a_thin_line_for_every_training_and_a_thick_one_for_their_mean():
    one = model_of("one", curve_of(0.1, 0.2, 0.3), curve_of(0.3, 0.6))
    two = model_of("two", curve_of(0.5, 0.75, 1.0))
    figure = figure_of_curves([one, model_of("without a log", {}), two])
    assert [axis.get_ylabel() for axis in figure.axes] == ["pseudo Dice", "training loss", "validation loss"]
    for axis, sign, offset in zip(figure.axes, (1, -1, -1), (0, 0, 1)):
        thick, thin = [], []
        for line in axis.get_lines():
            values = [(value - offset) * sign for value in line.get_ydata()]
            (thick if line.get_linewidth() > 2 else thin).append(pytest.approx(values))
        assert thin == [[0.1, 0.2, 0.3], [0.3, 0.6], [0.5, 0.75, 1.0]]
        assert thick == [[0.2, 0.4], [0.5, 0.75, 1.0]]  # only the epochs that all have
        lines = [line for line in axis.get_lines() if line.get_linewidth() > 2]
        assert [line.get_label() for line in lines] == ["one (2 trainings)", "two (1 training)"]
        assert len({line.get_color() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2
    assert figure_of_curves([model_of("none", {})]) is None


def test_the_thick_line_of_a_long_training_is_smoothed():
    values = np.random.default_rng(0).uniform(size=1000)
    assert (window(99), window(100), window(1000)) == (1, 3, 21)
    epochs, smooth = mean_curve([curve_of(*values)], "dice")
    assert epochs == list(range(1000))
    for i in (0, 5, 500, 999):
        assert smooth[i] == pytest.approx(values[max(0, i - 10) : i + 11].mean())


def test_the_curves_are_those_of_the_logs(results, tmp_path):
    for trainer, dice in ((A, 0.25), (B, 0.75)):
        model = write_fold(results, trainer, 0, dice_of(0), epochs=4)
        (model / "fold_0" / "training_log_2026_1_1_00_00_00.txt").write_text(log_of(range(4), dice=dice))
        assert [epoch.dice for epoch in read_log(model / "fold_0").epochs.values()] == [dice] * 4
    compared(tmp_path, "-tr", A, B)
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "pseudo Dice, training loss, validation loss of each training (thin)" in page_of(tmp_path).text
