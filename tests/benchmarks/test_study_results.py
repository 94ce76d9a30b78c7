"""What a study keeps and reports, against the same numbers computed in another way."""

import csv
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers.networks import make_input, make_network
from helpers.study import CASES, OURS, PLAIN, remove_records, rewrite_records, write_a_record, write_all_records
from scipy import stats
from typer.testing import CliRunner

from benchmarks.study.__main__ import app
from benchmarks.study.bars import axis_limits, draw_bars, half_width
from benchmarks.study.curves import draw_curves, final_dice, seconds_an_iteration, time_to_reach
from benchmarks.study.declared import Hypothesis
from benchmarks.study.description import Schedule, Training, read_study
from benchmarks.study.folders import RESULTS, Folders
from benchmarks.study.overview import overview
from benchmarks.study.read_scale import scale_of
from benchmarks.study.records import (
    Record,
    _curve,
    _keep,
    _refuse_other_cases,
    is_finished,
    merge_records,
    read_records,
)
from benchmarks.study.report import write_report
from benchmarks.study.results_page import _reached, _speeds
from nnunet_xattnres.cli import app as package_app
from nnunet_xattnres.common.errors import UserError

COMMITTED = sorted(RESULTS.glob("*/*/cases.csv"))
STUDIES = sorted({path.parts[-3] for path in COMMITTED})


def mean_dice(study, folders, training):
    """Of one training, from the CSV file: the mean over the labels of the means over the cases."""
    with folders.dice.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["training"] == training.name]
    by_label = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(float(row["dice"]))
    return np.mean([np.mean(values) for values in by_label.values()])


