"""The studies: what they ask for, and what nnU-Net is told of it. No training runs here."""

import inspect
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import make_plans
from helpers.study import CASES, OURS, PLAIN, rewrite_records, write_a_record
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import benchmarks.study
from benchmarks.study.declared import Hypothesis
from benchmarks.study.description import Schedule, read_study
from benchmarks.study.folders import PLANS, class_name, plans_name
from benchmarks.study.preparation import prepare, refuse_other_data
from benchmarks.study.records import plan_of, read_records
from benchmarks.study.scheduled import TRAINERS
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json, write_json

HERE = Path(benchmarks.study.__file__).parent
STUDIES = sorted(HERE.glob("*.yaml"))


# --- what a study asks for


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_described_studies_can_run(path):
    study = read_study(path)
    asked = {training.trainer for training in study.trainings()}
    assert {PLAIN, OURS, f"{OURS}Replace"} <= asked <= TRAINERS.keys()
    if "-full" in study.name or study.name.endswith("-small"):
        assert {f"{OURS}Gated", "nnUNetTrainerNoSkip"} <= asked
    if study.name.startswith("paper-"):
        assert study.trainings() and study.device == "cuda" and not study.plans
    elif "-full" in study.name:
        assert (study.device, study.plans, len(study.folds), study.mirroring) == ("cuda", None, 5, True)
    else:
        assert study.device == "cpu" and study.plans and not study.mirroring
        compared = [schedule for name, schedule in study.schedules.items() if len(study.trainers_of(name)) > 1]
        assert compared and all(schedule.repeats >= 3 for schedule in compared)
    if study.name in ("hippocampus-reliable", "hippocampus-end"):  # hippocampus-small again, with more of it
        small = read_study(HERE / "hippocampus-small.yaml")
        assert (study.dataset, study.configuration, study.plans) == (small.dataset, small.configuration, small.plans)


def test_the_grid_of_the_paper_is_the_same_on_its_four_data_sets():
    studies = {path.stem: read_study(path) for path in STUDIES if path.stem.startswith("paper-")}
    assert {name: study.dataset for name, study in studies.items()} == {
        "paper-synapse": "Dataset950_SynapseCT",
        "paper-colondb": "Dataset951_CVCColonDB",
        "paper-clinicdb": "Dataset952_CVCClinicDB",
        "paper-isic2017": "Dataset953_ISIC2017",
    }
    ours = ("", "XAttnRes", "XAttnResReplace", "NoSkip", "EMCAD", "EMCADXAttnRes", "UNet3Plus", "UCTransNet")
    for study in studies.values():
        assert study.trainers == tuple(f"nnUNetTrainer{name}" for name in ours)
        assert [(h.trainer, h.against) for h in study.hypotheses[:2]] == [
            (OURS, PLAIN),
            ("nnUNetTrainerEMCADXAttnRes", "nnUNetTrainerEMCAD"),
        ]
        assert replace(study, name="", dataset="") == replace(studies["paper-synapse"], name="", dataset="")


def test_the_study_of_reliability_is_as_declared():
    study = read_study(HERE / "hippocampus-reliable.yaml")
    length = {name: schedule.epochs * schedule.iterations for name, schedule in study.schedules.items()}
    assert length == {"long": 1500, "medium": 750}
    assert {study.schedules[name].repeats for name in length} == {10}
    replace_alone, double = f"{OURS}Replace", "nnUNetTrainerDoubleLR"
    assert [(h.schedule, h.outcome, h.trainer, h.against, h.test) for h in study.hypotheses] == [
        ("medium", "final_dice", OURS, PLAIN, "mann_whitney"),
        ("long", "iterations_to_90", replace_alone, PLAIN, "mann_whitney"),
        ("long", "iterations_to_90", replace_alone, double, "mann_whitney"),
        ("long", "iterations_to_90", f"{replace_alone}DoubleLR", double, "mann_whitney"),
        ("long", "spread", replace_alone, PLAIN, "brown_forsythe"),
        ("long", "final_dice", replace_alone, PLAIN, "welch"),
    ]
    trainings = study.trainings()
    assert len(trainings) == 10 * (5 + 4)
    assert [t.fold for t in trainings[::9]] == [0, 1, 2, 3, 4] * 2  # stopped early, it has something of every trainer
    assert {t.repeat for t in trainings[:9]} == {0} and {t.fold for t in trainings[:9]} == {0}
    assert all("ReplaceDoubleLR" not in t.trainer for t in trainings if t.schedule == "medium")


