"""Synapse: four label orders, three kinds of files, slices on their side; nothing is guessed."""

import gzip
import json
import shutil
import sys
from itertools import product

import nibabel
import numpy as np
import pytest
import SimpleITK
from helpers import distributed
from helpers.distributed import NUMBERS, body, on_its_side, scan, to_the_front, write_h5, write_nifti, write_slices

from nnunet_xattnres.commands.convert import DATA_SETS, convert
from nnunet_xattnres.commands.convert.synapse import GEOMETRY, TEST
from nnunet_xattnres.common.errors import UserError

CASES = {40: 195, 1: 147}  # training and test, and their slices
LAYOUTS = {"TransUNet": on_its_side, "EMCAD": to_the_front, "SAMed": on_its_side, "BTCV": to_the_front}


def convert_synapse(tmp_path, **options):
    return convert(DATA_SETS["synapse"], tmp_path / "source", tmp_path / "raw", **options)


def write_arrays(source, distribution, case, write, without=(), layout=None):
    labels = body(GEOMETRY[case][2], NUMBERS[distribution], without)
    turn = layout or LAYOUTS[distribution]
    write(source, case, turn(scan(labels)), turn(labels))


def expect_upright(outcome, case, which="Tr", values=None, **options):
    """The files have our numbers and axes that run left, posterior and up, as SimpleITK sees them."""
    paths = f"images{which}/case{case:04d}_0000.nii.gz", f"labels{which}/case{case:04d}.nii.gz"
    image, labels = (SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(outcome.folder / path)), "LPS") for path in paths)
    expected = body(GEOMETRY[case][2], **options)
    assert np.array_equal(SimpleITK.GetArrayFromImage(labels).transpose(2, 1, 0), expected)
    found = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    assert np.allclose(found, 400 * scan(expected) - 125 if values is None else values, atol=1e-3)
    assert labels.GetSpacing() == image.GetSpacing() and labels.GetDirection() == image.GetDirection()
    return image


