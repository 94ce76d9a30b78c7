"""Which trainings are meant, and what is said where there are none."""

import csv

import pytest
from helpers.trainings import A, B, compared, dice_of, invoke, write_fold

from nnunet_xattnres.commands.repeat import write_repeats
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.find import find_models


@pytest.fixture
def folder(results):
    """Model folders, by their names."""

    def make(*names, configuration="2d"):
        for name in names:
            (results / f"{name.replace('/', '__')}__{configuration}").mkdir()
        return results

    return make


def found(results, trainers, plans=("nnUNetPlans",), configuration="2d"):
    models = find_models(results, configuration, trainers, plans)
    return {name: [path.name.split("__")[1] for path in paths] for name, paths in models}


def message_of(*arguments, **named):
    with pytest.raises(UserError) as caught:
        found(*arguments, **named)
    return str(caught.value)


def test_plans_stand_for_their_repeats_in_the_order_of_their_numbers(folder):
    results = folder(*(f"{t}/P{repeat}" for t in (A, B) for repeat in ("_rep10", "_rep2", "", "_rep1")))
    assert found(results, [A, B], ["P"]) == {t: ["P", "P_rep1", "P_rep2", "P_rep10"] for t in (A, B)}


def test_a_repeat_that_is_named_stands_for_itself(folder):
    results = folder(*(f"{t}/P{repeat}" for t in (A, B) for repeat in ("", "_rep1", "_rep2")))
    assert found(results, [A, B], ["P_rep1"]) == {A: ["P_rep1"], B: ["P_rep1"]}
    assert found(results, [A], ["P_rep2", "P_rep1"]) == {"P_rep2": ["P_rep2"], "P_rep1": ["P_rep1"]}
    assert "P stands for all its repeats, P_rep2 among them" in message_of(results, [A], ["P", "P_rep2"])
    assert "on P, P_rep1, P_rep2" in message_of(results, [A], ["P_rep7"])