@pytest.mark.parametrize(("name", "iterations"), [("hippocampus-end", 5000), ("isic2017-end", 4000)])
def test_the_studies_of_the_end_check_it_with_twice_the_iterations(name, iterations):
    study = read_study(HERE / f"{name}.yaml")
    length = {key: schedule.epochs * schedule.iterations for key, schedule in study.schedules.items()}
    assert length == {"end": iterations, "twice": 2 * iterations}
    five = [PLAIN, OURS, f"{OURS}Replace", "nnUNetTrainerNoSkip"]
    three = ["nnUNetTrainerUNet3Plus", "nnUNetTrainerUCTransNet", f"{OURS}Block"]
    assert study.trainers_of("end") == (*five, *three)
    repeats = Counter(t.trainer for t in study.trainings() if t.schedule == "end")
    assert repeats == dict.fromkeys(five, 5) | dict.fromkeys(three, 3)
    assert study.trainers_of("twice") == (PLAIN,)
    assert [t.trainer for t in study.trainings()[:8]] == [*study.trainers, PLAIN]


def test_trainings_come_repeat_by_repeat_and_have_names_of_their_own(study):
    trainings = study.trainings()
    assert [t.name for t in trainings] == [
        "long-rep0-nnUNetTrainer-fold0",
        "long-rep0-nnUNetTrainerXAttnRes-fold0",
        "short-rep0-nnUNetTrainer-fold0",
        "short-rep0-nnUNetTrainerXAttnRes-fold0",
        "long-rep1-nnUNetTrainer-fold0",
        "long-rep1-nnUNetTrainerXAttnRes-fold0",
    ]
    assert all("__" not in plans_name(t) for t in trainings)  # nnU-Net splits names of folders there


def test_a_trainer_may_have_other_repeats_than_its_schedule(study):
    study = replace(study, schedules={"long": Schedule(6, 10, 2, repeats=2, repeats_of={OURS: 3, PLAIN: 1})})
    assert [(t.repeat, t.trainer) for t in study.trainings()] == [(0, PLAIN), (0, OURS), (1, OURS), (2, OURS)]
    assert "repeats_of" not in study.settings("long")  # a training's record stays good when repeats are added


def test_folds_that_rotate_are_trained_on_one_after_the_other(study):
    study = replace(study, folds=(3, 1), rotate_folds=True, schedules={"long": Schedule(6, 10, 2, repeats=3)})
    assert [(t.repeat, t.trainer, t.fold) for t in study.trainings()] == [
        (0, PLAIN, 3),
        (0, OURS, 3),
        (1, PLAIN, 1),
        (1, OURS, 1),
        (2, PLAIN, 3),
        (2, OURS, 3),
    ]