def cells(page, *start):
    """Of the first line of a Markdown table that starts so, the further cells."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {' | '.join(start)} |"))
    return [cell.strip() for cell in line.strip("| ").split("|")][len(start) :]


# --- records


def test_seconds_do_not_count_while_a_training_is_interrupted():
    logged = {
        "epoch_start_timestamps": [100.0, 110.0, 5000.0],
        "epoch_end_timestamps": [110.0, 121.0, 5012.5],
        "dice_per_class_or_region": [[np.float32(0.0), np.float32(0.25)], [0.5, 0.5], [0.75, 0.5]],
    }
    curve = _curve(logged)
    assert [epoch["seconds"] for epoch in curve] == [10.0, 21.0, 33.5]
    assert curve[0]["dice"] == [0.0, 0.25]
    json.dumps(curve)


def test_records_are_read_in_the_studys_order_and_only_its_own(study, folders):
    for training in reversed(study.trainings()[:3]):
        write_a_record(study, folders, training)
    write_a_record(study, folders, Training("long", 7, PLAIN, 0))
    records = read_records(study, folders)
    assert [record.training for record in records] == study.trainings()[:3]
    assert list(records[0].dice) == CASES and list(records[0].dice[CASES[0]]) == ["organ", "duct"]


def test_a_record_of_other_settings_is_refused(study, folders):
    write_all_records(study, folders)
    with pytest.raises(UserError, match=r"trainings.jsonl has long-rep0.* with plans .*now says \{'batch_size': 4\}"):
        read_records(replace(study, plans={"batch_size": 4}), folders)


def test_a_record_of_another_device_is_refused(study, folders):
    """Mixed precision and other hardware are in no setting, and in the command alone."""
    write_all_records(study, folders)
    with pytest.raises(UserError, match=r"with command nnUNetv2_train 907 .* cpu, and little now says .*-device cuda"):
        read_records(replace(study, device="cuda"), folders)


def test_a_record_that_the_study_no_longer_has_is_named(study, folders):
    write_all_records(study, folders)
    assert "Not shown" not in write_report(study, folders).read_text()
    fewer = replace(study, schedules={**study.schedules, "long": replace(study.schedules["long"], repeats=1)})
    page = write_report(fewer, folders).read_text()
    left_out = "long-rep1-nnUNetTrainer-fold0, long-rep1-nnUNetTrainerXAttnRes-fold0"
    assert f"**Not shown**, for the study's file no longer has them: {left_out}." in page
    assert "Not complete" not in page


HEAD = "training,case,label,dice\n"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("dice", f"{HEAD}a,b,c,d\n", r"dice\.csv cannot be read \(ValueError: could not convert"),
        ("dice", f"{HEAD}a\n", r"dice\.csv cannot be read \(TypeError"),
        ("dice", "case\na\n", r"dice\.csv cannot be read \(KeyError"),
        (
            "dice",
            HEAD,
            r"trainings\.jsonl cannot be read \(ValueError: dice.csv has no Dice of long-rep0-nnU",
        ),
        ("records", '{"training": {}}\n', r"trainings\.jsonl cannot be read \(TypeError"),
        ("records", "{half a", r"trainings\.jsonl cannot be read \(JSONDecodeError"),
    ],
)
def test_damaged_records_are_named_and_nothing_is_written_over_them(study, folders, file, damage, message):
    write_all_records(study, folders)
    path = getattr(folders, file)
    path.write_text(damage)
    with pytest.raises(UserError, match=message + ".*run the study: it is trained again"):
        read_records(study, folders)
    with pytest.raises(UserError, match=message):
        _keep(folders, [])
    assert path.read_text() == damage


def test_what_is_kept_is_read_again_to_the_last_digit_and_nothing_gets_lost(study, folders):
    former = Training("long", 7, PLAIN, 0)  # of the study when it had more repeats
    for training in (*study.trainings(), former):
        write_a_record(study, folders, training)
    before, lines = read_records(study, folders), folders.records.read_text().splitlines()
    remove_records(folders, **asdict(before[0].training))
    new = replace(before[0], dice={case: {"organ": float("nan"), "duct": 1 / 3} for case in CASES})
    _keep(folders, [new, replace(before[1], dice={})])  # the second has a record, and keeps it
    after = read_records(study, folders)
    assert after[1:] == before[1:] and str(after[0].dice[CASES[0]]) == "{'organ': nan, 'duct': 0.3333333333333333}"
    assert sorted(lines) == sorted(folders.records.read_text().splitlines())
    assert f"\n{former.name}," in folders.dice.read_text()


def test_merging_takes_what_is_missing_and_leaves_the_rest(study, folders, tmp_path):
    theirs = Folders(folders.raw, folders.work, tmp_path / "theirs")
    first, *others = study.trainings()
    write_a_record(study, folders, first, level=0.1)
    write_all_records(study, theirs)
    mine = mean_dice(study, folders, first)
    assert merge_records(study, folders, theirs.results) == [training.name for training in others]
    assert mean_dice(study, folders, first) == mine != mean_dice(study, theirs, first)
    assert len(read_records(study, folders)) == len(study.trainings())
    assert all(record.routing for record in read_records(study, folders) if OURS in record.training.trainer)
    assert merge_records(study, folders, theirs.results) == []
    with pytest.raises(UserError, match="has no record of little"):
        merge_records(study, folders, tmp_path / "nowhere")


def test_merging_refuses_trainings_of_other_cases(study, folders, tmp_path):
    theirs = Folders(folders.raw, folders.work, tmp_path / "theirs")
    first, other, *_ = study.trainings()
    write_a_record(study, folders, first)
    write_a_record(study, theirs, other, cases=CASES[1:])
    before = folders.records.read_text()
    with pytest.raises(UserError, match=f"{other.name} was validated on other cases than {first.name}"):
        merge_records(study, folders, theirs.results)
    assert folders.records.read_text() == before


PLAN = {
    "batch_size": 9,
    "patch_size": [40, 56, 40],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["CTNormalization"],
    "intensities": {"0": [80.0, 140.0]},
}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"intensities": {"0": [80.4, 139.8]}}, None),  # another sum of the same voxels
        ({"batch_size": 7}, "with another batch_size (7 and not 9) than"),
        ({"intensities": {"0": [75.0, 90.0]}}, "with other intensities"),  # of volumes that were clipped
    ],
)
def test_records_by_another_plan_are_refused(study, folders, change, why):
    first, other, *_ = study.trainings()
    for training in (first, other):
        write_a_record(study, folders, training)
    name = asdict(other)
    rewrite_records(folders, lambda facts: facts | {"plan": PLAN | (change if facts["training"] == name else {})})
    records = read_records(study, folders)
    if why is None:
        _refuse_other_cases(records, folders.records)
    else:
        with pytest.raises(UserError, match=re.escape(why)):
            _refuse_other_cases(records, folders.records)


def test_records_with_other_cases_to_train_on_are_refused(study, folders):
    first, other, *_ = study.trainings()
    for training in (first, other):
        write_a_record(study, folders, training)
    name = asdict(other)
    rewrite_records(folders, lambda facts: facts | ({"training_cases": 99} if facts["training"] == name else {}))
    with pytest.raises(UserError, match=f"{other.name} was trained on other cases than {first.name}"):
        _refuse_other_cases(read_records(study, folders), folders.records)


def test_durations_are_those_of_the_machine_that_trained(study, folders):
    """Another may have written the record, and of two none knows how long an epoch takes."""
    first, *_ = study.trainings()
    write_a_record(study, folders, first)
    slow, fast = ({"gpu": gpu, "cpu": "some"} for gpu in ("RTX", "H200"))
    for starts, processor in (([slow], "RTX"), ([slow, fast], "RTX and H200"), ([], "some")):
        rewrite_records(folders, lambda facts, starts=starts: facts | {"starts": starts})
        assert read_records(study, folders)[0].processor == processor


def test_a_summary_that_was_cut_off_is_made_again(study, folders):
    first, *_ = study.trainings()
    fold = folders.fold(study, first)
    (fold / "validation").mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
    for text, finished in (('{"mean": {', False), ("{}", True)):
        (fold / "validation" / "summary.json").write_text(text)
        assert is_finished(study, folders, first) is finished


def test_merging_refuses_trainings_of_another_network(study, folders, tmp_path):
    """The same cases, converted to another size, have the same names, and may get a plan of more stages."""
    theirs = Folders(folders.raw, folders.work, tmp_path / "theirs")
    first, _, again, *_ = study.trainings()
    assert first.trainer == again.trainer
    write_a_record(study, folders, first)
    write_a_record(study, theirs, again)
    rewrite_records(theirs, lambda facts: facts | {"parameters": 2000})
    before = folders.records.read_text()
    with pytest.raises(UserError, match=f"{first.name} has 1000 parameters and {again.name} 2000|2000 .* 1000"):
        merge_records(study, folders, theirs.results)
    assert folders.records.read_text() == before


def test_records_that_are_kept_at_the_same_time_are_all_kept(study, folders, tmp_path):
    """By two runs with other work folders, or a run and a merge: each reads all, adds its own and writes all."""
    theirs = Folders(folders.raw, folders.work, tmp_path / "theirs")
    write_all_records(study, theirs)
    records = read_records(study, theirs)
    with ThreadPoolExecutor(len(records)) as pool:
        list(pool.map(lambda record: _keep(folders, [record]), records))
    assert read_records(study, folders) == records


@pytest.mark.parametrize("now", ["no hypothesis", "another", "one of two"])
def test_other_hypotheses_than_before_the_trainings_are_refused(study, folders, now):
    first = Hypothesis("it helps", "long", "final_dice", OURS, PLAIN, "welch")
    second = replace(first, words="it varies less", outcome="spread", test="brown_forsythe")
    declared = replace(study, hypotheses=(first, second))
    write_all_records(declared, folders)
    assert read_records(declared, folders)
    changed = {"no hypothesis": (), "another": (first, replace(second, words="more")), "one of two": (first,)}[now]
    with pytest.raises(UserError, match=r"with hypotheses 2, SHA-256 .*, and little now says"):
        read_records(replace(study, hypotheses=changed), folders)


# --- curves


def record_of(dice, seconds_an_epoch=2.0, trainer=PLAIN, machine="usual"):
    curve = [{"seconds": seconds_an_epoch * (i + 1), "dice": [d, d]} for i, d in enumerate(dice)]
    facts = {"settings": {"iterations": 10}, "curve": curve, "machine": {"cpu": machine, "gpu": None}}
    return Record(Training("long", 0, trainer, 0), {}, facts, [])


def test_time_to_reach_by_hand():
    slow, fast = record_of([0.0, 0.3, 0.6, 0.6, 0.9]), record_of([0.6, 0.6, 0.6, 0.9, 0.9], seconds_an_epoch=3.0)
    # the means of three epochs: 0, 0.15, 0.3, 0.5, 0.7 and 0.6, 0.6, 0.6, 0.7, 0.8
    assert final_dice([slow, fast]) == pytest.approx(0.75)
    assert time_to_reach([slow, fast], 0.69) == [50, 40]
    assert time_to_reach([slow, fast], 0.75) == [math.inf, 50]
    assert time_to_reach([slow, fast], 0.95) == [math.inf, math.inf]


def test_a_training_that_does_not_get_there_is_the_last_to_do_so(study):
    """Else what fewer trainings reach would seem to be reached sooner."""
    ends = [[0.2, 0.2, 0.2, 0.2, 0.2], [0.8] * 5, [0.2, 0.2, 0.8, 0.8, 0.8], [0.1] * 5]
    plain = record_of([0.5] * 5)  # 90% are 0.45

    def to_90(*of_trainings):
        ours = [record_of(dice, trainer=OURS) for dice in of_trainings]
        return _reached(study, {"long": {PLAIN: [plain], OURS: ours}})[1][1][3]

    assert to_90(*ends[:3]) == "40 (10 to never) / 0.1 min (2 of 3)"
    assert to_90(*ends) == "not reached in the median (2 of 4)"
    assert to_90(*ends[1:3]) == "25 (10 to 40) / 0.1 min"
    assert to_90(ends[0], ends[3]) == "not reached"


def test_the_usual_duration_of_an_iteration_is_not_that_of_a_busy_hour():
    quiet, busy = record_of([0.5] * 5), record_of([0.5] * 3)
    busy.facts["curve"][2]["seconds"] = 3600.0
    ours = record_of([0.5], seconds_an_epoch=3.0, trainer=OURS)
    night = record_of([0.5] * 7, seconds_an_epoch=9.0)  # all of it beside something else
    groups = {"long": {PLAIN: [quiet, night]}, "short": {PLAIN: [busy], OURS: [ours]}}
    processor, seconds = seconds_an_iteration(groups)
    assert processor == "usual" and seconds == {PLAIN: pytest.approx([0.2, 0.9, 0.2]), OURS: pytest.approx([0.3])}
    assert _speeds(groups) == f"on usual: {PLAIN} 0.20 (0.20 to 0.90), {OURS} 0.30 (0.30 to 0.30)"


def test_durations_of_two_machines_are_not_mixed(study, tmp_path):
    fast = [record_of([0.5] * 5, seconds_an_epoch=0.1, trainer=trainer, machine="fast") for trainer in (PLAIN, OURS)]
    usual = [record_of([0.5] * 5) for _ in range(3)]
    groups = {"long": {PLAIN: [fast[0], *usual], OURS: [fast[1]]}}
    assert seconds_an_iteration(groups) == ("usual", {PLAIN: pytest.approx([0.2] * 3)})
    draw_curves(groups, [PLAIN, OURS], tmp_path / "curves.png")
    head, (_, ours) = _reached(study, groups)
    assert head[-1] == "to 99%" and ours[-1] == "10"  # iterations, and no minutes of another machine


@pytest.mark.parametrize("mode", ["add", "replace", "gated"])
def test_the_scale_of_a_read_is_that_of_what_the_stages_take(mode):
    network = make_network(2, "plain conv", mode).eval()
    taken, given = {}, {}
    for s, stage in enumerate(network.encoder.stages, start=1):
        stage.register_forward_pre_hook(lambda _, args, s=s: taken.__setitem__(f"e{s}", args[0]))
        stage.register_forward_hook(lambda _, args, out, s=s: given.__setitem__(f"e{s}", out))
    for j, stage in enumerate(network.decoder.stages, start=1):
        stage.register_forward_pre_hook(lambda _, args, j=j: taken.__setitem__(f"d{j}", args[0]))
    scales = scale_of(network, [make_input(network)])
    assert list(scales) == ["e3", "e4", "d1", "d2", "d3"]
    for name, scale in scales.items():
        stage = int(name[1:])
        beside = given[f"e{stage - 1}" if name[0] == "e" else f"e{4 - stage}"]
        read = taken[name] if name[0] == "e" else taken[name][:, taken[name].shape[1] // 2 :]  # the skip half
        if mode == "gated" or (mode, name[0]) == ("add", "d"):
            read = read - beside
        assert scale == pytest.approx(float((read.square().mean() / beside.square().mean()).sqrt()), abs=1e-4)


def test_the_scale_of_emcads_reads_is_beside_the_encoders_map():
    """Of its decoder there is a stage more than of a U-Net's."""
    network, pools, outs = make_network(2, "own", "emcad_xattnres", "own").eval(), {}, {}

    def watch(name):
        def hook(_read, args, out):
            pools[name], outs[name] = args[0], out

        return hook

    for name, read in network.reads.items():
        read.register_forward_hook(watch(name))
    scales = scale_of(network, [make_input(network)])
    assert list(scales) == ["d3", "d2", "d1"]
    for name, scale in scales.items():
        beside = pools[name][int(name[1:]) - 1]  # x3, x2, x1
        assert beside.shape == outs[name].shape
        expected = float((outs[name].square().mean() / beside.square().mean()).sqrt())
        assert scale == pytest.approx(expected, abs=1e-4)


