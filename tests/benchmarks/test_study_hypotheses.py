"""The tests that a study declares, against values computed by hand, and what the report says of them."""

import math
import re
from dataclasses import replace

import pytest
from helpers.study import OURS, PLAIN, remove_records, rewrite_records, write_a_record
from scipy import stats
from test_study_results import cells, mean_dice

from benchmarks.study.declared import OUTCOMES, Hypothesis
from benchmarks.study.description import Schedule
from benchmarks.study.hypotheses import TESTS, WORDS, outcomes
from benchmarks.study.records import read_records
from benchmarks.study.report import grouped, write_report
from benchmarks.study.two_samples import _ways, brown_forsythe, mann_whitney, rank_of_the_low_end, welch
from nnunet_xattnres.common.errors import UserError

# --- tests, by hand


def test_mann_whitney_by_hand():
    # U is 4: only the 10 is above the four others; 1 + 1 + 2 + 3 + 5 of the 70 orders have a U of 4 or less
    found = mann_whitney([1, 2, 3, 10], [4, 5, 6, 7])
    assert found.p == pytest.approx(2 * 12 / 70)
    # the 16 differences: -6 -5 -5 -4 -4 -4 -3 -3 | -3 -2 -2 -1 3 4 5 6; P(U < 1) is 1/70, P(U < 2) is 2/70
    assert (found.effect, found.low, found.high) == (-3, -6, 6)


def test_mann_whitney_with_ties_and_with_too_few():
    # ranks 1, 2.5, 5 against 2.5, 5, 5: U is 2.5 of a mean of 4.5; the variance is 9 / 12 * (7 - (6 + 24) / 30) = 4.5
    found = mann_whitney([1, 2, 3], [2, 3, 3])
    assert found.p == pytest.approx(2 * stats.norm.sf((4.5 - 2.5 - 0.5) / math.sqrt(4.5)))
    assert found.effect == -1 and math.isnan(found.low) and math.isnan(found.high)
    assert math.isnan(mann_whitney([1, 1], [1, 1]).p)


def test_the_rank_of_the_low_end_is_that_of_printed_tables():
    # critical values of U, two-sided, 5%: 23 for 10 and 10, 2 for 5 and 5, 8 for 7 and 7, none for 3 and 3
    assert [rank_of_the_low_end(n, n) for n in (10, 5, 7, 3)] == [24, 3, 9, 0]
    assert rank_of_the_low_end(4, 9) == rank_of_the_low_end(9, 4) == 5
    assert _ways(2, 2) == [1, 1, 2, 1, 1] and sum(_ways(10, 10)) == math.comb(20, 10)


def test_welch_by_hand():
    # means 2 and 5, variances 1 and 20/3, squared errors 1/3 and 5/3
    found = welch([1, 2, 3], [2, 4, 6, 8])
    freedom = 2**2 / ((1 / 3) ** 2 / 2 + (5 / 3) ** 2 / 3)
    assert found.effect == -3
    assert found.p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(2), freedom))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(2)
    assert (found.low, found.high) == pytest.approx((-3 - half, -3 + half))
    assert math.isnan(welch([1, 1], [2, 2]).p) and welch([1, 1], [2, 2]).effect == -1


def test_brown_forsythe_by_hand():
    # from the medians: 1, 0, 1 and 4, 0, 4; between them 6, within them 34/3 with 4 degrees of freedom
    found = brown_forsythe([1, 2, 3], [0, 4, 8])
    assert found.p == pytest.approx(stats.f.sf(6 / (34 / 3 / 4), 1, 4))
    assert found.effect == pytest.approx(1 / 4)
    assert brown_forsythe([1, 2, 3], [3, 3, 3]).effect == math.inf
    for sample, against in (([1, 1, 1], [3, 3, 3]), ([1, 2], [1, 2, 3]), ([1, 2, 3], [1, 9])):
        assert math.isnan(brown_forsythe(sample, against).p)


def test_every_declared_test_and_outcome_is_known():
    assert {test for tests in OUTCOMES.values() for test in tests} == TESTS.keys()
    assert OUTCOMES.keys() == WORDS.keys()


# --- the report