LITTLE = (
    "dataset: Dataset907_Little\nconfiguration: 2d\nfolds: [0]\ndevice: cpu\ncut_down: all\n"
    "trainers: [nnUNetTrainer, nnUNetTrainerXAttnRes]\n"
    "schedules:\n  one: {epochs: 2, iterations: 3, validation_iterations: 1, repeats: 1}\n"
)
ONE_ALONE = "  two: {epochs: 4, iterations: 3, validation_iterations: 1, repeats: 1, trainers: [nnUNetTrainer]}\n"
CLAIM = (
    "hypotheses:\n- {words: it helps, schedule: one, outcome: final_dice, trainer: nnUNetTrainerXAttnRes,"
    " against: nnUNetTrainer, test: welch}\n"
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("folds: [0]", "folds: [7]", "folds must be some of 0 to 4"),
        ("folds: [0]", "fold: [0]", "there is no 'fold'"),
        ("device: cpu", "", "'device' is missing"),
        ("[nnUNetTrainer, nnUNetTrainerXAttnRes]", "[nnUNetTrainer]", "name two trainers at least"),
        ("device: cpu", "device: gpu", "device must be one of cpu, cuda, mps, not 'gpu'"),
        ("epochs: 2", "epochs: 0", "schedules: one: epochs must be a whole number from 1"),
        ("epochs: 2", "epoches: 2", "schedules: one: there is no 'epoches'"),
        ("Dataset907_Little", "Little", "DatasetXXX_NAME, not 'Little'"),
        ("repeats: 1}", "repeats: 1, trainers: [nnUNetTrainerNoSkip, nnUNetTrainer]}", "nnUNetTrainer must come first"),
        ("repeats: 1}", "repeats: 1, repeats_of: 3}", "repeats_of must be a mapping from some of its trainers"),
        ("repeats: 1}", "repeats: 1, repeats_of: {nnUNetTrainerNoSkip: 3}}", "repeats_of must be a mapping from some"),
        ("repeats: 1}", "repeats: 1, repeats_of: {nnUNetTrainer: 0}}", "nnUNetTrainer must be a whole number from 1"),
        ("schedules:", "schedules: [", "cannot be read as a study"),
        ("device: cpu", "device: cpu\nrotate_folds: 2", "rotate_folds must be true or false, not 2"),
        ("repeats: 1}", "repeats: 1, trainers: [nnUNetTrainer]}", "no schedule has two trainers"),
        ("[nnUNetTrainer, nnUNetTrainerXAttnRes]", "[nnUNetTrainer, nnUNetTrainer]", "name two trainers at least"),
        (
            "repeats: 1}",
            "repeats: 1}\n" + ONE_ALONE.replace("[nnUNetTrainer]", "[nnUNetTrainerNoSkip]"),
            "must come first",
        ),
    ],
)
def test_a_description_that_makes_no_study_is_refused(tmp_path, old, new, words):
    refused(tmp_path / "some.yaml", LITTLE, old, new, words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schedule: one", "schedule: two", "1: there is no schedule 'two'; there are one"),
        (
            "outcome: final_dice",
            "outcome: dice",
            "1: there is no outcome 'dice'; there are final_dice, iterations_to_90,",
        ),
        ("test: welch", "test: t", "1: final_dice is tested by mann_whitney or welch, not 't'"),
        (
            "test: welch",
            "test: brown_forsythe",
            "1: final_dice is tested by mann_whitney or welch, not 'brown_forsythe'",
        ),
        (
            "outcome: final_dice",
            "outcome: iterations_to_90",
            "1: iterations_to_90 is tested by mann_whitney, not 'welch'",
        ),
        (
            "trainer: nnUNetTrainerXAttnRes,",
            "trainer: nnUNetTrainerNoSkip,",
            "one does not train 'nnUNetTrainerNoSkip'",
        ),
        ("against: nnUNetTrainer,", "against: nnUNetTrainerNoSkip,", "one does not train 'nnUNetTrainerNoSkip'"),
        ("against: nnUNetTrainer,", "against: nnUNetTrainerXAttnRes,", "nnUNetTrainerXAttnRes is compared with itself"),
        ("words: it helps", "words: 5", "1: words must be text, not 5"),
        ("schedule: one", "schedule: {one: 1}", "1: schedule must be text, not {'one': 1}"),
        (", test: welch", "", "hypotheses: 1: 'test' is missing"),
        ("test: welch", "test: welch, alpha: 1", "hypotheses: 1: there is no 'alpha'"),
        ("hypotheses:\n-", "hypotheses:", "hypotheses must be a list"),
    ],
)
def test_a_hypothesis_that_cannot_be_tested_is_refused(tmp_path, old, new, words):
    refused(tmp_path / "some.yaml", LITTLE + CLAIM, old, new, words)


def refused(path, text, old, new, words):
    """``text`` makes a study, and none with ``new`` in the place of ``old``."""
    path.write_text(text)
    assert read_study(path).name == "some"
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"some\.yaml") as error:
        read_study(path)
    assert words in str(error.value)


def test_the_first_trainer_may_be_trained_alone_beside_a_comparison(tmp_path):
    (path := tmp_path / "some.yaml").write_text(LITTLE + ONE_ALONE)
    assert [(t.schedule, t.trainer) for t in read_study(path).trainings()] == [
        ("one", PLAIN),
        ("one", OURS),
        ("two", PLAIN),
    ]


def test_hypotheses_are_read_as_they_are_written(tmp_path):
    (path := tmp_path / "some.yaml").write_text(LITTLE + CLAIM)
    assert read_study(path).hypotheses == (Hypothesis("it helps", "one", "final_dice", OURS, PLAIN, "welch"),)
    path.write_text(LITTLE)
    assert read_study(path).hypotheses == () and not read_study(path).rotate_folds


# --- plans and trainers


