"""Every number of a comparison is computed here a second time, from the files and in another way."""

import csv
import itertools
import math
import struct
import warnings

import numpy as np
import pytest
from helpers.trainings import LABELS, A, B, compared, dice_of, invoke, write_fold
from scipy import stats
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.compare import compare_cases
from nnunet_xattnres.commands.compare.picture import picture_of
from nnunet_xattnres.commands.compare.statistics import holm, over_repeats, welch_interval
from nnunet_xattnres.commands.compare.table import make_rows
from nnunet_xattnres.common.errors import UserError


def bootstrap_interval(columns, seed=99):
    """A loop, with other random numbers."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(4000):
        sample = columns[generator.integers(0, len(columns), len(columns))]
        means.append(np.nanmean(np.nanmean(sample, axis=0)))
    return np.percentile(means, [2.5, 97.5])


def wilcoxon_by_enumeration(differences):
    """The exact two-sided p of the signed-rank test, over all signs; no ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = ranks[differences > 0].sum()
    sums = [sum(r for r, sign in zip(ranks, signs) if sign) for signs in itertools.product((0, 1), repeat=len(ranks))]
    lower, upper = np.mean([s <= observed for s in sums]), np.mean([s >= observed for s in sums])
    return min(1.0, 2 * min(lower, upper))


def test_the_numbers(results, tmp_path):
    first = {fold: dice_of(fold, 6, absent=[(0, 1)] if fold == 1 else ()) for fold in (0, 1)}
    second = {fold: dice_of(10 + fold, 6, better=0.05) for fold in (0, 1)}
    for fold in (0, 1):  # the cases of the folds are not the same
        for trainer, dice in ((A, first), (B, second)):
            write_fold(results, trainer, fold, {f"f{fold}_{case}": row for case, row in dice[fold].items()})
    rows, screen = compared(tmp_path, "-tr", A, B)

    a, b = (np.array([row for fold in (0, 1) for row in dice[fold].values()]) for dice in (first, second))
    for i, label in enumerate(("anterior", "posterior")):
        for trainer, values in ((A, a), (B, b)):
            assert float(rows[trainer, label]["dice"]) == pytest.approx(np.nanmean(values[:, i]))
            assert int(rows[trainer, label]["cases"]) == np.isfinite(values[:, i]).sum()
        difference = (b - a)[:, i]
        there = difference[np.isfinite(difference)]
        row = rows[B, label]
        assert float(row["difference"]) == pytest.approx(there.mean())
        found = float(row["interval_low"]), float(row["interval_high"])
        assert found == pytest.approx(bootstrap_interval(there[:, None]), abs=0.006)
        assert found[0] < there.mean() < found[1]
        assert float(row["p"]) == pytest.approx(wilcoxon_by_enumeration(there))
        counts = [int(row[name]) for name in ("better", "equal", "worse", "left_out")]
        assert counts == [(there > 0).sum(), 0, (there < 0).sum(), 1 if i else 0]
        assert all(rows[A, label][name] == "" for name in ("difference", "p", "better"))
    p = [float(rows[B, label]["p"]) for label in ("anterior", "posterior")]
    corrected = [min(1, 2 * min(p)), max(min(1, 2 * min(p)), max(p))]
    assert sorted(float(rows[B, label]["p_holm"]) for label in ("anterior", "posterior")) == pytest.approx(corrected)

    mean = rows[B, "mean"]
    assert float(rows[A, "mean"]["dice"]) == pytest.approx(np.nanmean(a, axis=0).mean())
    assert float(mean["difference"]) == pytest.approx(np.nanmean(b - a, axis=0).mean())
    found = float(mean["interval_low"]), float(mean["interval_high"])
    assert found == pytest.approx(bootstrap_interval(b - a), abs=0.006)

    page = (tmp_path / "out" / "comparison.md").read_text()
    assert f"{np.nanmean(a[:, 0]):.4f}" in page and f"{(b - a)[:, 0].mean():+.4f}" in page
    assert f"{B}, posterior: 1 cases without a Dice in one of the two, or in both, are left out." in page
    assert f"| {A} | 23 | 10.0 | not known |" in page and f"| {B} | 25 | 10.0 | 1234 |" in page
    assert "Only 12 cases" in page and "Only 12 cases" in screen and "One fold only" not in page
    with (tmp_path / "out" / "cases.csv").open() as file:
        cases = list(csv.DictReader(file))
    assert len(cases) == 2 * 12 * 2
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_twice_the_same_bits(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed))
    compared(tmp_path, "-tr", A, B)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".png"}
    compared(tmp_path, "-tr", A, B)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".png"} == before


