"""`compare --metrics` and `--as-published`, on masks by hand as nnU-Net leaves them."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from helpers.trainings import DATASET, A, B, invoke, shear, write_fold
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from skimage.io import imsave
from test_surfaces import both_ways
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.cli.options import folders_by_name
from nnunet_xattnres.commands.compare import compare_cases
from nnunet_xattnres.commands.compare.measure import Measure
from nnunet_xattnres.commands.compare.models import Model
from nnunet_xattnres.commands.compare.picture import picture_of
from nnunet_xattnres.commands.compare.summary import summary
from nnunet_xattnres.commands.compare.table import make_rows, rows_of
from nnunet_xattnres.common.installing import install_extra

LABELS = {"background": 0, "liver": 1, "gallbladder": 2}
SPACING = (2.5, 0.9, 0.7)  # of the arrays' axes
SHAPE = (12, 20, 16)
needs_monai = pytest.mark.skipif(util.find_spec("monai") is None, reason="pip install 'nnunet-xattnres[metrics]'")


def box(*ranges, label=1, onto=None):
    mask = np.zeros(SHAPE[-len(ranges) :], np.uint8) if onto is None else onto.copy()
    mask[tuple(slice(*r) for r in ranges)] = label
    return mask


def masks_by_hand(shift):
    """Case -> prediction and true mask; ``shift``: by how many slices the predicted liver is too high."""
    liver, moved = box((2, 8), (3, 15), (0, 9)), box((2 + shift, 8 + shift), (3, 15), (0, 9))
    small = ((4, 6), (16, 19), (10, 14))
    with_both, moved_with_both = (box(*small, label=2, onto=mask) for mask in (liver, moved))
    return {
        "both": (moved_with_both, with_both),
        "missed": (moved, with_both),
        "invented": (moved_with_both, liver),
        "neither": (moved, liver),
    }


def write_mask(mask, path):
    if path.suffix == ".png":
        imsave(path, mask, check_contrast=False)
        return
    if path.suffix == ".tif":
        tifffile.imwrite(path, mask)
        return
    image = SimpleITK.GetImageFromArray(mask)
    image.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(image, str(path))


def dice(prediction, reference):
    total = prediction.sum() + reference.sum()
    return 2 * (prediction & reference).sum() / total if total else math.nan


def is_in(mask, key):
    return np.isin(mask, [int(number) for number in re.findall(r"\d+", key)])


def train(results, trainer, masks, *, keys=("1", "2"), labels=LABELS, ending=".nii.gz", of_dataset=(), ignore=None):
    """What nnU-Net leaves of a training with these masks; the true ones are where it keeps a copy of them."""
    truth = results.parents[1] / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    truth.mkdir(exist_ok=True)
    found = {}
    for case, (prediction, reference) in masks.items():
        counts = reference != ignore
        found[case] = [dice(is_in(prediction, key) & counts, is_in(reference, key) & counts) for key in keys]
    model = write_fold(results, trainer, 0, found, keys=keys, labels=labels)
    (model / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending, **dict(of_dataset)}))
    summary = model / "fold_0" / "validation" / "summary.json"
    summary.write_text(summary.read_text().replace(".nii.gz", ending))
    for case, (prediction, reference) in masks.items():
        write_mask(prediction, summary.parent / f"{case}{ending}")
        write_mask(reference, truth / f"{case}{ending}")
    return model


def run(tmp_path, *arguments):
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, *arguments)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def table(tmp_path, name):
    with (tmp_path / "out" / name).open() as file:
        return list(csv.DictReader(file))


def values(tmp_path, key, model=A):
    """(case, label) -> value."""
    rows = table(tmp_path, "cases.csv" if key == "dice" else f"{key}_cases.csv")
    return {(row["case"].partition(".")[0], row["label"]): float(row[key]) for row in rows if row["model"] == model}


@needs_monai
def test_hd95_and_surface_dice_in_millimetres(results, tmp_path):
    first, second = masks_by_hand(1), masks_by_hand(2)
    train(results, A, first)
    train(results, B, second)
    screen = run(tmp_path, "--metrics", "hd95", "nsd", "--tolerance", 3)
    for model, masks in ((A, first), (B, second)):
        hd95, nsd = (values(tmp_path, key, model) for key in ("hd95", "nsd"))
        for case, (prediction, reference) in masks.items():
            for name, label in (("liver", 1), ("gallbladder", 2)):
                one, other = prediction == label, reference == label
                if one.any() and other.any():
                    ways = both_ways(one, other, SPACING)
                    assert hd95[case, name] == pytest.approx(max(np.percentile(w, 95) for w in ways), rel=1e-5)
                    assert nsd[case, name] == pytest.approx((np.concatenate(ways) <= 3).mean(), rel=1e-5)
                else:
                    assert math.isnan(hd95[case, name])
                    assert nsd[case, name] == pytest.approx(0.0 if case != "neither" else math.nan, nan_ok=True)
    # of all labels and cases the first model is better: 2.5 mm against 5
    rows = {row["label"]: row for row in table(tmp_path, "hd95.csv") if row["model"] == B}
    assert float(rows["liver"]["hd95"]) == pytest.approx(5) and float(rows["liver"]["difference"]) == pytest.approx(2.5)
    assert [rows["liver"][name] for name in ("better", "equal", "worse", "left_out")] == ["0", "0", "4", "0"]
    assert [rows["gallbladder"][name] for name in ("equal", "left_out")] == ["1", "3"]
    told = f"{A}: 2 (gallbladder 2); {B}: 2 (gallbladder 2). A missed structure counts in the Dice and not in HD95."
    page, text = ((tmp_path / "out" / name).read_text() for name in ("comparison.html", "comparison.md"))
    assert all(told in of for of in (screen, page, text))
    assert "Surface Dice at 3 mm" in page and "## Surface Dice at 3 mm" in text and "HD95 (mm)" in screen
    assert f"HD95 (mm) of {B} minus that of {A}. Each point a case, on the left where {B} is better" in page
    assert "(less is better). Of 4 cases 0 are better, 0 equal and 4 worse." in page
    assert {"hd95.png", "nsd.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "dice" in table(tmp_path, "cases.csv")[0]

    run(tmp_path)  # without them nothing of theirs stays
    assert not {"hd95.png", "hd95.csv", "nsd_cases.csv"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_where_less_is_better_the_better_side_is_the_left_one(tmp_path):
    """The same numbers, once as a Dice and once as a distance."""

    def value(model, i):
        return 0.5 + 0.01 * i + (0.1 + 0.001 * i) * (model == "b")

    path = tmp_path / "cases.csv"
    lines = [f"{model},r,0,case{i},liver,{value(model, i)}" for model in "ab" for i in range(9)]
    path.write_text("\n".join(["model,run,fold,case,label,dice", *lines]))
    distance = Measure("hd95", "HD95", "an HD95", "", "mm", less_is_better=True, digits=2)
    found = compare_cases(path)
    models = [
        Model(m.name, [replace(r, folds={"0": replace(r.folds["0"], measured={"hd95": r.dice})}) for r in m.runs])
        for m in found.models
    ]
    found = replace(found, models=models, further=(distance,))
    rows = make_rows(found)
    for one, better, worse, word in zip(found.each(), (1, -1), (-1, 1), ("better", "worse")):
        (axis,) = picture_of(one, rows).axes
        points = [line for line in axis.lines if line.get_marker() == "."]
        assert len(points) == 2  # of the label and the mean; b minus a, whichever side is the better one
        for of_row in points:
            assert list(of_row.get_xdata()) == pytest.approx([0.1 + 0.001 * i for i in range(9)])
        (diamond,) = {float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "D"}
        assert diamond == pytest.approx(0.104)
        sides = {text.get_text().strip("\N{LEFTWARDS ARROW}\N{RIGHTWARDS ARROW} "): text for text in axis.texts}
        assert sides["better"].xyann[0] * better > 0 and sides["worse"].xyann[0] * worse > 0
        (colored,) = axis.patches
        edges = {round(float(x), 6) for x in colored.get_path().vertices[:, 0] * colored.get_width() + colored.get_x()}
        assert 0 in edges and max(edges, key=abs) * better > 0
        ((verdict, _),) = summary(one, rows)
        assert verdict == f"These networks of b are {word} than those of a; other trainings may differ"
        counts = next(row.difference for row in rows_of(one, rows) if row.difference)
        assert (counts.better, counts.worse) == ((9, 0) if better == 1 else (0, 9))


@needs_monai
def test_pictures_are_measured_in_pixels(results, tmp_path):
    masks = {f"case{i}": (box((3 + i, 9 + i), (4, 12)), box((3, 9), (4, 12))) for i in range(3)}
    for trainer in (A, B):
        train(results, trainer, masks, keys=("1",), labels={"background": 0, "lesion": 1}, ending=".png")
    screen = run(tmp_path, "--metrics", "nsd", "hd95")
    assert "Surface Dice at 2 pixels" in screen and "HD95 (pixels)" in screen
    assert values(tmp_path, "hd95") == {(f"case{i}", "lesion"): i for i in range(3)}
    assert values(tmp_path, "nsd")["case2", "lesion"] == 1


@needs_monai
def test_where_somebody_has_looked_at_some_slices_only(results, tmp_path):
    """The cuts would be the same in both masks, at distance 0."""
    labels = {"background": 0, "liver": 1, "ignore": 2}
    reference, prediction = box((0, 12), (3, 15), (2, 9)), box((0, 12), (6, 18), (2, 9))
    reference[np.arange(12) % 4 != 0] = 2
    for trainer in (A, B):
        train(results, trainer, {"a": (prediction, reference)}, keys=("1",), labels=labels, ignore=2)
    run(tmp_path, "--metrics", "hd95", "nsd")
    assert values(tmp_path, "hd95")["a", "liver"] == pytest.approx(3 * SPACING[1])
    assert values(tmp_path, "nsd")["a", "liver"] < 0.86  # of the contours two in three lines are near; of the cuts all


@needs_monai
def test_a_label_of_which_the_ignore_label_leaves_no_surface(results, tmp_path):
    labels = {"background": 0, "liver": 1, "ignore": 3}
    full = np.full(SHAPE, 3, np.uint8)
    full[4:8, 4:8, 4:8] = 1
    prediction = box((4, 6), (4, 8), (4, 8))
    plain = box((2, 8), (3, 15), (4, 9))
    for trainer in (A, B):
        train(results, trainer, {"a": (prediction, full), "b": (plain, plain)}, keys=("1",), labels=labels, ignore=3)
    screen = run(tmp_path, "--metrics", "hd95", "nsd")
    for name, key in (("HD95", "hd95"), ("surface Dice at 2 mm", "nsd")):
        told = f"{name} has no value where the ignore label leaves no surface of one of the two masks, and is left out"
        assert f"{told} there. {A}: 1 (liver 1); {B}: 1 (liver 1)." in screen
        found = values(tmp_path, key)
        assert math.isnan(found["a", "liver"]) and found["b", "liver"] == (key == "nsd")
    assert "A missed structure" not in screen


@needs_monai
def test_regions_and_the_ignore_label(results, tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    reference = box((2, 8), (3, 15), (4, 9))
    reference[4:6, 4:8, 5:7] = 2
    prediction = np.roll(reference, 1, axis=0)
    prediction[:, :, 14:] = 1  # where nobody has looked
    reference[:, :, 12:] = 3
    of = {"regions_class_order": [1, 2]}
    for trainer in (A, B):
        train(
            results,
            trainer,
            {"a": (prediction, reference)},
            keys=("(1, 2)", "(2,)"),
            labels=labels,
            of_dataset=of,
            ignore=3,
        )
    run(tmp_path, "--metrics", "hd95")
    looked_at = np.where(reference == 3, 0, prediction), np.where(reference == 3, 0, reference)
    found = values(tmp_path, "hd95")
    for name, members in (("whole", (1, 2)), ("core", (2,))):
        ways = both_ways(*(np.isin(mask, members) for mask in looked_at), SPACING)
        assert found["a", name] == pytest.approx(max(np.percentile(w, 95) for w in ways), rel=1e-5)
    assert 0 < found["a", "core"] <= 2.5


def name_reader(model, reader):
    plans = json.loads((model / "plans.json").read_text())
    (model / "plans.json").write_text(json.dumps(plans | {"image_reader_writer": reader}))


def test_masks_are_read_as_the_images_were_for_the_training(results, tmp_path):
    """The first case, from which the reader could be guessed, is an ordinary one."""
    masks, labels = masks_by_hand(1), tmp_path / "labels"
    for trainer in (A, B):
        name_reader(train(results, trainer, masks), "NibabelIO")
    truth = results.parents[1] / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    folders = [results / f"{trainer}__nnUNetPlans__2d" / "fold_0" / "validation" for trainer in (A, B)]
    for folder in (*folders, truth):
        shear(folder / "missed.nii.gz")
    run(tmp_path, "--as-published", "synapse")
    found = values(tmp_path, "synapse_hd95")
    assert found["missed", "liver"] == found["both", "liver"] == 1

    shutil.copytree(truth, labels)
    for folder in folders:
        for file in ("dataset.json", "plans.json"):
            shutil.copy(folder.parents[1] / file, folder)
    named = (f"{name}={folder}" for name, folder in zip((A, B), folders))
    done = invoke(tmp_path, "--predictions", *named, "--labels", labels, "--as-published", "synapse")
    assert done.exit_code == 0, done.output
    assert values(tmp_path, "synapse_hd95") == found


def test_a_reader_that_nnunet_does_not_have(results, tmp_path):
    for trainer in (A, B):
        name_reader(train(results, trainer, masks_by_hand(1)), "MyIO")
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "--as-published", "synapse")
    assert done.exit_code == 1
    assert "nnU-Net has no reader called MyIO, which the plans name" in " ".join(done.output.split())


@needs_monai
def test_volumes_in_tiff_are_measured_in_millimetres(results, tmp_path):
    """nnU-Net writes the spacing beside its predictions, and copies the true masks without theirs."""
    masks = masks_by_hand(1)
    for trainer in (A, B):
        name_reader(train(results, trainer, masks, ending=".tif"), "Tiff3DIO")
    predicted = [results / f"{trainer}__nnUNetPlans__2d" / "fold_0" / "validation" for trainer in (A, B)]
    spacings = [folder / f"{case}.json" for folder in predicted for case in masks]
    for file in spacings:
        file.write_text(json.dumps({"spacing": SPACING}))
    assert "WARNING" not in run(tmp_path, "--metrics", "hd95")
    found = values(tmp_path, "hd95")
    assert found["both", "liver"] == found["missed", "liver"] == 2.5

    true = results.parents[1] / "nnUNet_preprocessed" / DATASET / "gt_segmentations"
    for file in spacings:
        file.rename(true / file.name)
    run(tmp_path, "--metrics", "hd95")
    assert values(tmp_path, "hd95") == pytest.approx(found, nan_ok=True)

    (true / "both.json").unlink()
    run(tmp_path, "--metrics", "hd95")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"neither {predicted[0] / 'both.json'} nor {true / 'both.json'} exists" in text
    assert values(tmp_path, "hd95") == pytest.approx(
        found | {("both", "liver"): math.nan, ("both", "gallbladder"): math.nan}, nan_ok=True
    )


def test_as_published(results, tmp_path):
    """Without MONAI, too: the convention needs none of it."""
    for trainer, shift in ((A, 1), (B, 1)):
        train(results, trainer, masks_by_hand(shift))
    screen = run(tmp_path, "--as-published", "synapse")
    published, hd95 = (values(tmp_path, f"synapse_{key}") for key in ("dice", "hd95"))
    honest = {row["case"].partition(".")[0]: float(row["dice"]) for row in table(tmp_path, "cases.csv")[1:8:2]}
    assert honest == pytest.approx({"both": 1, "missed": 0, "invented": 0, "neither": math.nan}, nan_ok=True)
    of_gallbladder = {case: published[case, "gallbladder"] for case in honest}
    assert of_gallbladder == {"both": 1, "missed": 0, "invented": 1, "neither": 0}
    assert all(hd95[case, "gallbladder"] == 0 for case in honest)
    assert {hd95[case, "liver"] for case in honest} == {1.0}  # a voxel, not 2.5 mm
    means = {row["label"]: float(row["synapse_dice"]) for row in table(tmp_path, "synapse_dice.csv")}
    assert means["gallbladder"] == 0.5 and means["mean"] == pytest.approx((0.5 + published["both", "liver"]) / 2)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| {A} | invented.nii.gz | gallbladder | true mask | 0.0000 | 1.0000 | 0.00 |" in text
    assert f"| {A} | missed.nii.gz | gallbladder | prediction | 0.0000 | 0.0000 | 0.00 |" in text
    assert f"| {A} | neither.nii.gz | gallbladder | both | n/a | 0.0000 | 0.00 |" in text
    assert text.count("gallbladder | both |") == 2 and "liver | prediction" not in text
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "As published for Synapse" in page and "Dice of 1 and an HD95 of 0; here it has a Dice of 0" in page
    assert "<h3>Dice as published" not in page  # it does not say which model is better
    monai = util.find_spec("monai") is not None
    assert ("HD95 (mm)" in screen) == monai and ("Without HD95: MONAI is not installed" in screen) == (not monai)


@pytest.fixture
def predictions(results, tmp_path):
    """The arguments for two folders of predictions, and the folder of the true masks."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for case, (_, reference) in masks_by_hand(1).items():
        write_mask(reference, labels / f"{case}.nii.gz")
    folders = []
    for name, shift in (("a", 1), ("b", 2)):
        model = train(results, name, masks_by_hand(shift))
        folder = model / "fold_0" / "validation"
        for file in ("dataset.json", "plans.json"):
            (folder / file).write_text((model / file).read_text())
        folders.append(f"{name}={folder}")
    return ["--predictions", *folders, "--labels", labels], labels