def planned(study, folders):
    """What nnU-Net's planning would leave, and the raw data that it would have had."""
    architecture = {"network_class_name": "PlainConvUNet", "arch_kwargs": {"features_per_stage": [32, 64], "n": 2}}
    plans = {"plans_name": PLANS, "configurations": {"3d_fullres": {"batch_size": 9, "architecture": architecture}}}
    raw, preprocessed = folders.raw / study.dataset, folders.preprocessed(study)
    for folder in (raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
    write_json({"file_ending": ".nii.gz"}, raw / "dataset.json")
    for case in CASES:
        (raw / "labelsTr" / case).touch()
    write_json(plans, preprocessed / f"{PLANS}.json")


def test_the_plans_of_a_training_are_nnunets_with_the_changes_and_the_schedule(study, folders):
    study = replace(study, plans={"batch_size": 2, "features_per_stage": [4, 8]}, mirroring=False)
    commands = []
    planned(study, folders)
    prepare(study, folders, lambda command, name: commands.append(command))
    assert len(commands) == 1 and "nnUNetv2_plan_and_preprocess" in " ".join(commands[0])
    training = study.trainings()[2]
    plans = json.loads((folders.preprocessed(study) / f"{plans_name(training)}.json").read_text())
    assert plans["plans_name"] == "StudyPlans_short_rep0"
    assert plans["study"] == {"epochs": 3, "iterations": 10, "validation_iterations": 2, "mirroring": False}
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["batch_size"] == 2
    assert configuration["architecture"]["arch_kwargs"] == {"features_per_stage": [4, 8], "n": 2}

    splits = json.loads((folders.preprocessed(study) / "splits_final.json").read_text())
    held_out = [case for split in splits for case in split["val"]]
    assert sorted(held_out) == [case.removesuffix(".nii.gz") for case in CASES] and len(splits) == 5

    prepare(study, folders, lambda command, name: commands.append(command))
    assert len(commands) == 1  # preprocessed already
    with pytest.raises(UserError, match="name another with --work"):
        prepare(replace(study, planner="nnUNetPlannerResEncM"), folders, lambda command, name: None)


def test_what_is_left_of_trainings_with_other_plans_is_refused(study, folders):
    planned(study, folders)
    prepare(study, folders, lambda command, name: None)
    training = study.trainings()[0]
    its_plans = folders.preprocessed(study) / f"{plans_name(training)}.json"
    (model := folders.model(study, training)).mkdir(parents=True)
    shutil.copyfile(its_plans, model / "plans.json")
    prepare(study, folders, lambda command, name: None)
    longer = replace(study.schedules["long"], epochs=12)
    for changed in (replace(study, plans={"batch_size": 4}), replace(study, schedules={"long": longer})):
        before = its_plans.read_text()
        with pytest.raises(UserError, match=f"{model} was trained with other plans than little now has"):
            prepare(changed, folders, lambda command, name: None)
        assert its_plans.read_text() == before


def test_a_fold_that_the_raw_data_do_not_have_is_refused(study, folders):
    """nnU-Net would train on a random fifth less of the cases, and say so in its log alone."""
    study = replace(study, folds=(0, 1))
    planned(study, folders)
    path = folders.preprocessed(study) / "splits_final.json"  # as the planner copies it from the raw data
    write_json([{"train": CASES[1:], "val": CASES[:1]}], path)
    with pytest.raises(UserError, match=r"splits_final.json has 1 folds, and little has fold 1: name others"):
        prepare(study, folders, lambda command, name: None)


@pytest.mark.parametrize("part", ["val", "train"])
def test_other_data_than_the_records_have_are_refused(study, folders, part):
    planned(study, folders)
    prepare(study, folders, lambda command, name: None)
    path = folders.preprocessed(study) / "splits_final.json"
    splits = json.loads(path.read_text())
    write_a_record(study, folders, study.trainings()[0], cases=[f"{case}.nii.gz" for case in splits[0]["val"]])
    rewrite_records(folders, lambda facts: facts | {"training_cases": len(splits[0]["train"])})
    refuse_other_data(study, folders, read_records(study, folders))
    plan = plan_of(study, read_json(folders.preprocessed(study) / f"{plans_name(study.trainings()[0])}.json"))
    for batch, fits in ((plan["batch_size"], True), (99, False)):
        rewrite_records(folders, lambda facts, batch=batch: facts | {"plan": plan | {"batch_size": batch}})
        if fits:
            refuse_other_data(study, folders, read_records(study, folders))
        else:
            with pytest.raises(UserError, match=r"planned Dataset907_Little with another batch_size .* and not 99\)"):
                refuse_other_data(study, folders, read_records(study, folders))
    splits[0][part].pop()
    write_json(splits, path)
    with pytest.raises(UserError, match=r"fold 0 of .* has other cases than the trainings that have a record"):
        refuse_other_data(study, folders, read_records(study, folders))


@pytest.mark.parametrize(
    ("plans", "words"),
    [({"features_per_stage": [4]}, "must have 2 entries"), ({"spacing": [1]}, "spacing is none of batch_size")],
)
def test_changes_that_the_plans_cannot_have_are_refused(study, folders, plans, words):
    planned(study, folders)
    with pytest.raises(UserError, match=words):
        prepare(replace(study, plans=plans), folders, lambda command, name: None)


def test_a_device_that_is_not_there_is_refused_before_anything_runs(study, folders, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    planned(study, folders)
    with pytest.raises(UserError, match="little trains on cuda, and torch finds none here"):
        prepare(replace(study, device="cuda"), folders, lambda command, name: pytest.fail("it ran"))


def test_missing_raw_data_are_named(study, folders):
    with pytest.raises(UserError, match="has no Dataset907_Little"):
        prepare(study, folders, lambda command, name: None)


# --- trainers


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    def make(name, threads=None, **schedule):
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(variable, str(tmp_path))
        dataset = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
        length = {"epochs": 20, "iterations": 7, "validation_iterations": 3, "mirroring": True} | schedule
        plans = make_plans() | {"continue_training": False, "study": length}
        monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda _: None)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if threads:
            monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        return TRAINERS[name](plans, "2d", 0, dataset, torch.device("cpu"))

    return make


def rates(trainer):
    """The learning rate of every epoch."""
    trainer.initialize()
    found = []
    for epoch in range(trainer.num_epochs):
        trainer.lr_scheduler.step(epoch)
        found.append(trainer.optimizer.param_groups[0]["lr"])
    return np.array(found)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_is_as_long_as_the_plans_say(make_trainer, tmp_path, name):
    trainer = make_trainer(name)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (20, 7, 3)
    assert trainer.save_every == 2
    trainer.logger.plot_progress_png(str(tmp_path))
    assert not (tmp_path / "progress.png").exists()
    assert type(trainer).__name__ == class_name(name)
    assert list(trainer.my_init_kwargs) == list(inspect.signature(nnUNetTrainer.__init__).parameters)[1:]


def test_trainers_share_the_folder_of_ours_by_re_exporting(monkeypatch):
    monkeypatch.syspath_prepend(HERE / "trainers")
    import nnunet_xattnres_study as shelf

    assert all(getattr(shelf, class_name(name)) is trainer for name, trainer in TRAINERS.items())


def test_the_threads_are_those_that_the_study_gives(make_trainer):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # as nnU-Net's command does
        make_trainer(PLAIN)
        assert torch.get_num_threads() == 2
        make_trainer(PLAIN, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_mirroring_the_training_still_mirrors(make_trainer):
    def axes(mirroring):
        trainer = make_trainer(OURS, mirroring=mirroring)
        *_, trained = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return trained, trainer.inference_allowed_mirroring_axes

    assert axes(True) == ((0, 1), (0, 1))
    assert axes(False) == ((0, 1), None)


def test_the_controls_change_the_learning_rate_and_nothing_else(make_trainer):
    for name in (PLAIN, OURS, f"{OURS}Replace"):
        assert TRAINERS[f"{name}DoubleLR"].build_network_architecture is TRAINERS[name].build_network_architecture
    plain, warm_up, double = (rates(make_trainer(f"nnUNetTrainer{name}")) for name in ("", "WarmUp", "DoubleLR"))
    np.testing.assert_allclose(plain, 0.01 * (1 - np.arange(20) / 20) ** 0.9)
    np.testing.assert_allclose(double, 2 * plain)
    for name in (OURS, f"{OURS}Replace"):
        np.testing.assert_allclose(rates(make_trainer(f"{name}DoubleLR")), double)
    np.testing.assert_allclose(warm_up[:2], plain[:2] * [1 / 3, 2 / 3])  # a tenth of 20 epochs
    np.testing.assert_allclose(warm_up[2:], plain[2:])


def test_a_checkpoint_is_written_whole_or_not_at_all(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(PLAIN)
    trainer.initialize()
    path = tmp_path / "checkpoint_latest.pth"
    path.write_text("the last one")

    def full(content, file):
        with open(file, "wb") as f:
            f.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint(str(path))
    assert path.read_text() == "the last one" and not list(tmp_path.glob(".partial-*"))