def test_repeats(results, tmp_path):
    runs = {}
    for trainer in (A, B):
        for i, plans in enumerate(("nnUNetPlans", "nnUNetPlans_rep1", "nnUNetPlans_rep2")):
            runs[trainer, i] = dice_of(hash((trainer == A, i)) % 1000)
            write_fold(results, trainer, 0, runs[trainer, i], plans=plans)
    rows, screen = compared(tmp_path, "-tr", A, B, "-f", 0)
    for trainer in (A, B):
        means = [np.mean([row[0] for row in runs[trainer, i].values()]) for i in range(3)]
        assert float(rows[trainer, "anterior"]["spread_between_repeats"]) == pytest.approx(np.std(means, ddof=1))
        between = [float(rows[trainer, "anterior"][name]) for name in ("lowest", "highest")]
        assert between == pytest.approx([min(means), max(means)])
        assert f"| {min(means):.4f} to {max(means):.4f} |" in (tmp_path / "out" / "comparison.md").read_text()
        assert float(rows[trainer, "anterior"]["dice"]) == pytest.approx(np.mean(means))
    assert "One run of each" not in screen and "One fold only" in screen
    a, b = (np.mean([[r[0] for r in runs[t, i].values()] for i in range(3)], axis=0) for t in (A, B))
    assert float(rows[B, "anterior"]["p"]) == pytest.approx(wilcoxon_by_enumeration(b - a))

    page, screen = (tmp_path / "out" / "comparison.md").read_text(), " ".join(screen.split())
    for label, columns in (("anterior", [0]), ("posterior", [1]), ("mean", [0, 1])):
        a, b = ([np.mean([np.take(row, columns) for row in runs[t, i].values()]) for i in range(3)] for t in (A, B))
        low, high = welch_by_hand(a, b)
        row = rows[B, label]
        assert (float(row["repeats_low"]), float(row["repeats_high"])) == pytest.approx((low, high))
        assert (low + high) / 2 == pytest.approx(float(row["difference"]))
        assert f"| {low:+.4f} to {high:+.4f} |" in page and f"{low:+.4f} to {high:+.4f}" in screen
        assert rows[A, label]["repeats_low"] == rows[A, label]["repeats_high"] == ""
        assert "fewer than 5 repeats" in row["repeats_doubt"] and rows[A, label]["repeats_doubt"] == ""
    said = f"{B}; Dice of anterior, posterior, mean: the interval over repeats may mislead, for there are fewer than 5"
    assert said in page and said in screen and page.count("may mislead") == 1
    assert "| 95% interval over cases | 95% interval over repeats |" in page


def test_a_single_run_has_no_interval_over_repeats(results, tmp_path):
    for trainer, plans, seed in ((A, "nnUNetPlans", 0), (B, "nnUNetPlans", 1), (B, "nnUNetPlans_rep1", 2)):
        write_fold(results, trainer, 0, dice_of(seed), plans=plans)
    rows, _ = compared(tmp_path, "-tr", A, B)
    assert all(row["repeats_low"] == row["repeats_high"] == "" for row in rows.values())
    assert all(rows[B, label]["interval_low"] != "" for label in ("anterior", "posterior", "mean"))


FIVE = [0.801, 0.812, 0.795, 0.806, 0.799]
TWO_HUMPS = [0.78, 0.79, 0.785, 0.4, 0.39, 0.395, 0.788, 0.405, 0.392, 0.787]


@pytest.mark.parametrize(
    ("first", "other", "doubt"),
    [
        (FIVE, FIVE[::-1], ""),
        (FIVE[:4], TWO_HUMPS, "fewer than 5"),
        (FIVE, TWO_HUMPS, "far from a normal"),
        (TWO_HUMPS, FIVE, "far from a normal"),
        ([0.8] * 5, FIVE, "copies"),
        (FIVE, [0.8] * 5, "copies"),
    ],
)
def test_an_interval_over_repeats_says_what_speaks_against_it(first, other, doubt):
    found = over_repeats(first, other)
    assert (found.low, found.high) == pytest.approx(welch_by_hand(first, other))
    assert doubt in found.doubt and bool(doubt) == bool(found.doubt)