@needs_monai
def test_predictions_in_folders(predictions, tmp_path):
    done = invoke(tmp_path, *predictions[0], "--metrics", "hd95")
    assert done.exit_code == 0, done.output
    assert values(tmp_path, "hd95", "b")["both", "liver"] == pytest.approx(5)


def test_predictions_are_evaluated_and_measured_in_as_many_processes_as_nnunet_has(predictions, tmp_path, pools):
    arguments, labels = predictions
    (labels / "._both.nii.gz").write_bytes(b"of macOS")
    done = invoke(tmp_path, *arguments, "--as-published", "synapse")
    assert done.exit_code == 0, done.output
    assert pools == [3, 3, 3]  # of four cases, of four others, and of all eight
    for model, shift in (("a", 1), ("b", 2)):
        for case, (prediction, reference) in masks_by_hand(shift).items():
            for label, name in ((1, "liver"), (2, "gallbladder")):
                expected = dice(prediction == label, reference == label)
                assert values(tmp_path, "dice", model)[case, name] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("read", ["labels", "a__nnUNetPlans__2d/fold_0/validation"])
def test_a_folder_that_is_read_is_no_place_for_pictures(predictions, results, tmp_path, read):
    """Of PNG masks the next run would take them for cases."""
    folder = tmp_path / read if read == "labels" else results / read
    before = sorted(folder.iterdir())
    done = CliRunner().invoke(app, ["compare", *map(str, predictions[0]), "-o", str(folder.parent / "." / folder.name)])
    assert done.exit_code == 1 and f"{folder.name} holds masks or images that are to be read" in done.output
    assert sorted(folder.iterdir()) == before