# --- reports


def test_results_md_has_the_numbers_of_the_records(study, folders):
    write_all_records(study, folders)
    page = write_report(study, folders).read_text()
    plain, ours = (
        [mean_dice(study, folders, t) for t in study.trainings() if (t.schedule, t.trainer) == ("long", trainer)]
        for trainer in (PLAIN, OURS)
    )
    assert cells(page, "long", PLAIN)[:2] == ["2", f"{np.mean(plain):.3f} ± {np.std(plain, ddof=1):.3f}"]
    repeats, dice, between, difference, over_repeats, over_cases = cells(page, "long", OURS)[:6]
    assert (repeats, dice) == ("2", f"{np.mean(ours):.3f} ± {np.std(ours, ddof=1):.3f}")
    assert between == f"{min(ours):.3f} to {max(ours):.3f}"
    assert difference == f"{np.mean(ours) - np.mean(plain):+.3f}"
    welch = stats.ttest_ind(ours, plain, equal_var=False).confidence_interval()
    assert over_repeats == f"{welch.low:+.3f} to {welch.high:+.3f} (?)"  # two repeats
    low, high = map(float, over_cases.split(" to "))
    assert low < np.mean(ours) - np.mean(plain) < high
    assert cells(page, "short", OURS)[:1] == ["1"]

    assert "Not complete" not in page and "everything" in page
    # the plain curve ends at the mean of 4/6, 5/6 and 6/6 of 0.5; ours has 0.6 in the place of 0.5
    reach = page[page.index("### Time to reach") :]
    end, to_90, to_95, to_99 = cells(reach, "long", PLAIN)
    assert (end, to_90, to_95, to_99) == ("0.417", *["60 (60 to 60) / 3.0 min"] * 3)
    end, to_90, *_ = cells(reach, "long", OURS)
    assert (end, to_90) == ("0.500", "50 (50 to 50) / 2.5 min")
    assert "| long | nnUNetTrainerXAttnRes | d1: e1 1.60 | d1 0.25 |" in page
    for file in ("curves.png", "long/comparison.png", "short/comparison.md"):
        assert (folders.results / file).stat().st_size > 500