def welch_by_hand(a, b):
    of_a, of_b = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    half = stats.t.ppf(0.975, freedom) * np.sqrt(of_a + of_b)
    return np.mean(b) - np.mean(a) - half, np.mean(b) - np.mean(a) + half


def test_welch():
    a, b = [0.71, 0.74, 0.73, 0.70], [0.80, 0.69]
    found = welch_interval(a, b)
    assert found == pytest.approx(welch_by_hand(a, b))
    assert found == pytest.approx(tuple(stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)))
    assert welch_interval([0.5], b) is None and welch_interval(a, [0.5]) is None and welch_interval(a, []) is None
    assert welch_interval(a, [0.8, math.nan]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert welch_interval([0.5, 0.5], [0.75, 0.75, 0.75]) == (0.25, 0.25)
        half = stats.t.ppf(0.975, 1) * np.std(b, ddof=1) / math.sqrt(2)  # one of the two does not vary
        assert welch_interval([0.5, 0.5], b) == pytest.approx((0.245 - half, 0.245 + half))


def again(tmp_path, file, *arguments):
    """What ``--cases`` makes of a file."""
    return CliRunner().invoke(app, ["compare", "--cases", str(file), "-o", str(tmp_path / "again"), *arguments])


def test_again_from_the_numbers(results, tmp_path):
    seed = itertools.count()
    for trainer in (B, A):  # not in the order of their names
        for plans in ("nnUNetPlans", "nnUNetPlans_rep1"):
            for fold in (0, 1):
                dice = dice_of(next(seed), 6, absent=[(0, 1)] if fold else ())
                dice = {f"f{1 - fold}_{case}": row for case, row in dice.items()}
                write_fold(results, trainer, fold, dice, plans=plans)
    compared(tmp_path, "-tr", B, A)
    done = again(tmp_path, tmp_path / "out" / "cases.csv")
    assert done.exit_code == 0, done.output
    for name in ("comparison.csv", "cases.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    first, second = ((tmp_path / folder / "comparison.md").read_text() for folder in ("out", "again"))
    without_title, rest = (page.partition("\n\n")[2] for page in (first, second))
    assert without_title.partition("\n\n## Cost")[0] == rest.rstrip()
    assert "Cost" not in done.output and "Only 12 cases" in done.output
    assert ",nan" in (tmp_path / "out" / "cases.csv").read_text()

    found = compare_cases(tmp_path / "out" / "cases.csv")
    assert [model.name for model in found.models] == [B, A]
    assert found.cases[0].startswith("f1_") and dict(found.labels) == {"anterior": "anterior", "posterior": "posterior"}


def test_an_earlier_comparison_is_kept_without_force(tmp_path):
    first, second = write_numbers(tmp_path, numbers(TWO)), tmp_path / "other.csv"
    second.write_text(first.read_text().replace("0.", "0.1"))
    assert again(tmp_path, first).exit_code == 0
    files = {file: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    done = again(tmp_path, second)
    assert done.exit_code == 1 and "exists: name another, or replace it with --force" in " ".join(done.output.split())
    assert files == {file: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    done = again(tmp_path, second, "--force")
    assert done.exit_code == 0, done.output
    assert files[tmp_path / "again" / "comparison.csv"] != (tmp_path / "again" / "comparison.csv").read_bytes()


def test_an_earlier_comparison_is_kept_if_a_new_one_fails(tmp_path, monkeypatch):
    """All of it, and what else the user has there."""
    assert again(tmp_path, write_numbers(tmp_path, numbers(TWO))).exit_code == 0
    (tmp_path / "again" / "thesis.tex").write_text("years")
    files = {file: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    other = write_numbers(tmp_path, numbers([*TWO, ("third", "r2")]))
    for part in ("write_page", "write_comparison"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nnunet_xattnres.commands.compare.{part}", no_space_left)
            done = again(tmp_path, other, "--force")
        assert done.exit_code == 1 and "No space left" in done.output
        assert files == {file: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert again(tmp_path, other, "--force").exit_code == 0
    assert set(files) == set((tmp_path / "again").iterdir())
    assert (tmp_path / "again" / "thesis.tex").read_text() == "years"


def no_space_left(*_):
    raise OSError("No space left on device")


@pytest.mark.parametrize("lost", [["curves.png"], ["hd95.csv", "hd95_cases.csv", "hd95.png"]])
def test_what_the_numbers_are_not_enough_for_is_not_replaced(tmp_path, lost):
    assert again(tmp_path, write_numbers(tmp_path, numbers(TWO))).exit_code == 0
    for name in lost:
        (tmp_path / "again" / name).write_text("of hours")
    done = again(tmp_path, tmp_path / "again" / "cases.csv", "--force")
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and f"again has {', '.join(lost)}, which" in text and "another folder with -o" in text
    assert all((tmp_path / "again" / name).read_text() == "of hours" for name in lost)
    done = again(tmp_path, tmp_path / "typo" / "cases.csv", "--force")
    assert "typo/cases.csv cannot be read" in " ".join(done.output.split())
    assert again(tmp_path, tmp_path / "cases.csv", "--force").exit_code == 0, (
        "of another comparison: as it is asked for"
    )
    assert again(tmp_path, tmp_path / "again" / "cases.csv", "--force").exit_code == 0


def test_a_folder_that_cannot_be_written_is_said_before_masks_are_read(results, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.commands.compare.compare_trainings", pytest.fail)
    (tmp_path / "out").write_text("a file")
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    assert done.exit_code == 1 and done.output.endswith("out is a file; name a folder\n"), done.output
    (tmp_path / "out").unlink()
    monkeypatch.setattr("nnunet_xattnres.common.files._folder_in", no_space_left)
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    assert done.exit_code == 1 and "No space left" in done.output and not (tmp_path / "out").exists()


def test_the_folder_of_a_validation_is_no_place_for_pictures(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        model = write_fold(results, trainer, 0, dice_of(seed))
    folder = model / "fold_0" / "validation"
    done = CliRunner().invoke(app, ["compare", "-d", "4", "-c", "2d", "-tr", A, B, "-o", str(folder)])
    assert done.exit_code == 1 and "validation holds masks or images that are to be read" in done.output
    assert [file.name for file in folder.iterdir()] == ["summary.json"]


def test_regions_again_from_the_numbers(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed), keys=("(1, 2)", "2"), labels={"whole": [1, 2], "core": 2})
    _, screen = compared(tmp_path, "-tr", A, B)
    done = again(tmp_path, tmp_path / "out" / "cases.csv")
    assert (tmp_path / "again" / "comparison.csv").read_bytes() == (tmp_path / "out" / "comparison.csv").read_bytes()
    for said in ("One fold only", "Only 12 cases", "One run of each"):
        assert said in screen and said in done.output


def numbers(runs, cases=("x", "y", "z"), labels=("one", "two"), fold="0"):
    """The lines of a cases.csv, without its header; ``runs`` are (model, run)."""
    generator = np.random.default_rng(len(runs))
    return [
        f"{model},{run},{fold},{case},{label},{generator.random()!r}"
        for model, run in runs
        for case in cases
        for label in labels
    ]


def write_numbers(tmp_path, lines, head="model,run,fold,case,label,dice"):
    file = tmp_path / "cases.csv"
    file.write_text("\n".join([head, *lines]) + "\n")
    return file


TWO = (("first", "r0"), ("second", "r1"))


def test_a_file_from_elsewhere(tmp_path):
    lines = numbers(TWO)
    lines[1] = "first,r0,0,x,two,"
    lines[3] = "first,r0,0,y,two, NaN "
    head, *rest = lines
    file = write_numbers(tmp_path, [*reversed(rest), head, ""])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))  # as spreadsheets save it
    found = compare_cases(file)
    assert [model.name for model in found.models] == ["second", "first"]
    assert list(found.cases) == ["z", "y", "x"] and list(found.labels) == ["two", "one"]
    dice = found.values(found.models[1])
    assert np.isnan(dice).tolist() == [[False, False], [True, False], [True, False]]
    assert dice[2, 1] == float(head.rpartition(",")[2])


def test_repeats_and_a_label_that_no_case_has(tmp_path):
    lines = numbers([*TWO, ("first", "r2"), ("second", "r3")])
    done = again(
        tmp_path, write_numbers(tmp_path, [line.replace(",two,", ",two,nan#").split("#")[0] for line in lines])
    )
    assert done.exit_code == 0, done.output
    with (tmp_path / "again" / "comparison.csv").open() as file:
        rows = {(row["model"], row["label"]): row for row in csv.DictReader(file)}
    assert rows["second", "two"]["spread_between_repeats"] == "nan" and rows["second", "two"]["repeats_low"] == ""
    assert float(rows["second", "one"]["spread_between_repeats"]) > 0 and rows["second", "one"]["repeats_low"] != ""


@pytest.mark.parametrize(
    ("change_lines", "message"),
    [
        (lambda lines: [*lines, lines[0]], "line 14: x, one is given a second time for first, r0, fold 0"),
        (lambda lines: [*lines, "first,r0,all,x,one,1"], "line 14: x of first, r0 is in fold all and in fold 0"),
        (lambda lines: [*lines[:2], "first,r0,0,y,one,good", *lines[3:]], "line 4: the Dice 'good' is no number"),
        (lambda lines: [*lines[:2], "first,r0,0,y,one,inf", *lines[3:]], "line 4: the Dice 'inf' is no number"),
        (lambda lines: [*lines[:2], "first,r0,0,y,one", *lines[3:]], "line 4 has not as many cells"),
        (lambda lines: [*lines[:2], "first,r0,0,y,one,0,5", *lines[3:]], "line 4 has not as many cells"),
        (lambda lines: [*lines[:2], *lines[3:]], "first, r0, fold 0 has no line for y, one"),
        (lambda lines: lines[:6], "only the model 'first'"),
        (lambda lines: [], "has no lines"),
        (lambda lines: [*lines, 'first,"r0'], "cannot be read"),
    ],
)
def test_what_a_file_must_not_hold(tmp_path, change_lines, message):
    file = write_numbers(tmp_path, change_lines(numbers(TWO)))
    done = again(tmp_path, file)
    assert done.exit_code == 1 and done.output.count("\n") == 1, done.output
    assert str(file) in done.output and message in done.output, done.output
    assert not (tmp_path / "again").exists()


def test_what_is_no_such_file(tmp_path):
    for content, message in (
        (b"model,run,fold;case", "no column fold, case, label, dice"),
        (b"\xff\xfe", "cannot be read"),
    ):
        (tmp_path / "cases.csv").write_bytes(content)
        with pytest.raises(UserError, match=message):
            compare_cases(tmp_path / "cases.csv")
    for path in (tmp_path, tmp_path / "absent.csv"):
        done = again(tmp_path, path)
        assert done.exit_code == 1 and f"{path} cannot be read" in done.output and done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("check", "other", "named"),
    [
        ("cases", {"cases": ("x", "z")}, "y of fold 0 is there in first (r0) and missing in second (r2)"),
        ("cases", {"fold": "1"}, "x of fold 0 is there in first (r0) and missing in second (r2)"),
        ("labels", {"labels": ("one",)}, "label two is two in first (r0) and missing in second (r2)"),
        ("labels", {"labels": ("one", "two", "more")}, "label more is missing in first (r0) and more in second (r2)"),
    ],
)
def test_runs_of_a_file_that_differ(tmp_path, check, other, named):
    file = write_numbers(tmp_path, [*numbers([*TWO, ("first", "r3")]), *numbers([("second", "r2")], **other)])
    done = again(tmp_path, file)
    assert done.exit_code == 1 and done.output.rstrip().endswith(f"all the same: --allow {check}"), done.output
    assert named in done.output
    done = again(tmp_path, file, "--allow", check)
    assert done.exit_code == 0, done.output
    found = compare_cases(file, [check])
    assert list(found.cases) == [case for case in "xyz" if case in other.get("cases", "xyz")]
    assert list(found.labels) == [label for label in ("one", "two") if label in other.get("labels", label)]


@pytest.mark.parametrize("also", [("-d", "4"), ("-tr", A, B), ("--predictions", "a=b"), ("-c", "2d"), ("-f", "0")])
def test_cases_stand_alone(tmp_path, also):
    done = again(tmp_path, write_numbers(tmp_path, numbers(TWO)), *also)
    assert done.exit_code == 1 and "name one of them: --cases" in done.output
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(("n_models", "n_columns", "n_rows"), [(2, 1, 1), (5, 4, 1), (6, 3, 2), (7, 3, 2), (10, 3, 3)])
def test_the_panels_of_the_picture_wrap(tmp_path, n_models, n_columns, n_rows):
    names = [f"model {i} " + "of a long name " * 6 for i in range(n_models)]
    file = write_numbers(tmp_path, numbers([(name, "r") for name in names]))
    comparison = compare_cases(file)
    figure = picture_of(comparison, make_rows(comparison))
    panels = [axis for axis in figure.axes if axis.axison]
    assert len(panels) == n_models - 1
    assert [" ".join(axis.get_title().split()) for axis in panels] == [name.strip() for name in names[1:]]
    assert "95% interval over the cases" in figure.get_suptitle()
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["one", "two", "mean"]
    figure.draw_without_rendering()
    for axis in panels:  # no title runs into the next panel's
        assert axis.title.get_window_extent().width < figure.bbox.width / n_columns
    if n_models == 7:
        assert again(tmp_path, file).exit_code == 0
        width, height = struct.unpack(">II", (tmp_path / "again" / "comparison.png").read_bytes()[16:24])
        assert (width, height) == tuple(int(130 * inches) for inches in figure.get_size_inches())
    assert figure.get_size_inches() == pytest.approx([2.0 + 4.2 * n_columns, 0.9 + 3.1 * n_rows])


def test_regions(results, tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed), keys=("(1, 2)", "2"), labels=labels)
    rows, _ = compared(tmp_path, "-tr", A, B)
    assert [label for model, label in rows if model == A] == ["whole", "core", "mean"]


def test_plans_against_plans_and_a_configuration_that_inherits(results, tmp_path):
    for plans, seed in (("nnUNetPlans", 0), ("nnUNetXAttnResPlans", 1)):
        write_fold(results, A, 0, dice_of(seed), plans=plans, configuration="2d_more")
    done = invoke(tmp_path, "-d", 4, "-c", "2d_more", "-tr", A, "-p", "nnUNetPlans", "nnUNetXAttnResPlans")
    assert done.exit_code == 0, done.output
    assert "nnUNetXAttnResPlans" in (tmp_path / "out" / "comparison.csv").read_text()


def change(key, value):
    return lambda configuration: configuration.update({key: value})


@pytest.mark.parametrize(
    ("check", "other", "named"),
    [
        ("cases", {"dice": dice_of(1, 11)}, "case_11"),
        ("splits", {"n_training": 39}, "40"),
        ("labels", {"labels": LABELS | {"third": 3}}, "third"),
        ("epochs", {"epochs": 4}, "the number of epochs of fold 0 is 5 in"),
        ("epochs", {"iterations": 25}, "the iterations of an epoch of fold 0 is 250 in"),
        ("preprocessing", {"change_plans": change("spacing", [1, 2])}, "spacing"),
        ("preprocessing", {"change_plans": change("data_identifier", "other")}, "nnUNetPlans_2d"),
        ("preprocessing", {"change_plans": change("preprocessor_name", "Mine")}, "preprocessor_name is missing in"),
        ("preprocessing", {"change_plans": change("normalization_schemes", ["X"])}, "normalization_schemes is missing"),
        ("preprocessing", {"change_plans": change("use_mask_for_norm", [True])}, "use_mask_for_norm is missing in"),
    ],
)
def test_what_differs_is_named_and_may_be_allowed(results, tmp_path, check, other, named):
    write_fold(results, A, 0, dice_of(0))
    write_fold(results, B, 0, **{"dice": dice_of(1), **other})
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    assert done.exit_code == 1 and f"--allow {check}" in done.output and named in done.output, done.output
    assert not (tmp_path / "out").exists()
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "--allow", check)
    assert done.exit_code == 0, done.output
    assert named in (tmp_path / "out" / "comparison.md").read_text()


def test_another_batch_size_is_told(results, tmp_path):
    write_fold(results, A, 0, dice_of(0))
    write_fold(results, B, 0, dice_of(1), change_plans=change("batch_size", 9))
    _, screen = compared(tmp_path, "-tr", A, B)
    assert "patch or batch size differ: batch_size is 2 in" in " ".join(screen.split())


def test_a_label_that_no_case_has(results, tmp_path):
    absent = [(i, 1) for i in range(12)]
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed, absent=absent))
    rows, screen = compared(tmp_path, "-tr", A, B)
    assert rows[B, "posterior"]["dice"] == "nan" and int(rows[B, "posterior"]["cases"]) == 0
    assert "The mean over the labels is without posterior: not every run has a Dice there." in screen
    assert rows[B, "mean"]["dice"] == rows[B, "anterior"]["dice"]
    assert float(rows[B, "mean"]["difference"]) == pytest.approx(float(rows[B, "anterior"]["difference"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-d", 4, "-c", "2d", "-tr", A), "nothing to compare"),
        (("-d", 4, "-c", "2d", "-tr", A, "nnUNetTrainerOther"), "no results of the trainer 'nnUNetTrainerOther'"),
        (("-d", 4, "-c", "2d", "-tr", A, B, "-f", 0, 3), "for fold 3"),
        (("-d", 4, "-c", "2d", "-tr", A, B, "--allow", "everything"), "no such check"),
        (("-d", 4, "-tr", A, B), "name a data set (-d), a configuration (-c)"),
        (("-d", 4, "-c", "2d", "-tr", A, B, "--labels", "x"), "--labels is for --predictions"),
        (("--predictions", "a=a", "b=b"), "needs --labels"),
        (("--predictions", "a=a", "b=b", "--labels", "x", "-d", 4), "name one of them: --cases, or --predictions"),
        (("--predictions", "a=a", "b=b", "--labels", "x", "-c", "2d"), "name one of them: --cases, or --predictions"),
        (("--predictions", "a=a", "b=b", "--labels", "x", "-tr", A), "name one of them: --cases, or --predictions"),
        (("--predictions", "a=a", "b=b", "--labels", "x", "-p", "P"), "name one of them: --cases, or --predictions"),
        (("--predictions", "a=a", "b=b", "--labels", "x", "-f", 0), "name one of them: --cases, or --predictions"),
        (("--predictions", "a", "b", "--labels", "x"), "NAME=FOLDER"),
    ],
)
def test_what_is_refused(results, tmp_path, arguments, message):
    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed))
    done = invoke(tmp_path, *arguments)
    assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"metric_per_case": []}', '{"metric_per_case": [{"metrics": 3}]}'])