def folder_of(argument):
    return Path(argument.partition("=")[2])


@pytest.mark.parametrize("allow", [(), ("--allow", "cases")])
def test_predictions_of_other_cases(predictions, tmp_path, allow):
    """A true mask that no model needs does not matter; of what only one model has the check of the cases decides."""
    arguments, labels = predictions
    write_mask(masks_by_hand(1)["both"][1], labels / "more.nii.gz")
    (folder_of(arguments[2]) / "missed.nii.gz").unlink()
    done = invoke(tmp_path, *arguments, *allow)
    text = " ".join(done.output.split())
    if allow:
        assert done.exit_code == 0 and "1 of 5 true masks have no prediction: more.nii.gz." in text, text
        assert "missed" not in {case for case, _ in values(tmp_path, "dice", "b")} and "3 cases" in text
    else:
        said = "missed.nii.gz of fold test is there in a (validation) and missing in b (validation)"
        assert done.exit_code == 1 and said in text and text.endswith("--allow cases") and "evaluating" not in text


@pytest.mark.parametrize("allow", [(), ("--allow", "cases")])
def test_a_prediction_without_a_true_mask(predictions, tmp_path, allow):
    arguments, labels = predictions
    (labels / "missed.nii.gz").unlink()
    text = " ".join(invoke(tmp_path, *arguments, *allow).output.split())
    assert f"{labels} has no missed.nii.gz, which {folder_of(arguments[1])} has" in text