def test_the_numbers_are_those_of_the_named_repeat(results, tmp_path):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "nnUNetPlans.json").write_text('{"plans_name": "nnUNetPlans", "configurations": {}}')
    names = ["nnUNetPlans", *(path.stem for path in write_repeats(tmp_path / "plans", "nnUNetPlans", 2))]
    for trainer in (A, B):
        for i, plans in enumerate(names):
            write_fold(results, trainer, 0, dice_of(10 * i + (trainer == B)), plans=plans)
    compared(tmp_path, "-tr", A, B, "-p", names[1])
    with (tmp_path / "out" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {f"{trainer}__nnUNetPlans_rep1__2d" for trainer in (A, B)}
    dice = {(row["model"], row["case"]): float(row["dice"]) for row in rows if row["label"] == "anterior"}
    assert dice[B, "case_03.nii.gz"] == dice_of(11)["case_03"][0]


def write_folds(results, trainer, *folds, n=4, better=0.0):
    """Fold ``all`` has the cases of folds 0 and 1, and is perfect."""
    of_fold = {str(i): {f"f{i}_{case}": row for case, row in dice_of(i, n, better).items()} for i in (0, 1)}
    of_fold["all"] = {case: [1.0, 1.0] for dice in of_fold.values() for case in dice}
    for fold in folds:
        write_fold(results, trainer, fold, of_fold[fold])


def test_fold_all_is_left_out_beside_others(results, tmp_path):
    write_folds(results, A, "0", "1", "all")
    write_folds(results, B, "0", "1", "all", better=0.05)
    rows, screen = compared(tmp_path, "-tr", A, B)
    assert 'Fold "all"' not in screen and float(rows[B, "mean"]["difference"]) > 0
    assert rows == compared(tmp_path, "-tr", A, B, "-f", 0, 1)[0] != compared(tmp_path, "-tr", A, B, "-f", "all")[0]


def test_fold_all_where_there_is_no_other_in_common(results, tmp_path):
    write_folds(results, A, "0", "all")
    write_folds(results, B, "all")
    rows, screen = compared(tmp_path, "-tr", A, B)
    assert 'Fold "all" is validated on the cases that it was trained on' in " ".join(screen.split())
    assert float(rows[B, "mean"]["dice"]) == 1


def test_folds_that_not_all_have_are_named_with_the_folder_that_lacks_them(results, tmp_path):
    folds = {(A, ""): (0, 1, 3), (A, "_rep1"): (0, 1, 3), (B, ""): (0, 1, 2, 3), (B, "_rep1"): (0, 2)}
    for (trainer, repeat), there in folds.items():
        for fold in there:
            cases = {f"f{fold}_{case}": row for case, row in dice_of(fold, 4).items()}
            write_fold(results, trainer, fold, cases, plans=f"nnUNetPlans{repeat}")
    _, screen = compared(tmp_path, "-tr", A, B)
    page, text = ((tmp_path / "out" / name).read_text() for name in ("comparison.html", "comparison.md"))
    one = f"Fold 1, 3 left out: not validated in {B}__nnUNetPlans_rep1__2d."
    other = f"Fold 2 left out: not validated in {A}__nnUNetPlans__2d, {A}__nnUNetPlans_rep1__2d."
    screen = " ".join(screen.split())
    assert all(note in of for note in (one, other) for of in (screen, page, text))
    assert "4 cases of fold 0 " in screen
    _, screen = compared(tmp_path, "-tr", A, B, "-f", 0)
    assert "left out" not in screen


def write_runs(results, runs):
    """``runs``: the folds of each trainer on each repeat of the plans."""
    for (trainer, repeat), folds in runs.items():
        (results / f"{trainer}__nnUNetPlans{repeat}__2d" / "fold_0").mkdir(parents=True)
        for fold in folds:
            cases = {f"f{fold}_{case}": row for case, row in dice_of(fold, 4).items()}
            write_fold(results, trainer, fold, cases, plans=f"nnUNetPlans{repeat}")


@pytest.mark.parametrize("arguments", [(), ("-f", 0, 1)])
def test_a_repeat_that_has_only_begun_does_not_hold_up_the_others(results, tmp_path, arguments):
    write_runs(results, {(A, ""): (0, 1), (B, ""): (), (B, "_rep1"): (0, 1), (B, "_rep2"): (0, 1)})
    _, screen = compared(tmp_path, "-tr", A, B, *arguments)
    note = f"Left out: {B}__nnUNetPlans__2d, without any validated fold. To have it, too, finish it."
    assert note in " ".join(screen.split()) and note in (tmp_path / "out" / "comparison.md").read_text()
    assert "8 cases of fold 0, 1" in " ".join(screen.split())
    with (tmp_path / "out" / "cases.csv").open() as file:
        runs = {row["run"] for row in csv.DictReader(file)}
    assert runs == {f"{A}__nnUNetPlans__2d", f"{B}__nnUNetPlans_rep1__2d", f"{B}__nnUNetPlans_rep2__2d"}


def test_a_repeat_that_holds_up_the_others_is_named(results, tmp_path):
    write_runs(results, {(A, ""): (0, 1), (B, ""): (0, 1), (B, "_rep1"): (0,)})
    _, screen = compared(tmp_path, "-tr", A, B)
    way_out = "; or, to compare without a repeat, move it out of nnUNet_results: "
    note = f"Fold 1 left out: not validated in {B}__nnUNetPlans_rep1__2d. Train it there"
    assert note in " ".join(screen.split()) and f"to have it, too{way_out}{B}__nnUNetPlans_rep1__2d." in " ".join(
        screen.split()
    )
    write_runs(results, {(B, "_rep2"): (2,)})
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and f"{B}__nnUNetPlans_rep2__2d: 2. Train a fold in all of them" in text
    assert text.endswith(way_out + ", ".join(f"{B}__nnUNetPlans{repeat}__2d" for repeat in ("", "_rep1", "_rep2")))


def test_a_model_that_has_only_begun_is_named(results, tmp_path):
    write_runs(results, {(A, ""): (0,), (B, ""): ()})
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and text.endswith(f"{B}__nnUNetPlans__2d: none. Train a fold in all of them")


def test_a_case_in_two_folds_is_refused(results, tmp_path):
    for trainer in (A, B):
        write_folds(results, trainer, "0", "1", "all")
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "-f", 1, "all")
    said = f"{A}__nnUNetPlans__2d: f1_case_00.nii.gz was validated in fold 1 and in fold all: name folds with -f that"
    assert done.exit_code == 1 and said in " ".join(done.output.split()) and not (tmp_path / "out").exists()


