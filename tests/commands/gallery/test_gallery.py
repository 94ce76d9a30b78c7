"""Masks side by side, on small made-up files."""

import json
import re

import matplotlib.image
import numpy as np
import pytest
import SimpleITK
from helpers.trainings import A, B, shear, write_fold
from matplotlib.axes import Axes
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.gallery import cells, figure
from nnunet_xattnres.commands.gallery.choice import choose
from nnunet_xattnres.commands.gallery.material import Material, Model
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.classes import Classes
from nnunet_xattnres.pages.slices import IGNORED

SIZE, SPACING = (6, 20, 16), (1.0, 1.0, 3.0)  # (z, y, x), and of x, y and z
LABELS = {"background": 0, "big": 1, "small": 2}
CASES = [f"case_{i}" for i in range(8)]


def write_volume(array, path):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def truth_of(i):
    """The fullest slice is 1 + i % 4; case 7 has nothing."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    if i < 7:
        mask[1:5, 4:10, 4:12], mask[1 + i % 4, 4:16, 4:12] = 1, 1
        mask[1 + i % 4, 5:8, 5:8] = 2
    return mask


def shifted(mask, by):
    return np.roll(mask, by, axis=1)


@pytest.fixture
def data(tmp_path):
    """Two models: the worse one is shifted, by the more the higher the number of the case."""
    for i, case in enumerate(CASES):
        write_volume(np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE), tmp_path / f"images/{case}_0000.nii.gz")
        write_volume(truth_of(i), tmp_path / f"labels/{case}.nii.gz")
        write_volume(shifted(truth_of(i), 1), tmp_path / f"good/{case}.nii.gz")
        write_volume(shifted(truth_of(i), 1 + i // 2), tmp_path / f"bad/{case}.nii.gz")
    content = {"labels": LABELS, "file_ending": ".nii.gz", "channel_names": {"0": "MRI"}}
    (tmp_path / "good/dataset.json").write_text(json.dumps(content))
    return tmp_path


def invoke(data, *arguments, predictions=("good=good", "bad=bad"), out="out"):
    folders = [f"{name}={data / folder}" for name, folder in (text.split("=") for text in predictions)]
    where = ["--images", str(data / "images"), "--labels", str(data / "labels"), "-o", str(data / out)]
    return CliRunner().invoke(app, ["gallery", "--predictions", *folders, *where, *map(str, arguments)])


def refused(done):
    assert done.exit_code == 1, done.output
    return " ".join(done.output.split())


def captions(page):
    return re.findall("<figcaption>(.*?)</figcaption>", page)


def dice(a, b):
    both = [2 * ((a == v) & (b == v)).sum() / ((a == v).sum() + (b == v).sum()) for v in (1, 2)]
    return sum(both) / 2


def test_the_cases_with_the_largest_differences_and_typical_ones(data):
    done = invoke(data, "--rows", 4)
    assert done.exit_code == 0, done.output
    page = (data / "out/gallery.html").read_text()
    # shifts of 0 + 1, 1, 2, 2, 3, 3, 4 rows: the last has the largest difference, then 4 and 5; case 7 has no Dice
    shown = re.findall(r"<summary>(case_\d) \((\w+)", page)
    assert [why for _, why in shown] == ["difference", "difference", "typical", "typical"]
    assert shown[0][0] == "case_6" and shown[1][0] in ("case_4", "case_5")
    assert not {"case_7", "case_0"} & {name for name, _ in shown}
    for name in ("gallery.png", "gallery.pdf"):
        assert (data / "out" / name).stat().st_size > 10_000
    assert (data / "out/gallery.pdf").read_bytes().startswith(b"%PDF")


def test_the_dice_of_a_case_and_the_slice_that_shows(data):
    assert invoke(data, "--cases", "case_2", "case_0").exit_code == 0
    page = (data / "out/gallery.html").read_text()
    assert re.findall(r"<summary>(case_\d)<", page) == ["case_2", "case_0"]
    found = captions(page)
    good, bad = (dice(shifted(truth_of(2), by), truth_of(2)) for by in (1, 2))
    assert found[:4] == ["image", "truth", f"good: {good:.3f}", f"bad: {bad:.3f}"] and good > bad
    assert [int(z) for z in re.findall(r"slice <output>(\d)</output> of 0 to 5", page)] == [3, 1]
    rows = re.findall(r"<td>(case_\d)</td><td>(\w+)</td>", page)
    assert rows == [(case, label) for case in ("case_0", "case_2") for label in ("big", "small")]
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # it needs no other file


def test_of_too_many_lines_the_page_has_the_mean_of_every_case(data, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.commands.gallery.page._ROWS", 3)
    assert invoke(data, "--cases", "case_2", "case_0").exit_code == 0
    page = (data / "out/gallery.html").read_text()
    good = dice(shifted(truth_of(2), 1), truth_of(2))
    assert "The mean of every case over its labels (2 cases" in page
    rows = re.findall(r'<td>(case_\d)</td><td class="n">([\d.]+)</td>', page)
    assert [case for case, _ in rows] == ["case_0", "case_2"] and float(rows[1][1]) == pytest.approx(good, abs=1e-3)


def test_the_dice_is_computed_in_as_many_processes_as_nnunet_has(data, pools):
    assert invoke(data, "--cases", "case_2", "case_0", "case_1", "case_3").exit_code == 0
    good, bad = (dice(shifted(truth_of(2), by), truth_of(2)) for by in (1, 2))
    assert pools == [3] and captions((data / "out/gallery.html").read_text())[2:4] == [
        f"good: {good:.3f}",
        f"bad: {bad:.3f}",
    ]


@pytest.mark.parametrize("out", ["good", "bad", "images", "labels"])
def test_a_folder_that_is_read_is_no_place_for_pictures(data, out):
    before = sorted(data.rglob("*"))
    assert f"{out} holds masks or images that are to be read" in refused(invoke(data, out=out))
    assert sorted(data.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_said_before_masks_are_read(data, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.commands.gallery.of_predictions", pytest.fail)
    (data / "out").write_text("a file")
    assert refused(invoke(data)).endswith("out is a file; name a folder")


def test_an_earlier_gallery_is_kept_if_a_new_one_fails(data, monkeypatch):
    assert invoke(data, "--rows", 1).exit_code == 0
    (data / "out" / "thesis.tex").write_text("years")
    files = {file: file.read_bytes() for file in (data / "out").iterdir()}

    def fail(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nnunet_xattnres.commands.gallery.write_gallery", fail)
        assert "No space left" in refused(invoke(data, "--rows", 2, "--force"))
    assert files == {file: file.read_bytes() for file in (data / "out").iterdir()}
    assert invoke(data, "--rows", 2, "--force").exit_code == 0
    assert set(files) == set((data / "out").iterdir()) and (data / "out" / "thesis.tex").read_text() == "years"


def write_dataset(folder, labels):
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))


def test_the_folder_above_the_true_masks_counts_only_where_no_other_says_it(data):
    """It may be that of another data set, which happens to lie there."""
    write_dataset(data, {"background": 0, "something else": 1})
    assert invoke(data, "--rows", 1).exit_code == 0
    page = (data / "out/gallery.html").read_text()
    assert "small" in page and "something else" not in page
    (data / "good" / "dataset.json").unlink()
    assert invoke(data, "--rows", 1, "--force").exit_code == 0
    assert "something else" in (data / "out/gallery.html").read_text()


def test_a_slice_that_is_named(data):
    assert invoke(data, "--slice", 2, "--rows", 2).exit_code == 0
    page = (data / "out/gallery.html").read_text()
    assert set(re.findall(r"slice <output>(\d)</output>", page)) == {"2"}
    text = refused(invoke(data, "--slice", 6, "--cases", "case_1", "--force"))
    assert "--slice 6: case_1 has the slices 0 to 5" in text


def test_the_picture_has_what_was_read(data):
    """The row of a case: the right slice, its proportions, every mask and the Dice of the whole case."""
    names = {"good": data / "good", "bad": data / "bad"}
    models = [
        Model(name, folder, {"case_1": folder / "case_1.nii.gz"}, {"case_1": {"1": 0.5, "2": 0.7}})
        for name, folder in names.items()
    ]
    files = {"case_1": [str(data / "images/case_1_0000.nii.gz")]}
    content = json.loads((data / "good/dataset.json").read_text())
    material = Material(models, files, {"case_1": data / "labels/case_1.nii.gz"}, content, SimpleITKIO(), (0.0, 100.0))
    volume = cells.read_case(material, cells.Chosen("case_1"), None)
    row = cells.row_of(volume, {"good": 0.6, "bad": float("nan")})
    assert (row.z, row.n_slices, row.aspect) == (2, 6, 1.0) and row.picture.shape == (20, 16, 3)
    assert np.array_equal(row.truth, truth_of(1)[2])
    assert np.array_equal(row.predictions["good"][0], shifted(truth_of(1), 1)[2])
    assert row.picture.max() == 1 and row.picture.min() == 1  # voxels from 640 on: above the window
    figure.draw([row], Classes.of(LABELS), {1: "#e69f00", 2: "#56b4e9"}, [data / "one.png"])
    pixels = matplotlib.image.imread(data / "one.png")[..., :3]
    for color in ((0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)):
        assert (np.abs(pixels * 255 - color).max(axis=-1) < 2).sum() > 100


def test_where_nobody_has_looked(data, monkeypatch):
    """The last slice is all of the ignore label: it has the most voxels, and nothing to show."""
    contour, drawn = Axes.contour, []

    def watched(*arguments, **named):
        drawn.append(named["colors"])
        return contour(*arguments, **named)

    monkeypatch.setattr(Axes, "contour", watched)
    truth = truth_of(1)
    truth[5], truth[2, :, 14:] = 3, 3
    write_volume(truth, data / "labels/case_1.nii.gz")
    labels = LABELS | {"ignore": 3}
    rewrite(data / "good/dataset.json", lambda content: content.update(labels=labels))
    done = invoke(data, "--cases", "case_1")
    assert done.exit_code == 0, done.output
    assert "slice <output>2</output>" in (data / "out/gallery.html").read_text()
    colors = ["#e69f00", "#56b4e9"]
    of_a_model = ["white", "white", *colors]
    assert drawn == [*colors, IGNORED, *of_a_model, *of_a_model]  # in the column of the truth it is grey


def test_values_of_the_same_regions_are_one_class(data):
    """nnU-Net predicts 2 in whole and 1 in core; the truth may also have 3, which is in both as 1 is."""
    labels = {"background": 0, "whole": [1, 2, 3], "core": [1, 3]}
    rewrite(data / "good/dataset.json", lambda content: content.update(labels=labels, regions_class_order=[2, 1]))
    truth, mask = np.zeros(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=np.uint8)
    truth[2, 4:16, 2:14], truth[2, 6:14, 4:12], truth[2, 6:10, 4:12] = 2, 1, 3
    mask[2, 4:16, 2:14], mask[2, 6:14, 4:12] = 2, 1
    write_volume(truth, data / "labels/case_1.nii.gz")
    for folder in ("good", "bad"):
        write_volume(mask, data / f"{folder}/case_1.nii.gz")
    done = invoke(data, "--cases", "case_1")
    assert done.exit_code == 0, done.output
    page = (data / "out/gallery.html").read_text()
    assert captions(page)[1:] == ["truth", "good: 1.000", "bad: 1.000"]
    assert re.findall(r"</i>([^<]+)</li>", page) == ["whole and core", "whole"]
    sheets = re.findall('href="(data:image/png[^"]+)"', page)
    assert len(sheets) == 3 and len(set(sheets)) == 1  # the same classes: the same colours and outlines


def write_training(results, trainer, dice, fold=0, plans="nnUNetPlans"):
    """A fold with the masks of its validation; ``case_3``, for example, has ``truth_of(3)``."""
    model = write_fold(results, trainer, fold, dice, plans=plans)
    plans = json.loads((model / "plans.json").read_text())
    for configuration in plans["configurations"].values():
        configuration["normalization_schemes"] = ["ZScoreNormalization"]
    (model / "plans.json").write_text(json.dumps(plans))
    for case in dice:
        write_volume(truth_of(int(case[-1])), model / f"fold_{fold}/validation/{case}.nii.gz")


def write_raw(raw, cases):
    for case in cases:
        write_volume(np.ones(SIZE, dtype=np.int16), raw / f"imagesTr/{case}_0000.nii.gz")
        write_volume(truth_of(int(case[-1])), raw / f"labelsTr/{case}.nii.gz")


def show(tmp_path, *arguments):
    """A gallery of trainings."""
    line = ["gallery", "-d", "4", "-c", "2d", "-tr", A, B, "-o", str(tmp_path / "out"), *arguments]
    return CliRunner().invoke(app, line)


def test_trained_models_by_their_validation(results, tmp_path):
    values = {f"case_{i}": (0.9 - 0.1 * i, 0.8) for i in range(4)}
    for trainer, worse in ((A, 0.3), (B, 0.0)):
        write_training(results, trainer, {case: (a - worse, b) for case, (a, b) in values.items()})
    raw = tmp_path / "nnUNet_raw" / results.name
    write_raw(raw, values)
    done = show(tmp_path, "--rows", "2")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out/gallery.html").read_text()
    first = re.search(r"<summary>(case_\d)", page)[1]
    a, b = values[first]
    assert captions(page)[2:4] == [f"{A}: {(a - 0.3 + b) / 2:.3f}", f"{B}: {(a + b) / 2:.3f}"]  # nnU-Net's numbers
    assert "name another, or replace it with --force" in refused(show(tmp_path))
    done = show(tmp_path, "--force", "--cases", "case_9")
    assert "--cases case_9: there is no such mask in the validation of fold 0; there are case_0" in refused(done)
    (raw / "imagesTr/case_2_0000.nii.gz").unlink()
    done = show(tmp_path, "--force", "--cases", "case_2")
    assert "there is no image case_2_0000.nii.gz" in refused(done)


def test_fold_all_does_not_stand_in_for_the_others(results, tmp_path):
    """It was trained on the cases that it is validated on, and has every case of the others."""
    for trainer in (A, B):
        write_training(results, trainer, {"case_0": (0.5, 0.5)})
        write_training(results, trainer, {"case_1": (0.5, 0.5)}, fold=1)
        write_training(results, trainer, {"case_0": (1.0, 1.0), "case_1": (1.0, 1.0)}, fold="all")
    write_raw(tmp_path / "nnUNet_raw" / results.name, ["case_0", "case_1"])
    done = show(tmp_path)
    assert done.exit_code == 0, done.output
    assert captions((tmp_path / "out/gallery.html").read_text())[2:4] == [f"{A}: 0.500", f"{B}: 0.500"]
    text = refused(show(tmp_path, "--force", "-f", "0", "-f", "all"))
    assert f"{A}__nnUNetPlans__2d: case_0 was validated in fold 0 and in fold all" in text and "-f" in text


def test_folds_that_not_all_have_are_named_with_the_folder_that_lacks_them(results, tmp_path):
    for trainer, fold in ((A, 0), (A, 1), (B, 0)):
        write_training(results, trainer, {f"case_{fold}": (0.5, 0.5)}, fold=fold)
    write_raw(tmp_path / "nnUNet_raw" / results.name, ["case_0", "case_1"])
    done = show(tmp_path)
    assert done.exit_code == 0, done.output
    note = f"Fold 1 left out: not validated in {B}__nnUNetPlans__2d."
    page = (tmp_path / "out/gallery.html").read_text()
    assert note in done.output and note in page
    assert "\n1 case of fold 0\n" in done.output and "1 case of fold 0" in page
    assert "left out" not in show(tmp_path, "--force", "-f", "0").output


def test_a_repeat_that_has_only_begun_is_not_shown(results, tmp_path):
    (results / f"{A}__nnUNetPlans__2d" / "fold_0").mkdir(parents=True)
    for trainer, plans in ((A, "nnUNetPlans_rep1"), (B, "nnUNetPlans")):
        write_training(results, trainer, {"case_0": (0.5, 0.5)}, plans=plans)
    (results / f"{B}__nnUNetPlans_rep1__2d" / "fold_0").mkdir(parents=True)  # which would not be shown anyhow
    write_raw(tmp_path / "nnUNet_raw" / results.name, ["case_0"])
    done = show(tmp_path)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out/gallery.html").read_text()
    assert f"Left out: {A}__nnUNetPlans__2d, without" in done.output and f"Left out: {A}__nnUNetPlans__2d, w" in page


def test_cases_that_all_models_have(results, tmp_path):
    write_training(results, A, {"case_0": (0.5, 0.5), "case_1": (0.6, 0.6)})
    write_training(results, B, {"case_1": (0.7, 0.7), "case_2": (0.5, 0.5)})
    write_raw(tmp_path / "nnUNet_raw" / results.name, ["case_0", "case_1", "case_2"])
    assert "or cases that all have with --cases" in refused(show(tmp_path))
    done = show(tmp_path, "--cases", "case_1")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out/gallery.html").read_text()
    assert captions(page)[2:4] == [f"{A}: 0.600", f"{B}: 0.700"] and "(1 cases, of which 1 are shown above)" in page
    assert "case_0" not in page and "case_2" not in page


def test_masks_are_read_as_the_images_were_for_the_training(data, results):
    """Of case_1, which is tilted, after case_0, which is not."""
    for folder in ("images", "labels", "good", "bad"):
        shear(next((data / folder).glob("case_1*")))
    plans = {"image_reader_writer": "NibabelIO"}
    (data / "bad/plans.json").write_text(json.dumps(plans))
    done = invoke(data, "--cases", "case_0", "case_1")
    assert done.exit_code == 0, done.output

    for trainer in (A, B):
        write_training(results, trainer, dict.fromkeys(["case_0", "case_1"], (0.5, 0.5)))
        model = results / f"{trainer}__nnUNetPlans__2d"
        shear(model / "fold_0/validation/case_1.nii.gz")
        rewrite(model / "plans.json", lambda content: content.update(plans))
    raw = data / "nnUNet_raw" / results.name
    write_raw(raw, ["case_0", "case_1"])
    shear(raw / "labelsTr/case_1.nii.gz")
    done = show(data, "--force")
    assert done.exit_code == 0, done.output


def test_photographs_in_colour(tmp_path):
    picture = np.zeros((12, 16, 3), dtype=np.uint8)
    picture[..., 0], picture[:6, :, 1] = 255, 255  # red, and yellow above
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[3:9, 4:12] = 1
    for folder, name, content in (
        ("images", "a_0000", picture),
        ("labels", "a", mask),
        ("good", "a", mask),
    ):
        (tmp_path / folder).mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(content, content.ndim == 3), tmp_path / folder / f"{name}.png")
    content = {"labels": {"background": 0, "lesion": 1}, "file_ending": ".png", "channel_names": {"0": "R"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))  # beside labels, as in nnUNet_raw
    done = invoke(tmp_path, predictions=["good=good"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out/gallery.html").read_text()
    assert captions(page) == ["image", "truth", "good: 1.000"] and "<input" not in page and "typical" in page
    pixels = matplotlib.image.imread(tmp_path / "out/gallery.png")[..., :3]
    for color in ((1, 0, 0), (1, 1, 0)):
        assert (np.abs(pixels - color).max(axis=-1) < 0.02).sum() > 1000


def test_masks_in_colour_are_refused(tmp_path):
    """Which of the channels is the mask is not known."""
    mask = np.zeros((12, 16), dtype=np.uint8)
    mask[3:9, 4:12] = 1
    for folder, name, content in (
        ("images", "a_0000", mask),
        ("labels", "a", np.dstack([mask] * 3)),
        ("good", "a", mask),
    ):
        (tmp_path / folder).mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(content, content.ndim == 3), tmp_path / folder / f"{name}.png")
    content = {"labels": {"background": 0, "lesion": 1}, "file_ending": ".png", "channel_names": {"0": "R"}}
    (tmp_path / "good" / "dataset.json").write_text(json.dumps(content))
    text = refused(invoke(tmp_path, predictions=["good=good"]))
    assert f"a: {tmp_path / 'labels' / 'a.png'} has 3 channels" in text and "save it in grey" in text


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "bad/case_3.nii.gz").unlink(), "bad (bad) has no case_3.nii.gz, which others have"),
        (lambda d: (d / "labels/case_3.nii.gz").unlink(), "labels has no case_3.nii.gz"),
        (lambda d: (d / "images/case_3_0000.nii.gz").unlink(), "no image case_3_0000.nii.gz"),
        (lambda d: (d / "good/dataset.json").unlink(), "there is no dataset.json in"),
        (lambda d: write_volume(truth_of(3)[:5], d / "bad/case_3.nii.gz"), "case_3.nii.gz has the shape (5, 20, 16)"),
        (
            lambda d: write_volume(np.zeros((6, 20, 15), dtype=np.int16), d / "images/case_3_0000.nii.gz"),
            "labels/case_3.nii.gz has the shape (6, 20, 16)",
        ),
        (lambda d: (d / "bad/case_3.nii.gz").write_bytes(b"x" * 99), "bad/case_3.nii.gz cannot be read"),
        (
            lambda d: write_dataset(d / "bad", {"background": 0}),
            "has other labels than",
        ),
        (
            lambda d: (d / "good/dataset.json").write_text(json.dumps({"labels": LABELS})),
            "good/dataset.json has no file_ending: it is no dataset.json of nnU-Net's",
        ),
        (lambda d: (d / "good/dataset.json").write_text("[]"), "good/dataset.json has no labels, file_ending"),
    ],
)
def test_what_does_not_fit_is_named(data, damage, words):
    damage(data)
    assert words in refused(invoke(data, "--cases", "case_3")) and not (data / "out/gallery.html").exists()


def test_words_that_do_not_fit_are_named(data):
    assert "--cases case_99: there is no such mask" in refused(invoke(data, "--cases", "case_99"))
    assert "nowhere does not exist" in refused(invoke(data, predictions=["good=good", "bad=nowhere"]))
    assert "name one of them: --predictions" in refused(invoke(data, "-d", 4))
    assert "name one of them: --rows" in refused(invoke(data, "--rows", 2, "--cases", "case_1"))
    done = CliRunner().invoke(app, ["gallery", "-o", str(data / "out")])
    assert "name a data set (-d), a configuration (-c) and trainers (-tr), or --predictions" in refused(done)


def models_of(**values):
    return [
        Model(name, None, {}, {f"c{i}": {"1": value} for i, value in enumerate(found)})
        for name, found in values.items()
    ]


def test_typical_is_near_the_median_of_every_model():
    one = models_of(a=[0.1, 0.5, 0.52, 0.9, 0.6])
    assert [c.case for c in choose(one, 3)] == ["c2", "c1", "c4"] and {c.why for c in choose(one, 3)} == {"typical"}
    two = models_of(a=[0.1, 0.5, 0.52, 0.9, 0.6], b=[0.9, 0.5, 0.6, 0.9, 0.6])
    assert [c.case for c in choose(two, 3)] == ["c0", "c2", "c4"]
    assert [c.case for c in choose(two, 99)][:2] == ["c0", "c2"] and len(choose(two, 99)) == 5
    with pytest.raises(UserError, match="no case has a label"):
        choose(models_of(a=[float("nan")]), 3)


def test_names_of_trainers_break_at_capitals():
    assert figure._wrapped("nnUNetTrainerUCTransNet_5epochs") == "nnUNetTrainerUCTransNet\n_5epochs"
    assert figure._wrapped("short") == "short" and figure._wrapped("a b") == "a b"