def test_a_corrupt_summary_is_named(results, tmp_path, content):
    write_fold(results, A, 0, dice_of(0))
    model = write_fold(results, B, 0, dice_of(1))
    (model / "fold_0" / "validation" / "summary.json").write_text(content)
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    assert done.exit_code == 1 and f"{B}__nnUNetPlans__2d/fold_0/validation/summary.json" in done.output.replace(
        "\n", ""
    )
    assert not (tmp_path / "out").exists()


def test_without_checkpoints_the_log_says_it(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        model = write_fold(results, trainer, 0, dice_of(seed), epochs=4)
        (model / "fold_0" / "checkpoint_final.pth").unlink()
    compared(tmp_path, "-tr", A, B)
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| {A} | not known | 10.0 | not known |" in page and f"| {B} | 2,345 | 10.0 | 1234 |" in page
    write_fold(results, "nnUNetTrainerLonger", 0, dice_of(2), epochs=6)
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, "nnUNetTrainerLonger")
    assert done.exit_code == 1 and "the number of epochs of fold 0 is 4 in" in done.output and "6 in" in done.output


def test_no_checkpoint_no_log_is_no_reason_to_fail(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        model = write_fold(results, trainer, 0, dice_of(seed))
        for name in ("checkpoint_final.pth", "debug.json", "training_log_2026_1_1_00_00_00.txt"):
            (model / "fold_0" / name).unlink()
    _, screen = compared(tmp_path, "-tr", A, B)
    assert "anterior" in screen


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.6])[0] == 1.0 and math.isnan(holm([0.5, math.nan])[1])