def test_results_md_names_where_trainings_began_and_not_only_where_they_ended(study, folders):
    write_all_records(study, folders)
    assert write_report(study, folders).read_text().count("commit some (noted after the training)") == 1

    def went_on(facts):
        starts = [facts["machine"] | {"commit": commit, "threads": 3} for commit in ("begun", "resumed")]
        return facts | {"starts": [] if facts["training"]["schedule"] == "short" else starts}

    rewrite_records(folders, went_on)
    page = write_report(study, folders).read_text()
    lines = [line.partition("commit ")[2] for line in page.splitlines() if line.startswith("- some; some")]
    assert sorted(lines) == [
        "begun, threads of a training: 3", "resumed, threads of a training: 3", "some (noted after the training)",
    ]  # fmt: skip


def test_the_cost_is_that_of_the_processor_that_ran_most(study, folders):
    write_all_records(study, folders)

    def slower(facts):
        if facts["training"] == asdict(study.trainings()[0]):
            facts["machine"]["cpu"] = "another"
            facts["curve"] = [{**epoch, "seconds": 7 * epoch["seconds"]} for epoch in facts["curve"]]
        return facts

    rewrite_records(folders, slower)
    write_report(study, folders)
    page = (folders.results / "long" / "comparison.md").read_text()
    assert f"| {PLAIN} | 1,000 | 30.0 |" in page and f"| {OURS} | 1,000 | 30.0 |" in page


