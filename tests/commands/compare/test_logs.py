"""What nnU-Net's logs say, in the order in which they were written."""

import math

import pytest
from helpers.trainings import A, B, compared, dice_of, invoke, log_of, write_fold

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.results import folds_of, read_run
from nnunet_xattnres.nnunet.training_log import read_log

SPLIT = "2026: This split has {} training and 5 validation cases. \n"


def write_logs(folder, **texts):
    folder.mkdir(exist_ok=True)
    for date, text in texts.items():
        (folder / f"training_log_{date.lstrip('_')}.txt").write_text(text)
    return read_log(folder)


def test_the_ninth_of_november_is_before_the_tenth_and_september_before_october(tmp_path):
    for earlier, later in (
        ("_2026_11_9_10_00_00", "_2026_11_10_08_00_00"),
        ("_2026_9_30_10_00_00", "_2026_10_1_10_00_00"),
        ("_2026_11_9_09_00_00", "_2026_11_9_10_00_00"),
        ("_2026_12_31_10_00_00", "_2027_1_1_10_00_00"),
    ):
        log = write_logs(tmp_path / earlier, **{later: SPLIT.format(38), earlier: SPLIT.format(40)})
        assert log.n_training_cases == 38, (earlier, later)


def test_a_training_that_was_taken_up_has_each_epoch_once(tmp_path):
    log = write_logs(
        tmp_path,
        _2026_11_9_10_00_00=log_of(range(8), dice=0.25, seconds=20.0) + "2026: Epoch 8 \n2026: Current learning",
        _2026_11_10_10_00_00=log_of(range(5, 10), dice=0.75, seconds=10.0),
        _2026_11_11_10_00_00="2026: predicting case_1 \n2026: Mean Validation Dice:  0.9 \n",  # --val
    )
    assert list(log.epochs) == list(range(10))
    assert [epoch.dice for epoch in log.epochs.values()] == [0.25] * 5 + [0.75] * 5
    assert [epoch.seconds for epoch in log.epochs.values()] == [20.0] * 5 + [10.0] * 5
    assert log.epochs[9].train_loss == -0.75 and log.epochs[9].val_loss == 0.25


@pytest.mark.parametrize(
    ("written", "dice"),
    [
        ("[np.float32(0.8317), np.float32(0.8265)]", 0.8291),
        ("[0.8317, 0.8265]", 0.8291),
        ("[np.float32(nan), np.float32(0.5)]", 0.5),
        ("[nan, 0.5]", 0.5),
        ("[np.float64(1e-05)]", 1e-5),
        ("[nan]", math.nan),
        ("[]", math.nan),
    ],
)
def test_the_pseudo_dice_by_numpy_1_and_2(tmp_path, written, dice):
    log = write_logs(tmp_path, _2026_1_1_0_0_0=f"2026: Epoch 0 \n2026: Pseudo dice {written} \n2026: train_loss nan \n")
    assert log.epochs[0].dice == pytest.approx(dice, nan_ok=True) and math.isnan(log.epochs[0].train_loss)


def test_a_split_that_nnunet_made_itself(tmp_path):
    text = "2026: This random 80:20 split has 160 training and 40 validation cases. \n"
    assert write_logs(tmp_path, _2026_1_1_0_0_0=text).n_training_cases == 160


@pytest.mark.parametrize(
    ("line", "parameters"),
    [
        ("plain network 2,000, reads 345 (+17.25%)", 2345),
        ("plain network 2,000, reads 345 (+17.25%), this network 1,900 (-5.00%)", 1900),
        ("plain network 2,000, this network 1,234,567 (+5.00%)", 1234567),
        ("of another kind", None),
    ],
)
def test_the_parameters_as_our_trainers_log_them(tmp_path, line, parameters):
    earlier = "2026: Parameters: plain network 9, reads 9 (+100%) \n"
    text = f"{earlier}2026: Parameters: {line} \n" if parameters else f"2026: Parameters: {line} \n"
    assert write_logs(tmp_path, _2026_1_1_0_0_0=text).parameters == parameters


def test_no_log_and_one_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"^there is no training_log_\*\.txt$"):
        read_log(tmp_path)
    (tmp_path / "training_log_2026_1_1_0_0_0.txt").mkdir()
    with pytest.raises(UserError, match=r"^training_log_2026_1_1_0_0_0\.txt cannot be read: Is a directory$"):
        read_log(tmp_path)


def logs_of(model, fold=0):
    return list((model / f"fold_{fold}").glob("training_log_*.txt"))


def test_where_a_log_is_missing_the_comparison_says_so_and_goes_on(results, tmp_path):
    for trainer in (A, B):
        for fold in (0, 1):
            dice = {f"f{fold}_{case}": row for case, row in dice_of(fold).items()}
            model = write_fold(results, trainer, fold, dice)
    for fold in (0, 1):
        logs_of(model, fold)[0].unlink()
    _, screen = compared(tmp_path, "-tr", A, B)
    said = (
        f"{B}__nnUNetPlans__2d, fold 0, 1: not known: the number of training cases, the seconds of an epoch, the "
        f"learning curve (there is no training_log_*.txt)."
    )
    assert said in " ".join(screen.split())
    assert f"| {B} | 25 | not known | not known |" in (tmp_path / "out" / "comparison.md").read_text()
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert said in page and "Learning curves" in page


def test_what_is_not_known_of_the_first_is_still_compared_between_the_others(results, tmp_path):
    logs_of(write_fold(results, A, 0, dice_of(0)))[0].unlink()
    write_fold(results, B, 0, dice_of(1), n_training=40)
    write_fold(results, "nnUNetTrainerOther", 0, dice_of(2), n_training=39)
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "nnUNetTrainerOther")
    assert done.exit_code == 1 and done.output.rstrip().endswith("all the same: --allow splits"), done.output
    assert "fold 0 is 40 in" in done.output and "39 in nnUNetTrainerOther" in done.output


def test_a_log_of_another_training_than_the_checkpoint(results):
    model = write_fold(results, A, 0, dice_of(0), epochs=5)
    logs_of(model)[0].with_name("training_log_2026_1_2_00_00_00.txt").write_text(log_of(range(2)))  # begun anew
    fold = read_run(model, ["0"]).folds["0"]
    assert (fold.epochs, fold.epoch_seconds, fold.curve) == (5, None, {})
    assert "the log ends after 2 epochs, checkpoint_final.pth after 5: the log's epochs are left out" in fold.gaps


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"num_iterations_per_epoch": "many"}'])
def test_a_damaged_debug_json_is_no_reason_to_stop(results, content):
    model = write_fold(results, A, 0, dice_of(0))
    (model / "fold_0" / "debug.json").write_text(content)
    fold = read_run(model, ["0"]).folds["0"]
    assert fold.iterations is None and "the iterations of an epoch (debug.json" in fold.gaps


def test_fold_ten_is_after_fold_two(results, tmp_path):
    for trainer in (A, B):
        for fold in (10, 2, "all"):
            model = write_fold(results, trainer, fold, {f"f{fold}_{c}": row for c, row in dice_of(3, 4).items()})
    assert folds_of(model) == ["2", "10", "all"]