def test_what_is_missing_of_predictions_is_said_before_any_is_evaluated(predictions, tmp_path, monkeypatch):
    arguments, labels = predictions
    monkeypatch.setattr("nnunet_xattnres.commands.compare.predictions.dice_of_files", pytest.fail)
    folder = folder_of(arguments[2])
    plans = (folder / "plans.json").rename(tmp_path / "plans.json")
    text = " ".join(invoke(tmp_path, *arguments).output.split())
    assert f"{folder / 'plans.json'} is missing" in text and "Of an ensemble take that of one of the members" in text
    plans.rename(folder / "plans.json")
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    assert f"{folder / 'dataset.json'} has no file_ending" in " ".join(invoke(tmp_path, *arguments).output.split())
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".mha"}))
    assert f"{folder} has no prediction *.mha" in " ".join(invoke(tmp_path, *arguments).output.split())
    for wrong in (folder, labels):
        wrong.rename(tmp_path / "elsewhere")
        assert f"{wrong} does not exist; name a folder" in " ".join(invoke(tmp_path, *arguments).output.split())
        (tmp_path / "elsewhere").rename(wrong)


def test_the_home_folder_of_a_named_prediction(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert folders_by_name(["a=~/x", "b=~"]) == {"a": tmp_path / "x", "b": tmp_path}
    assert folders_by_name(["a=~nobody-of-that-name/x"]) == {"a": Path("~nobody-of-that-name/x")}


def damaged(path):
    path.write_bytes(b"no image")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-40])