CLAIMS = (
    Hypothesis("further", "long", "final_dice", OURS, PLAIN, "mann_whitney"),
    Hypothesis("sooner", "long", "iterations_to_90", OURS, PLAIN, "mann_whitney"),
    Hypothesis("steadier", "long", "spread", OURS, PLAIN, "brown_forsythe"),
    Hypothesis("other", "long", "final_dice", OURS, PLAIN, "welch"),
)
LEVELS = {PLAIN: (0.50, 0.58, 0.55, 0.35), OURS: (0.60, 0.61, 0.63, 0.64)}


@pytest.fixture
def declared(study, folders):
    """With all records, the Dice of the trainings around ``LEVELS``."""
    study = replace(study, schedules={"long": Schedule(6, 10, 2, repeats=4)}, hypotheses=CLAIMS)
    for training in study.trainings():
        write_a_record(study, folders, training, LEVELS[training.trainer][training.repeat])
    return study


def declaring(study, folders, *hypotheses):
    """The study as if it had declared these before its trainings."""
    study = replace(study, hypotheses=hypotheses)
    rewrite_records(folders, lambda facts: facts | {"settings": study.settings(facts["training"]["schedule"])})
    return study


def found_in(study, folders):
    return outcomes(study, grouped(study, read_records(study, folders)))


def test_hypotheses_are_answered_by_the_trainings(declared, folders):
    further, sooner, steadier, other = found_in(declared, folders)
    ours, plain = (
        [mean_dice(declared, folders, t) for t in declared.trainings() if t.trainer == trainer]
        for trainer in (OURS, PLAIN)
    )
    assert further.values == steadier.values == (pytest.approx(ours), pytest.approx(plain))
    assert further.found == mann_whitney(*further.values) and further.found.p == pytest.approx(2 / 70)
    assert steadier.found == brown_forsythe(*steadier.values) and other.found == welch(*other.values)

    # the plain curves end at 5/6 of 0.5, 0.58, 0.55, 0.35, at 0.4125 in the mean; 90% of it is 0.37125. With three
    # epochs' means of 1, 1.5, 2, 3, 4, 5 sixths: 0.5 and 0.55 and 0.58 get there in the sixth, in the sixth, in the
    # fifth epoch, 0.35 never; ours, 0.6 to 0.64, in the fifth
    assert sooner.values == ([50, 50, 50, 50], [60, 50, 60, 61])
    assert sooner.found == mann_whitney(*sooner.values)
    assert sooner.found.effect == -10 and (sooner.found.low, sooner.found.high) == (-11, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"schedules": {"long": Schedule(6, 10, 2, repeats=5)}},
        {"schedules": {"long": Schedule(6, 10, 2, repeats=4, repeats_of={OURS: 5})}},
        {"folds": (0, 1)},
        {"rotate_folds": True},
        {"hypotheses": CLAIMS[:3]},
    ],
    ids=["repeats", "repeats of one", "folds", "rotation", "hypotheses"],
)
def test_what_is_tested_stays_what_was_declared(declared, folders, change):
    with pytest.raises(UserError, match="Give the changed study another name"):
        read_records(replace(declared, **change), folders)


def test_what_no_test_is_about_may_be_added(declared, folders):
    another = Schedule(6, 10, 2, repeats=4, repeats_of={f"{OURS}Gated": 7})
    more = replace(declared, trainers=(PLAIN, OURS, f"{OURS}Gated"), schedules={"long": another, "short": another})
    assert len(read_records(more, folders)) == 8


@pytest.mark.parametrize("key", ["hypotheses", "tested"])
def test_what_is_declared_after_the_trainings_is_refused(declared, folders, key):
    def without(facts):
        del facts["settings"][key]
        return facts

    rewrite_records(folders, without)
    with pytest.raises(UserError, match=f"with {key} None, and little now says"):
        read_records(declared, folders)


def test_holm_is_over_all_that_is_declared(declared, folders):
    found = found_in(declared, folders)
    by_p = sorted(found, key=lambda outcome: outcome.found.p)
    expected = 0.0
    for outcome, times in zip(by_p, (4, 3, 2, 1), strict=True):
        expected = max(expected, min(1.0, times * outcome.found.p))
        assert outcome.p_holm == pytest.approx(expected)