def test_the_forgotten_plans_are_named(folder):
    results = folder(f"{A}/Big", f"{B}/Big")
    assert message_of(results, [A, B]).endswith(f"but of {A} on Big; {B} on Big: add -p Big")
    results = folder(f"{A}/Small")
    assert message_of(results, [A, B]).endswith("add -p Big")  # that both have
    assert message_of(results, [A]).endswith("add -p Big or -p Small")


def test_the_plans_that_fit_are_kept(folder):
    results = folder(f"{A}/nnUNetPlans", f"{B}/Big_rep1")
    assert message_of(results, [A, B]).endswith(f"but of {B} on Big_rep1: add -p nnUNetPlans Big")
    assert found(results, [A, B], ["nnUNetPlans", "Big"]) == {
        f"{A}, nnUNetPlans": ["nnUNetPlans"],
        f"{B}, Big": ["Big_rep1"],
    }


def test_trainings_on_plans_that_differ(folder):
    results = folder(f"{A}/One", f"{B}/Two")
    assert message_of(results, [A, B]).endswith("add -p One Two")


def test_as_a_user_sees_it(results, tmp_path):
    for trainer in (A, B):
        write_fold(results, trainer, 0, dice_of(0), plans="nnUNetResEncUNetMPlans")
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B)
    assert done.exit_code == 1 and "add -p nnUNetResEncUNetMPlans" in done.output and done.output.count("\n") == 1
    done = invoke(tmp_path, "-d", 4, "-c", "2", "-tr", A, B)
    assert done.exit_code == 1 and "there is: 2d. Did you mean 2d?" in done.output
    compared(tmp_path, "-tr", A, B, "-p", "nnUNetResEncUNetMPlans")


def test_the_configurations_that_there_are(folder):
    folder(f"{A}/nnUNetPlans", configuration="3d_fullres")
    results = folder(f"{A}/nnUNetPlans", f"{B}/nnUNetPlans")
    (results / "notes__of__mine.txt").write_text("no model folder")
    assert message_of(results, [A, B], configuration="3d_ful") == (
        f"{results} has no results of the configuration '3d_ful'; there is: 2d, 3d_fullres. Did you mean 3d_fullres?"
    )
    assert "there is: 2d, 3d_fullres" in message_of(results, [A, B], configuration="*")


def test_nothing_at_all(results):
    assert message_of(results, [A]).endswith("has no results of the configuration '2d'; there is: nothing")


def test_a_misspelled_trainer_and_misspelled_plans(folder):
    results = folder(f"{A}/nnUNetPlans", f"{B}/nnUNetPlans")
    assert message_of(results, [A, "nnUNetTrainerXAtnRes"]).endswith(f"there is: {A}, {B}. Did you mean {B}?")
    assert message_of(results, [A], ["nnUNetPlan", "nnUNetPlans"]).endswith("Did you mean nnUNetPlans?")


def test_two_folders_of_one_name(tmp_path):
    done = invoke(tmp_path, "--predictions", "a=x", "b=y", "a=z", "--labels", tmp_path)
    assert done.exit_code == 1 and "--predictions a=z: a is x already" in done.output