def of_another_shape(path):
    write_mask(np.zeros((3, 4, 5), np.uint8), path)


def of_another_dice(path):
    write_mask(masks_by_hand(1)["neither"][1], path)


FAULTS = {  # what is wrong with a true mask, and what is said
    damaged: "missed.nii.gz cannot be read as a mask",
    of_another_shape: "missed.nii.gz has (3, 4, 5)",
    of_another_dice: "for label 2, and the summary.json in",
}


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        ("SimpleITKIO", damaged),
        ("SimpleITKIO", of_another_shape),
        ("NibabelIO", damaged),
        ("NibabelIO", cut_off),  # SimpleITK says nothing of that
    ],
)
def test_masks_that_cannot_be_evaluated_are_named(predictions, tmp_path, reader, fault):
    """Each library has errors of its own for them."""
    arguments, labels = predictions
    for folder in (argument.partition("=")[2] for argument in arguments[1:3]):
        (tmp_path / folder / "plans.json").write_text(json.dumps({"image_reader_writer": reader}))
    fault(labels / "missed.nii.gz")
    done = invoke(tmp_path, *arguments)
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and "error: missed.nii.gz: " in text, text
    said = "must have the same shape" if fault is of_another_shape else "cannot be read as a mask: "
    assert said in text and str(labels / "missed.nii.gz") in text
    assert not (tmp_path / "out").exists()