@pytest.mark.parametrize("distribution", NUMBERS)
def test_each_order_of_labels_and_each_layout(tmp_path, distribution):
    write_arrays(tmp_path / "source" / "train_npz", distribution, 40, write_slices)
    outcome = convert_synapse(tmp_path)
    assert outcome.measured["labels of npz"].startswith(distribution)
    image = expect_upright(outcome, 40)
    pixel = 0.742 * 512 / distributed.SIDE  # of a slice as wide as the patient
    assert image.GetSpacing() == pytest.approx((pixel, pixel, 3)) and image.GetOrigin() == (0, 0, 0)
    description = json.loads((outcome.folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0} | {name: i for i, name in enumerate(distributed.OURS, start=1)}
    assert description["channel_names"] == {"0": "CT"}  # nnU-Net's normalisation of CT


def test_slices_of_the_scanners_size_and_of_half_of_it_show_one_patient(tmp_path):
    labels = body(GEOMETRY[40][2], NUMBERS["TransUNet"])
    for side, mended in ((256, {"slices that were resized to 256 x 256: their spacing": 1}), (512, {})):
        large = np.kron(labels, np.ones((side // 128, side // 128, 1), np.uint8))
        large = np.pad(large, ((0, side - len(large)), (0, side - len(large)), (0, 0)))
        write_slices(tmp_path / "source" / str(side), 40, on_its_side(scan(large)), on_its_side(large))
        outcome = convert(DATA_SETS["synapse"], tmp_path / "source" / str(side), tmp_path / str(side))
        image = SimpleITK.ReadImage(str(outcome.folder / "imagesTr" / "case0040_0000.nii.gz"))
        assert image.GetSize() == (side, side, 195) and outcome.mended == mended
        assert [n * mm for n, mm in zip(image.GetSize(), image.GetSpacing(), strict=True)] == pytest.approx(
            [512 * 0.742, 512 * 0.742, 195 * 3]
        )


AXES = list(product((1, -1), (1, -1), (1, -1), (False, True)))


@pytest.mark.parametrize(("up", "first", "second", "swap"), AXES)
def test_any_way_that_slices_may_lie(tmp_path, up, first, second, swap):
    def layout(array):
        turned = on_its_side(array)[::up, ::first, ::second]
        return turned.swapaxes(1, 2) if swap else turned

    write_arrays(tmp_path / "source", "TransUNet", 31, write_slices, layout=layout)
    expect_upright(convert_synapse(tmp_path), 31)


def test_the_test_cases_may_come_later(tmp_path):
    write_arrays(tmp_path / "source", "TransUNet", 31, write_slices)
    convert_synapse(tmp_path)
    write_arrays(tmp_path / "source", "TransUNet", 1, write_h5)
    outcome = convert_synapse(tmp_path)
    assert (outcome.n_before, outcome.n_training, outcome.n_test) == (1, 1, 1)


def test_another_distribution_does_not_go_on_with_the_first(tmp_path):
    write_arrays(tmp_path / "source", "TransUNet", 31, write_slices)
    convert_synapse(tmp_path)
    shutil.rmtree(tmp_path / "source")
    labels = body(GEOMETRY[31][2], NUMBERS["BTCV"])
    write_nifti(tmp_path / "source", 31, scan(labels), labels)
    with pytest.raises(UserError, match=r"was made with labels of npz \"TransUNet's numbers\", and now it is not set"):
        convert_synapse(tmp_path)


def test_slices_to_train_and_h5_volumes_to_test(tmp_path):
    write_arrays(tmp_path / "source" / "train_npz", "TransUNet", 40, write_slices)
    write_arrays(tmp_path / "source" / "test_vol_h5", "TransUNet", 1, write_h5)
    outcome = convert_synapse(tmp_path)
    expect_upright(outcome, 40)
    expect_upright(outcome, 1, "Ts")
    assert outcome.parts == {"training": (1, 18), "test": (1, 12)}


def test_an_organ_that_a_case_lacks(tmp_path):
    write_arrays(tmp_path / "source", "EMCAD", 40, write_slices)
    write_arrays(tmp_path / "source", "EMCAD", 23, write_slices, without=("gallbladder",))
    outcome = convert_synapse(tmp_path)
    expect_upright(outcome, 23, without=("gallbladder",))
    assert [(len(fold["train"]), len(fold["val"])) for fold in outcome.folds] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("codes", ["LAS", "RAS", "LPS"])
def test_btcvs_nifti(tmp_path, codes):
    """The image is the file itself; its header says how it lies."""
    for case in CASES:
        labels = body(CASES[case], NUMBERS["BTCV"])
        values = (1000 * scan(labels) - 500).astype(np.int16)
        write_nifti(tmp_path / "source" / "RawData" / "Training", case, values, labels, codes)
    shutil.copytree(tmp_path / "source" / "RawData" / "Training" / "img", tmp_path / "source" / "Testing" / "img")
    for path in (tmp_path / "source" / "Testing" / "img").iterdir():
        path.rename(path.with_name("img0061.nii.gz" if "0001" in path.name else "img0062.nii.gz"))
    outcome = convert_synapse(tmp_path)
    for case, which in ((40, "Tr"), (1, "Ts")):
        values = (1000 * scan(body(CASES[case])) - 500).astype(np.int16)
        expect_upright(outcome, case, which, values)
    assert outcome.skipped["volumes without labels, such as BTCV's own test set"] == [
        "img0061.nii.gz",
        "img0062.nii.gz",
    ]
    source = tmp_path / "source" / "RawData" / "Training" / "img" / "img0040.nii.gz"
    assert (outcome.folder / "imagesTr" / "case0040_0000.nii.gz").read_bytes() == source.read_bytes()


def test_nifti_that_is_not_compressed(tmp_path):
    labels = body(CASES[40], NUMBERS["BTCV"])
    write_nifti(tmp_path / "source", 40, (1000 * scan(labels)).astype(np.int16), labels)
    for path in [*(tmp_path / "source").rglob("*.gz")]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    expect_upright(convert_synapse(tmp_path), 40, values=(1000 * scan(labels)).astype(np.int16))


def test_the_18_and_the_12():
    """TransUNet's lists."""
    assert len(GEOMETRY) == 30 and len(TEST) == 12 and set(TEST) < set(GEOMETRY)
    training = [5, 6, 7, 9, 10, 21, 23, 24, 26, 27, 28, 30, 31, 33, 34, 37, 39, 40]
    assert sorted(set(GEOMETRY) - set(TEST)) == training
    slices = [117, 131, 163, 149, 148, 143, 96, 124, 131, 88, 89, 153, 93, 104, 98, 99, 90, 195]
    assert [GEOMETRY[number][2] for number in training] == slices and sum(slices) == 2211


def test_five_folds_over_the_18_are_nnunets():
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    from nnunet_xattnres.commands.convert.splits import folds_of

    parts = {f"case{n:04d}": "test" if n in TEST else "training" for n in GEOMETRY}
    same = {name: name for name in parts}
    folds = folds_of("official", parts, same, same)
    nnunets = generate_crossval_split(sorted(name for name in parts if parts[name] == "training"))
    assert folds == [{key: [str(name) for name in fold[key]] for key in ("train", "val")} for fold in nnunets]
    assert [len(fold["val"]) for fold in folds] == [4, 4, 4, 3, 3]
    assert all(type(name) is str for fold in folds for name in fold["train"])


def swapped(labels, a, b):
    lookup = np.arange(256, dtype=np.uint8)
    lookup[[a, b]] = b, a
    return lookup[labels]


WRONG = {
    "mixed numbers": (lambda x: swapped(x, 5, 7), "the labels fit no known order"),
    "the kidneys changed": (lambda x: swapped(x, 3, 4), "the left kidney lies on the side of the liver"),
    "no organs": (lambda x: np.zeros_like(x), "the labels fit no known order"),
    "one too many": (lambda x: np.where(x == 8, 14, x), "has the label 14"),
    "scattered": (
        lambda x: np.random.default_rng(0).permuted(x.ravel()).reshape(x.shape),
        "do not lie as in a patient",
    ),
    "no whole numbers": (lambda x: x * 0.5, "the labels are no whole numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_fit_nothing(tmp_path, name):
    change, words = WRONG[name]
    labels = body(CASES[40])
    write_slices(tmp_path / "source", 40, on_its_side(scan(labels)), on_its_side(change(labels)))
    with pytest.raises(UserError) as error:
        convert_synapse(tmp_path)
    assert words in str(error.value) and not list(tmp_path.glob("raw/*"))


def test_a_single_case_with_a_small_spleen_is_not_taken_for_another_order(tmp_path):
    """With TransUNet's numbers and an aorta that is larger than the spleen, SAMed's would fit by these two alone."""
    labels = body(CASES[40])
    spleen = np.argwhere(labels == 7)
    labels[tuple(spleen[: int(len(spleen) * 0.9)].T)] = 0
    write_slices(tmp_path / "source", 40, on_its_side(scan(labels)), on_its_side(labels))
    with pytest.raises(UserError, match="with TransUNet's numbers the spleen is not larger than the aorta"):
        convert_synapse(tmp_path)


def test_a_mirrored_case_among_others(tmp_path):
    write_arrays(tmp_path / "source", "TransUNet", 40, write_slices)
    write_arrays(tmp_path / "source", "TransUNet", 39, write_slices)
    write_arrays(tmp_path / "source", "TransUNet", 31, write_slices, layout=lambda x: on_its_side(x)[:, ::-1])
    with pytest.raises(UserError, match="case0031 is a mirror image of the other cases"):
        convert_synapse(tmp_path)


def test_a_header_that_contradicts_the_organs(tmp_path):
    labels = body(CASES[40], NUMBERS["BTCV"])
    write_nifti(tmp_path / "source", 40, scan(labels), labels, "LPS")
    for path in (tmp_path / "source").rglob("*.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(nibabel.load(path).get_fdata(), np.eye(4)), path)
    with pytest.raises(UserError, match="the headers are wrong: the axes run right, anterior, up by the organs"):
        convert_synapse(tmp_path)


def test_labels_on_another_grid_than_the_image(tmp_path):
    labels = body(CASES[40], NUMBERS["BTCV"])
    write_nifti(tmp_path / "source", 40, scan(labels), labels)
    path = tmp_path / "source" / "img" / "img0040.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(), image.affine + np.eye(4, k=3)), path)
    with pytest.raises(UserError, match=r"lies elsewhere than .*\. Fetch both again, or, if you know"):
        convert_synapse(tmp_path)


@pytest.mark.parametrize("kind", ["img", "label"])
def test_half_a_nifti_file(tmp_path, kind):
    """The image is copied as it is: it is looked at before."""
    labels = body(CASES[40], NUMBERS["BTCV"])
    write_nifti(tmp_path / "source", 40, scan(labels), labels)
    path = tmp_path / "source" / kind / f"{kind}0040.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"{kind}0040.nii.gz cannot be read"):
        convert_synapse(tmp_path)


def test_volumes_that_are_not_whole(tmp_path):
    write_arrays(tmp_path / "source", "TransUNet", 40, write_slices)
    (tmp_path / "source" / "case0040_slice007.npz").unlink()
    with pytest.raises(UserError, match=r"195 slices, and 1 of them, case0040_slice007.npz first, are not"):
        convert_synapse(tmp_path)
    (tmp_path / "source" / "case0040_slice007.npz").write_bytes(b"PK half of one")
    with pytest.raises(UserError, match=r"case0040_slice007.npz cannot be read"):
        convert_synapse(tmp_path)


def test_an_h5_volume_with_other_slices_is_another_case(tmp_path):
    labels = on_its_side(body(100))
    write_h5(tmp_path / "source", 1, scan(labels), labels)
    with pytest.raises(UserError, match="this case has 147 slices"):
        convert_synapse(tmp_path)


def test_an_image_that_was_not_mapped_to_0_and_1(tmp_path):
    labels = on_its_side(body(CASES[40]))
    write_slices(tmp_path / "source", 40, 255 * scan(labels), labels)
    with pytest.raises(UserError, match="the image goes from 0 to 255, not from 0 to 1"):
        convert_synapse(tmp_path)


def test_two_distributions_in_one_folder(tmp_path):
    write_arrays(tmp_path / "source" / "a", "TransUNet", 40, write_slices)
    write_arrays(tmp_path / "source" / "b", "EMCAD", 1, write_h5)
    with pytest.raises(UserError, match="holds several distributions"):
        convert_synapse(tmp_path)
    write_arrays(tmp_path / "source" / "a", "TransUNet", 1, write_slices)
    with pytest.raises(UserError, match="holds several distributions: npz, h5"):
        convert_synapse(tmp_path)


def test_without_h5py_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "case0001.npy.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'nnunet-xattnres\[convert\]'"):
        convert_synapse(tmp_path)


def test_size_is_for_pictures(tmp_path):
    with pytest.raises(UserError, match="--size is for pictures"):
        convert_synapse(tmp_path, size=224)