def test_no_test_is_made_before_all_of_its_trainings_are_there(declared, folders):
    study = replace(declared, trainers=(PLAIN, f"{OURS}Gated", OURS))
    against_another = replace(CLAIMS[1], against=f"{OURS}Gated")  # needs the plain network's end, too
    study = declaring(study, folders, CLAIMS[0], against_another)
    first, second = found_in(study, folders)
    assert first.found and first.p_holm == pytest.approx(2 * first.found.p)  # what is open counts with a p of 1
    assert second.found is None and second.lacking == f"0 of 4 repeats of {OURS}Gated"

    remove_records(folders, repeat=3, trainer=PLAIN)
    first, second = found_in(study, folders)
    assert first.found is None and first.lacking == f"3 of 4 repeats of {PLAIN}"
    assert second.lacking == f"0 of 4 repeats of {OURS}Gated, 3 of 4 repeats of {PLAIN}"
    page = write_report(study, folders).read_text()
    assert cells(page, "further")[4:] == [f"not yet: 3 of 4 repeats of {PLAIN}", "Mann-Whitney"]
    remove_records(folders, trainer=PLAIN)
    assert found_in(study, folders)[1].values == ([], [])


def test_a_repeat_without_a_dice_answers_nothing_and_does_no_harm(declared, folders):
    """Its validation cases have a label nowhere, and no prediction has it."""
    name = next(t.name for t in declared.trainings() if t.trainer == OURS)
    lines = folders.dice.read_text().splitlines()
    found = [re.sub(r"[^,]+$", "nan", line) if line.startswith(name) and ",duct," in line else line for line in lines]
    assert found != lines
    folders.dice.write_text("\n".join(found) + "\n")
    further, sooner, steadier, other = found_in(declared, folders)
    for one in (further, steadier, other):
        assert sum(map(math.isnan, one.values[0])) == 1
        assert math.isnan(one.found.effect) and math.isnan(one.found.low) and math.isnan(one.found.p)
    assert sooner.found.p <= 1, "it is of the curves"
    page = write_report(declared, folders).read_text()
    assert cells(page, "further")[4] == "+nan (no interval)" and cells(page, "further")[6] == "n/a"


def test_the_report_has_the_hypotheses_in_words_and_numbers(declared, folders):
    page = write_report(declared, folders).read_text()
    further, sooner, steadier, other = found_in(declared, folders)
    _, outcome, ours, _, difference, test, p, p_holm = cells(page, "further")
    assert (outcome, test, p, p_holm) == ("Dice", "Mann-Whitney", "0.0286", f"{further.p_holm:.4f}")
    assert ours.startswith(f"{OURS}: 0.67") and " ± 0.0" in ours
    found = further.found
    assert difference == f"{found.effect:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    assert cells(page, "sooner")[2:5] == [f"{OURS}: 50", f"{PLAIN}: 60", "-10 (-11 to +0)"]
    assert cells(page, "steadier")[4:6] == [f"{steadier.found.effect:.2f} times", "Brown-Forsythe"]
    assert cells(page, "other")[6] == f"{other.found.p:.4f}"
    assert cells(page, "other")[4].endswith(") (?)")  # Welch's, of four repeats; the rank test says nothing of a mean
    assert sooner.p_holm <= 1 and "corrected for all 4" in page

    write_report(declaring(declared, folders), folders)
    assert "declared" not in (folders.results / "RESULTS.md").read_text()


def test_a_repeat_of_several_folds_is_one_value(study, folders):
    study = replace(
        study, folds=(0, 1), schedules={"long": Schedule(6, 10, 2, repeats=2)}, hypotheses=(CLAIMS[1], CLAIMS[3])
    )
    for training in study.trainings():
        write_a_record(study, folders, training, 0.3 if training.fold else 0.6)
    assert {len(record.facts["curve"]) for record in read_records(study, folders)} == {6}
    sooner, other = found_in(study, folders)
    # the end of the plain curves: 5/6 of 0.45; 90% of it, 0.3375, is 3.4 sixths of 0.6 and more than 0.3
    assert sooner.values == ([(50 + 61) / 2] * 2, [(50 + 61) / 2] * 2)
    assert [len(values) for values in other.values] == [2, 2]
    remove_records(folders, repeat=1, trainer=OURS, fold=1)
    assert found_in(study, folders)[1].lacking == f"1 of 2 repeats of {OURS}"