def test_the_dice_of_predictions_is_nnunets(predictions, tmp_path):
    arguments, labels = predictions
    assert invoke(tmp_path, *arguments).exit_code == 0
    for name, folder in (argument.split("=") for argument in arguments[1:3]):
        for case in masks_by_hand(1):
            files = (str(where / f"{case}.nii.gz") for where in (labels, Path(folder)))
            found = compute_metrics(*files, SimpleITKIO(), [1, 2])["metrics"]
            for label, metrics in zip(("liver", "gallbladder"), found.values()):
                assert values(tmp_path, "dice", name)[case, label] == pytest.approx(metrics["Dice"], nan_ok=True, rel=0)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("true", [True, False])
def test_masks_in_colour_are_refused(results, tmp_path, channels, true):
    """nnU-Net's evaluation broadcasts them against one channel: a Dice of something else."""
    labels, mask = tmp_path / "labels", box((2, 8), (3, 15))
    labels.mkdir()
    write_mask(mask, labels / "a.png")
    folders = []
    for trainer in (A, B):
        model = train(results, trainer, {"a": (mask, mask)}, ending=".png")
        folder = model / "fold_0" / "validation"
        for file in ("dataset.json", "plans.json"):
            shutil.copy(model / file, folder)
        folders.append(f"{trainer}={folder}")
    in_colour = labels / "a.png" if true else folder / "a.png"
    write_mask(np.dstack([*[mask] * 3, np.full_like(mask, 255)][:channels]), in_colour)
    done = invoke(tmp_path, "--predictions", *folders, "--labels", labels)
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and f"a.png: {in_colour} has {channels} channels" in text and "save it in grey" in text

    truth = results.parents[1] / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / "a.png"
    for file in (truth, in_colour):  # and for the measures of trainings
        write_mask(np.dstack([mask] * channels), file)
    text = " ".join(invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "--as-published", "synapse").output.split())
    assert "no case could be measured" in text and f"has {channels} channels" in text