def test_compare_makes_the_same_tables_from_the_cases(study, folders, tmp_path):
    write_all_records(study, folders)
    write_report(study, folders)
    for schedule in ("long", "short"):
        assert_compare_agrees(folders.results / schedule, tmp_path / schedule)


def assert_compare_agrees(folder, out):
    result = CliRunner().invoke(package_app, ["compare", "--cases", str(folder / "cases.csv"), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert_same_cells(out / "comparison.csv", folder / "comparison.csv")


def assert_same_cells(file, other):
    (found, numbers), (expected, expected_numbers) = map(read_cells, (file, other))
    assert found == expected
    assert numbers == pytest.approx(expected_numbers, rel=1e-9, abs=1e-12, nan_ok=True)  # versions of numpy differ


def read_cells(file):
    """A table's words and its numbers, each by row and column."""
    words, numbers = {}, {}
    with file.open(newline="") as lines:
        for i, row in enumerate(csv.DictReader(lines)):
            for name, cell in row.items():
                try:
                    numbers[i, name] = float(cell)
                except ValueError:
                    words[i, name] = cell
    return words, numbers


def test_a_study_that_is_not_complete_says_so(study, folders):
    assert write_report(study, folders) is None
    write_a_record(study, folders, study.trainings()[0])
    page = write_report(study, folders).read_text()
    assert "Not complete: 1 of 6 trainings" in page and not (folders.results / "long").exists()
    write_a_record(study, folders, study.trainings()[1])
    assert "**Not complete: 2 of 6 trainings.**" in write_report(study, folders).read_text()
    assert (folders.results / "long" / "comparison.csv").is_file()


def test_only_repeats_with_all_folds_are_compared(study, folders):
    study = replace(study, folds=(0, 1))
    for training in study.trainings():
        if (training.repeat, training.fold) != (1, 1):
            write_a_record(study, folders, training, cases=CASES[training.fold :: 2])
    assert "Not complete: 10 of 12" in write_report(study, folders).read_text()
    with (folders.results / "long" / "cases.csv").open(newline="") as file:
        runs = {(row["run"], row["fold"]) for row in csv.DictReader(file)}
    assert runs == {("rep0", "0"), ("rep0", "1")}


def rotating(study):
    schedules = {"long": Schedule(6, 10, 2, repeats=7), "twice": Schedule(12, 10, 2, repeats=2, trainers=(PLAIN,))}
    return replace(study, folds=(0, 1), rotate_folds=True, schedules=schedules)


def test_of_folds_that_rotate_rounds_are_compared_and_repeats_are_the_spread(study, folders, tmp_path):
    study = rotating(study)
    trainings = study.trainings()
    for i, training in enumerate(trainings):
        write_a_record(study, folders, training, 0.3 + 0.01 * i, CASES[training.fold :: 2])
    page = write_report(study, folders).read_text()
    with (folders.results / "long" / "cases.csv").open(newline="") as file:
        runs = {(row["run"], row["fold"]) for row in csv.DictReader(file)}
    assert runs == {
        (run, fold) for run in ("round0", "round1", "round2") for fold in "01"
    }  # the seventh is half of one
    assert "Each run here is a round over the folds: 2" in (folders.results / "long" / "comparison.md").read_text()
    plain, ours, alone = (
        [mean_dice(study, folders, t) for t in trainings if (t.schedule, t.trainer) == pair]
        for pair in (("long", PLAIN), ("long", OURS), ("twice", PLAIN))
    )
    assert (len(plain), len(ours), len(alone)) == (7, 7, 2)
    plain, ours = plain[:6], ours[:6]  # so that the mean, the spread and both intervals are of the same trainings
    assert cells(page, "long", PLAIN)[0] == "6" and f"± {np.std(plain, ddof=1):.3f}" in cells(page, "long", PLAIN)[1]
    repeats, dice, between, _, over_repeats, _ = cells(page, "long", OURS)
    welch = stats.ttest_ind(ours, plain, equal_var=False).confidence_interval()
    assert (repeats, over_repeats) == ("6", f"{welch.low:+.3f} to {welch.high:+.3f}")
    assert dice.endswith(f"± {np.std(ours, ddof=1):.3f}") and between == f"{min(ours):.3f} to {max(ours):.3f}"
    line = cells(overview([(study, folders)], tmp_path / "study.png"), "little", "60", f"`{OURS}`")
    assert (line[0], line[1], line[3]) == (dice, between, over_repeats)

    assert "The folds rotate" in page
    assert cells(page, "twice", PLAIN)[:3] == [
        "2",
        f"{np.mean(alone):.3f} ± {np.std(alone, ddof=1):.3f}",
        f"{min(alone):.3f} to {max(alone):.3f}",
    ]
    assert not (folders.results / "twice").exists()  # there is nothing to compare


@pytest.mark.parametrize("repeats", [1, 2, 12])
@pytest.mark.parametrize(("gain", "sure"), [(0.0, True), (-0.05, True), (0.05, True), (0.01, False)])
def test_longer_trainings_say_whether_the_others_have_converged(study, folders, gain, sure, repeats):
    end, longer = Schedule(6, 10, 2, repeats=12), Schedule(12, 10, 2, repeats=repeats, trainers=(PLAIN,))
    study = replace(study, schedules={"end": end, "twice": longer, "short": replace(longer, epochs=3)})
    for training in study.trainings():
        level = {"end": 0.6, "twice": 0.6 + gain, "short": 0.5}[training.schedule]
        write_a_record(study, folders, training, level)
    page = write_report(study, folders).read_text()
    end, twice = (
        [mean_dice(study, folders, t) for t in study.trainings() if (t.schedule, t.trainer) == (name, PLAIN)]
        for name in ("end", "twice")
    )
    assert page.count("**Converged?**") == 1  # a shorter training says nothing
    assert f"{PLAIN}'s Dice is {np.mean(twice):.3f} after 120 iterations (repeats: {repeats}) and " in page
    change, interval = np.mean(twice) - np.mean(end), ""
    if repeats > 1:
        low, high = stats.ttest_ind(twice, end, equal_var=False).confidence_interval()
        interval = f" (95% over repeats, Welch's t: {low:+.3f} to {high:+.3f}{' (?)' if repeats < 5 else ''})"
        sure = sure and (low > 0.01 or high < -0.01 or (low > -0.01 and high < 0.01))  # two repeats may be far apart
    assert f"a change of {change:+.3f}{interval}. By our rule, a change of less than 0.01, " in page
    verdict = "converged" if abs(change) < 0.01 else "not converged"
    doubt = "" if sure and repeats > 1 else "; so few repeats leave the other answer open, too"
    assert f"its training has {verdict} after 60 iterations{doubt}. The other" in page


def test_the_picture_has_a_point_for_every_repeat(study, folders, tmp_path, monkeypatch):
    study = rotating(study)
    for training in study.trainings():
        write_a_record(study, folders, training, 0.5, CASES[training.fold :: 2])
    drawn = []
    monkeypatch.setattr("benchmarks.study.overview._draw", lambda panels, path: drawn.extend(panels))
    overview([(study, folders)], tmp_path / "study.png")
    ((title, values),) = drawn
    assert title == "little\n60 iterations"
    assert values == {
        trainer: pytest.approx(
            [mean_dice(study, folders, t) for t in study.trainings() if (t.schedule, t.trainer) == ("long", trainer)]
        )
        for trainer in (PLAIN, OURS)
    }


def test_the_overview_takes_the_longest_schedule(study, folders, tmp_path):
    write_all_records(study, folders)
    table = overview([(study, folders)], tmp_path / "study.png")
    plain = [mean_dice(study, folders, t) for t in study.trainings() if (t.schedule, t.trainer) == ("long", PLAIN)]
    assert cells(table, "little", "60", f"`{PLAIN}`")[0] == f"{np.mean(plain):.3f} ± {np.std(plain, ddof=1):.3f}"
    assert len(table.splitlines()) == 4 and (tmp_path / "study.png").stat().st_size > 1000
    with pytest.raises(UserError, match="nothing to compare yet"):
        overview([(study, Folders(folders.raw, folders.work, tmp_path / "empty"))], None)


def test_figure_1_has_the_longest_schedule_and_its_intervals(study, folders, tmp_path, monkeypatch):
    write_all_records(study, folders)
    drawn = []
    monkeypatch.setattr("benchmarks.study.overview.draw_bars", lambda panels, path: drawn.extend(panels))
    overview([(study, folders)], None, tmp_path / "figure1.png")
    ((title, values),) = drawn
    assert title.startswith("little") and list(values) == [PLAIN, OURS]
    for trainer, found in values.items():
        trainings = [t for t in study.trainings() if (t.schedule, t.trainer) == ("long", trainer)]
        assert found == pytest.approx([mean_dice(study, folders, t) for t in trainings])
    draw_bars(drawn, tmp_path / "figure1.pdf")
    assert (tmp_path / "figure1.pdf").read_bytes().startswith(b"%PDF")
    interval = stats.t.interval(0.95, 2, np.mean([0.7, 0.8, 0.85]), stats.sem([0.7, 0.8, 0.85]))
    assert half_width([0.7, 0.8, 0.85]) == pytest.approx((interval[1] - interval[0]) / 2) and half_width([0.7]) == 0
    low, high = axis_limits([0.8, 0.9], [0.01, 0.02])
    assert 0 < low < 0.79 and 0.92 < high <= 1 and axis_limits([0.1, 0.9], [0, 0]) == (0, pytest.approx(0.98))


# --- what is committed


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parts[-3]}-{path.parts[-2]}")
def test_compare_makes_the_committed_tables_again(path, tmp_path):
    assert_compare_agrees(path.parent, tmp_path)


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_report_comes_again_from_the_records(name, tmp_path, monkeypatch):
    for drawing in ("benchmarks.study.report.draw_curves", "nnunet_xattnres.commands.compare.draw"):
        monkeypatch.setattr(drawing, lambda *_: None)
    study, folders = read_study(RESULTS.parent / f"{name}.yaml"), Folders(tmp_path, tmp_path, tmp_path / name)
    folders.results.mkdir()
    for file in ("trainings.jsonl", "dice.csv"):
        shutil.copy(RESULTS / name / file, folders.results)
    write_report(study, folders)
    made, committed = (
        {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix in (".md", ".csv")}
        for folder in (folders.results, RESULTS / name)
    )
    assert made.keys() == committed.keys()
    for path in made:
        if path.suffix == ".md":
            assert made[path].read_text() == committed[path].read_text()
        else:
            assert_same_cells(made[path], committed[path])


def test_the_tables_of_the_documentation_are_those_of_the_studies():
    lines = set()
    for name in STUDIES:
        result = CliRunner().invoke(app, ["overview", str(RESULTS.parent / f"{name}.yaml")])
        assert result.exit_code == 0 and "| `nnUNetTrainer` |" in result.output, result.output
        lines |= {*result.output.splitlines(), *(RESULTS / name / "RESULTS.md").read_text().splitlines()}
    page = (RESULTS.parents[2] / "docs" / "results.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) > 10 and [line for line in table if line not in lines] == []