def test_predictions_that_change_while_they_are_compared(predictions, tmp_path, monkeypatch):
    """No training could be validated again."""
    monkeypatch.setattr(
        "nnunet_xattnres.commands.compare.predictions.dice_of_files", lambda *_, **__: {"1": 0.5, "2": 0.5}
    )
    done = invoke(tmp_path, *predictions[0], "--as-published", "synapse")
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and "and a moment ago had 0.5: something writes them" in text, text
    assert "summary.json" not in text and "--val" not in text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_case_that_cannot_be_measured_is_named_and_the_others_are(results, tmp_path, fault):
    """They may have taken hours."""
    for trainer, shift in ((A, 1), (B, 2)):
        train(results, trainer, masks_by_hand(shift))
    fault(results.parents[1] / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / "missed.nii.gz")
    screen = run(tmp_path, "--as-published", "synapse")
    told = "2 of 8 cases could not be measured and are left out of"
    page, text = ((tmp_path / "out" / name).read_text() for name in ("comparison.html", "comparison.md"))
    assert all(told in of for of in (screen, page, text)) and FAULTS[fault] in " ".join(text.split())
    assert f"missed.nii.gz of {B} ({B}__nnUNetPlans__2d): " in text
    for model, shift in ((A, 1), (B, 2)):
        found = values(tmp_path, "synapse_hd95", model)
        assert all(math.isnan(found["missed", label]) for label in ("liver", "gallbladder"))
        assert {found[case, "liver"] for case in ("both", "invented", "neither")} == {shift}
    rows = {row["label"]: row for row in table(tmp_path, "synapse_hd95.csv") if row["model"] == B}
    assert [rows["liver"][name] for name in ("worse", "left_out")] == ["3", "1"]


def test_what_could_not_be_measured_is_not_told_of_a_model(results, tmp_path):
    """It found no label that the other one missed, and predicted none in vain."""
    model = [train(results, trainer, masks_by_hand(1)) for trainer in (A, B)]
    damaged(model[0] / "fold_0" / "validation" / "both.nii.gz")
    screen = run(tmp_path, "--metrics", "hd95", "nsd")
    text = " ".join(f"{screen} {(tmp_path / 'out' / 'comparison.html').read_text()}".split())
    assert "1 of 8 cases could not be measured" in text and f"only {B} has a value" in text
    assert "found a label that is there" not in text and "predicted a label that is not there" not in text


def test_a_model_of_which_nothing_can_be_measured(results, tmp_path):
    """Another one can: what was measured of that is written."""
    model = [train(results, trainer, masks_by_hand(1)) for trainer in (A, B)]
    for file in (model[1] / "fold_0" / "validation").glob("*.nii.gz"):
        damaged(file)
    assert "4 of 8 cases could not be measured" in run(tmp_path, "--as-published", "synapse")
    assert values(tmp_path, "synapse_hd95")["both", "liver"] == 1
    for file in (model[0] / "fold_0" / "validation").glob("*.nii.gz"):
        damaged(file)
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "--as-published", "synapse")
    text = " ".join(done.output.split())
    assert done.exit_code == 1 and f"no case could be measured; the first was both.nii.gz of {A}" in text, text


def test_what_was_measured_for_hours_is_kept_if_the_page_fails(results, tmp_path, monkeypatch):
    for trainer in (A, B):
        train(results, trainer, masks_by_hand(1))

    def no_space_left(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("nnunet_xattnres.commands.compare.write_page", no_space_left)
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "--as-published", "synapse")
    (kept,) = (tmp_path / "out").iterdir()
    assert done.exit_code == 1 and "No space left" in done.output and kept.name in "".join(done.output.split())
    assert (kept / "synapse_hd95_cases.csv").is_file()


def test_many_cases_that_cannot_be_measured_are_counted(results, tmp_path):
    masks = {f"case{i}": masks_by_hand(1)["both"] for i in range(4)}
    model = [train(results, trainer, masks) for trainer in (A, B)]
    for file in [*(model[1] / "fold_0" / "validation").glob("*.nii.gz"), *(model[0] / "fold_0").glob("*/case[012]*")]:
        damaged(file)
    text = run(tmp_path, "--as-published", "synapse")
    assert "7 of 8 cases could not be measured" in text and ", and 2 more." in text


def test_a_true_mask_that_is_missing_is_said_before_anything_is_measured(results, tmp_path):
    for trainer in (A, B):
        train(results, trainer, masks_by_hand(1))
    (results.parents[1] / "nnUNet_preprocessed" / DATASET / "gt_segmentations" / "missed.nii.gz").unlink()
    text = " ".join(invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, "--as-published", "synapse").output.split())
    assert "the true mask is missing" in text and "labelsTr/missed.nii.gz" in text
    raw = results.parents[1] / "nnUNet_raw" / DATASET / "labelsTr"
    raw.mkdir()
    write_mask(masks_by_hand(1)["missed"][1], raw / "missed.nii.gz")
    run(tmp_path, "--as-published", "synapse")


def test_in_several_processes_the_values_are_the_same(results, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.commands.compare.wanted._why_not_monai", lambda: "each would import it")
    for trainer, shift in ((A, 1), (B, 2)):
        train(results, trainer, masks_by_hand(shift))
    run(tmp_path, "--as-published", "synapse")
    before = {key: (values(tmp_path, key, A), values(tmp_path, key, B)) for key in ("synapse_hd95", "synapse_dice")}
    monkeypatch.setattr("nnunetv2.configuration.default_num_processes", 2)
    monkeypatch.setattr("nnunet_xattnres.nnunet.pool._ALONE", -1)
    run(tmp_path, "--as-published", "synapse")
    for key, models in before.items():
        assert (values(tmp_path, key, A), values(tmp_path, key, B)) == models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "hd"], "--metrics hd: there is no such metric; there are hd95, nsd"),
        (["--as-published", "acdc"], "--as-published acdc: there is no such convention; there is synapse"),
        (["--metrics", "nsd", "--tolerance", "-1"], "--tolerance -1: it must be a distance, 0 or more"),
        (["--metrics", "nsd", "--tolerance", "nan"], "--tolerance nan: it must be a distance, 0 or more"),
        (["--tolerance", "1"], "--tolerance is that of the surface Dice: add --metrics nsd"),
    ],
)
def test_what_is_refused(results, tmp_path, arguments, message):
    done = invoke(tmp_path, "-d", 4, "-c", "2d", "-tr", A, B, *arguments)
    assert done.exit_code == 1 and message in " ".join(done.output.split()) and not (tmp_path / "out").exists()


def test_a_file_of_cases_has_the_dice_only(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_text("model,run,fold,case,label,dice\na,r,0,x,liver,0.5\nb,r,0,x,liver,0.5\n")
    done = invoke(tmp_path, "--cases", path, "--as-published", "synapse")
    assert done.exit_code == 1 and "has the Dice only" in " ".join(done.output.split())


def test_monai_that_is_missing_and_monai_that_does_not_fit(results, tmp_path, monkeypatch):
    for trainer in (A, B):
        train(results, trainer, masks_by_hand(1))
    versions, version_of = {"monai": None}, metadata.version

    def version(package):
        found = versions[package] if package in versions else version_of(package)
        if found is None:
            raise metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(metadata, "version", version)
    arguments = ("-d", 4, "-c", "2d", "-tr", A, B, "--metrics", "nsd", "hd95")
    done = invoke(tmp_path, *arguments)
    needs = f"--metrics nsd hd95 needs MONAI: {install_extra('metrics')}"
    assert done.exit_code == 1 and needs in " ".join(done.output.split())

    versions |= {"monai": "1.5.0", "torch": "2.8.0"}
    monkeypatch.setattr(metadata, "requires", lambda _package: ["numpy", "torch<2.7.0,>=2.4.1", "fire; extra == 'all'"])
    reason = "Without HD95 and surface Dice: MONAI 1.5.0 needs torch<2.7.0,>=2.4.1, and torch 2.8.0 is installed."
    assert reason in run(tmp_path, "--metrics", "nsd", "hd95")
    assert not (tmp_path / "out" / "hd95.csv").exists() and reason in (tmp_path / "out" / "comparison.md").read_text()
