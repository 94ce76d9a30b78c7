"""CVC-ColonDB and CVC-ClinicDB: what is wrong with their files, and whole sequences in each fold."""

import json

import numpy as np
import pytest
import SimpleITK
import tifffile
from helpers.distributed import blob, frame, write_clinicdb, write_colondb, write_picture
from PIL import Image, UnidentifiedImageError

from nnunet_xattnres.commands.convert import DATA_SETS, convert
from nnunet_xattnres.common.errors import UserError

COLON, CLINIC = (574, 500), (384, 288)


def convert_polyps(name, tmp_path, **options):
    return convert(DATA_SETS[name], tmp_path / "source", tmp_path / "raw", **options)


def pixels(outcome, case, which="Tr"):
    """The image and the labels that were written."""
    files = f"images{which}/{case}_0000.png", f"labels{which}/{case}.png"
    return [np.asarray(Image.open(outcome.folder / file)) for file in files]


def read_folds(outcome):
    return json.loads((outcome.folder / "splits_final.json").read_text())


def test_tif_and_tiff_mixed_and_contours_left_out(tmp_path):
    write_colondb(tmp_path / "source", (76, 77, 98, 380))
    outcome = convert_polyps("colondb", tmp_path)
    assert outcome.folder.name == "Dataset951_CVCColonDB"
    names = [path.name for path in sorted((outcome.folder / "imagesTr").iterdir())]
    assert names == [f"colondb_{n:03d}_0000.png" for n in (76, 77, 98)]  # 380 is damaged
    assert outcome.skipped == {
        "files that are neither picture nor mask": ["cp380.tiff", "cp76.tiff", "cp77.tiff", "cp98.tiff"],
        "damaged: every colour is 0 or 255": ["380"],
    }
    assert not outcome.mended
    image, labels = pixels(outcome, "colondb_077")
    assert np.array_equal(image, frame(COLON, 77)) and np.array_equal(labels, blob(COLON) // 255)


def test_colours_that_are_tagged_as_grey(tmp_path):
    """The made-up file has the defect of the real ones: Pillow does not open it, SimpleITK sees one channel."""
    write_clinicdb(tmp_path / "source", (1, 30))
    defect = tmp_path / "source" / "Original" / "1.tif"
    with pytest.raises(UnidentifiedImageError):
        Image.open(defect)
    assert SimpleITK.ReadImage(str(defect)).GetNumberOfComponentsPerPixel() == 1
    outcome = convert_polyps("clinicdb", tmp_path)
    assert outcome.mended["colour pictures that are tagged as grey"] == 2
    assert np.array_equal(pixels(outcome, "clinicdb_001")[0], frame(CLINIC, 1))


def test_the_grey_border_of_the_camera_is_not_polyp(tmp_path):
    write_clinicdb(tmp_path / "source", (1, 30))
    outcome = convert_polyps("clinicdb", tmp_path)
    labels = pixels(outcome, "clinicdb_001")[1]
    assert np.array_equal(labels, blob(CLINIC) // 255)  # 11 is background, 128 is polyp
    assert outcome.mended["masks with grey values, cut at 127"] == 2


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_masks_with_several_channels(tmp_path, channels):
    source = tmp_path / "source"
    mask = np.stack([blob(CLINIC)] * channels, axis=-1)
    if channels % 2 == 0:
        mask[..., -1] = 255  # alpha
    for number in (1, 30):
        write_picture(source / "Original" / f"{number}.png", frame(CLINIC, number))
        write_picture(source / "Ground Truth" / f"{number}.png", mask)
    outcome = convert_polyps("clinicdb", tmp_path)
    assert np.array_equal(pixels(outcome, "clinicdb_030")[1], blob(CLINIC) // 255)
    assert outcome.mended.get("pictures or masks with an alpha channel", 0) == 2 * (channels != 3)


def test_a_picture_with_an_alpha_channel(tmp_path):
    write_clinicdb(tmp_path / "source", (1, 30))
    (tmp_path / "source" / "Original" / "1.tif").unlink()
    alpha = np.dstack([frame(CLINIC, 1), np.full(CLINIC[::-1], 255, np.uint8)])
    write_picture(tmp_path / "source" / "Original" / "1.png", alpha)
    outcome = convert_polyps("clinicdb", tmp_path)
    assert np.array_equal(pixels(outcome, "clinicdb_001")[0], frame(CLINIC, 1))
    assert outcome.mended["pictures or masks with an alpha channel"] == 1


@pytest.mark.parametrize("transparent", [False, True])
def test_a_palette_has_an_alpha_channel_only_if_one_of_its_colours_is_transparent(tmp_path, transparent):
    write_clinicdb(tmp_path / "source", (1, 30))
    original, truth = (tmp_path / "source" / folder / "1.tif" for folder in ("Original", "Ground Truth"))
    options = {"transparency": 0} if transparent else {}
    for path, content in ((original, frame(CLINIC, 1)), (truth, blob(CLINIC))):
        path.unlink()
        Image.fromarray(content).convert("P").save(path.with_suffix(".png"), **options)
    outcome = convert_polyps("clinicdb", tmp_path)
    image, labels = pixels(outcome, "clinicdb_001")
    assert np.array_equal(image, np.asarray(Image.open(original.with_suffix(".png")).convert("RGB")))
    assert np.array_equal(labels, blob(CLINIC) // 255)
    assert ("pictures or masks with an alpha channel" in outcome.mended) == transparent


def test_colours_in_planes(tmp_path):
    write_clinicdb(tmp_path / "source", (1, 30))
    planes = np.moveaxis(frame(CLINIC, 1), -1, 0)
    tifffile.imwrite(
        tmp_path / "source" / "Original" / "1.tif", planes, photometric="minisblack", planarconfig="separate"
    )
    assert np.array_equal(pixels(convert_polyps("clinicdb", tmp_path), "clinicdb_001")[0], frame(CLINIC, 1))


def test_png_beside_tiff_is_the_same_frame(tmp_path):
    write_clinicdb(tmp_path / "source" / "TIF", (1, 30))
    for number in (1, 30):
        write_picture(tmp_path / "source" / "PNG" / "Original" / f"{number}.png", frame(CLINIC, 99))
        write_picture(tmp_path / "source" / "PNG" / "Ground Truth" / f"{number}.png", blob(CLINIC))
    outcome = convert_polyps("clinicdb", tmp_path)
    assert np.array_equal(pixels(outcome, "clinicdb_001")[0], frame(CLINIC, 1))
    assert len(outcome.skipped["the same frame in another format"]) == 4


def test_missing_masks_and_pictures_and_other_sizes_are_left_out_by_name(tmp_path):
    write_clinicdb(tmp_path / "source", (1, 2, 30, 60))
    (tmp_path / "source" / "Ground Truth" / "1.tif").unlink()
    (tmp_path / "source" / "Original" / "2.tif").unlink()
    write_picture(tmp_path / "source" / "Ground Truth" / "30.tif", blob((300, 288)))
    write_clinicdb(tmp_path / "source", (90,))
    outcome = convert_polyps("clinicdb", tmp_path)
    assert outcome.skipped == {
        "pictures without a mask": ["1"],
        "masks without a picture": ["2"],
        "picture and mask differ in size": ["clinicdb_030"],
    }
    assert outcome.n_training == 2
    assert [fold["val"] for fold in read_folds(outcome)] == [["clinicdb_060"], ["clinicdb_090"]]


def test_as_pranet_distributes_it(tmp_path):
    for number in (5, 100):
        write_picture(tmp_path / "source" / "images" / f"{number}.png", frame(COLON, number))
        write_picture(tmp_path / "source" / "masks" / f"{number}.png", blob(COLON))
    outcome = convert_polyps("colondb", tmp_path)
    assert np.array_equal(pixels(outcome, "colondb_005")[0], frame(COLON, 5)) and outcome.n_training == 2


@pytest.mark.parametrize("names", [("image", "mask"), ("images", "masks")])
def test_clinicdb_as_pranet_distributes_it(tmp_path, names):
    """Two parts, one of them among Kvasir's pictures, which have other names and sizes."""
    for part, folders, numbers in (("TrainDataset", names, (5, 100)), ("CVC-ClinicDB", ("images", "masks"), (30,))):
        for folder, pixels_of in zip(folders, (frame, lambda size, _: blob(size)), strict=True):
            for number in numbers:
                write_picture(tmp_path / "source" / part / folder / f"{number}.png", pixels_of(CLINIC, number))
            if part == "TrainDataset":
                name = "cju0qkwl35piu0993l0dewei2.png"
                write_picture(tmp_path / "source" / part / folder / name, pixels_of((622, 529), 1))
    outcome = convert_polyps("clinicdb", tmp_path)
    assert np.array_equal(pixels(outcome, "clinicdb_030")[0], frame(CLINIC, 30)) and outcome.n_training == 3
    assert outcome.skipped == {"files that are neither picture nor mask": ["cju0qkwl35piu0993l0dewei2.png"] * 2}


def test_whole_sequences_in_five_folds_of_about_equal_size(tmp_path):
    """Over all frames that there are: only names are looked at, so the files are empty."""
    from nnunet_xattnres.commands.convert.colondb import FRAMES
    from nnunet_xattnres.commands.convert.splits import folds_of, parts_of

    (tmp_path / "source").mkdir()
    for number in range(1, 381):
        for name in (f"{number}.tif" if 77 <= number <= 97 else f"{number}.tiff", f"p{number}.tiff"):
            (tmp_path / "source" / name).touch()
    cases = FRAMES.find(tmp_path / "source", None, lambda items, what: items).cases
    assert len(cases) == 379
    sequences = {case.name: case.sequence for case in cases}
    assert len(set(sequences.values())) == 15
    folds = folds_of("sequence", parts_of(cases, "sequence"), sequences, {c.name: c.name for c in cases})
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(sequences)
    assert [len(fold["val"]) for fold in folds] == [74, 76, 78, 75, 76]
    for fold in folds:
        assert not {sequences[n] for n in fold["train"]} & {sequences[n] for n in fold["val"]}
        assert len(fold["train"]) + len(fold["val"]) == 379


def test_copies_stay_together_even_across_sequences(tmp_path):
    """39 looks like 1, and 61 like nothing else: three sequences are two groups."""
    write_colondb(tmp_path / "source", (1, 39, 61), same=(1, 39))
    outcome = convert_polyps("colondb", tmp_path)
    assert outcome.copies == 1
    assert sorted(fold["val"] for fold in read_folds(outcome)) == [["colondb_001", "colondb_039"], ["colondb_061"]]


def test_a_random_split_says_how_far_it_leaks(tmp_path):
    write_colondb(tmp_path / "source", range(1, 13), same=range(1, 13))
    outcome = convert_polyps("colondb", tmp_path, split="random")
    assert (outcome.n_training, outcome.n_test) == (10, 2)
    assert len(list((outcome.folder / "imagesTs").iterdir())) == len(list((outcome.folder / "labelsTs").iterdir())) == 2
    (fold,) = read_folds(outcome)
    assert (len(fold["train"]), len(fold["val"])) == (8, 2)
    (warning,) = outcome.warnings
    assert "of 2 test frames 2 are from a video sequence" in warning and "2 are exact copies" in warning
    assert "whether two sequences are of one patient is not published" in warning
    assert convert_polyps("colondb", tmp_path, split="random").folds == outcome.folds


def test_size_squeezes_both(tmp_path):
    write_colondb(tmp_path / "source", (1, 39))
    outcome = convert_polyps("colondb", tmp_path, size=64)
    image, labels = pixels(outcome, "colondb_001")
    assert image.shape == (64, 64, 3) and labels.shape == (64, 64) and set(np.unique(labels)) == {0, 1}
    rows, columns = np.nonzero(labels)
    assert (rows.min() / 64, rows.max() / 64) == pytest.approx((10 / 500, 39 / 500), abs=1 / 64)
    assert (columns.min() / 64, columns.max() / 64) == pytest.approx((20 / 574, 59 / 574), abs=1 / 64)


def test_a_size_at_which_nothing_of_the_polyp_is_left(tmp_path):
    write_colondb(tmp_path / "source", (1, 39))
    mask = np.zeros(COLON[::-1], np.uint8)
    mask[0, 0] = 255
    write_picture(tmp_path / "source" / "p39.tiff", mask)
    assert convert_polyps("colondb", tmp_path).n_training == 2
    with pytest.raises(UserError, match=r"p39.tiff: nothing of the object is left at 32 x 32"):
        convert_polyps("colondb", tmp_path, size=32, number=7)


WAY_OUT = "expected are 8 bits, RGB or for a mask grey: fetch it again, or save it so"


def test_a_mask_in_the_transparency_is_left_out(tmp_path):
    """Its pixels are white all over."""
    write_clinicdb(tmp_path / "source", (1, 30))
    truth = tmp_path / "source" / "Ground Truth" / "1.tif"
    truth.unlink()
    white = np.full_like(blob(CLINIC), 255)
    Image.fromarray(np.dstack([white, blob(CLINIC)]), "LA").save(truth.with_suffix(".png"))
    outcome = convert_polyps("clinicdb", tmp_path)
    assert outcome.n_training == 1
    (reason,) = (reason for reason, what in outcome.skipped.items() if what == ["clinicdb_001"])
    assert reason.startswith("masks that are white all over")
    Image.fromarray(white).save(tmp_path / "source" / "Ground Truth" / "30.tif")
    with pytest.raises(UserError, match=r"none of the 2 cases of .* can be converted: 2 masks that are white"):
        convert_polyps("clinicdb", tmp_path)


def spoil(name, tmp_path):
    """A source with one thing that fits nothing, and the words that name it."""
    source = tmp_path / "source"
    write_clinicdb(source, (1, 30))
    original, truth = source / "Original" / "1.tif", source / "Ground Truth" / "1.tif"
    if name == "frame of another data set":
        write_picture(source / "Original" / "700.tif", frame(CLINIC, 1))
        return "700.tif: this data set has the frames 1 to 612"
    if name == "size of another data set":
        write_picture(original, frame(COLON, 1), photometric="rgb")
        return "1.tif is 574 x 500; the pictures of this data set are 384 x 288"
    if name == "mask of 0 and 1":
        write_picture(truth, blob(CLINIC, 1))
        return (
            "no pixel above 127, 1 at the most; a mask here has 255 on the object: write that (a mask of 0 and 1 times"
        )
    if name == "mask of 16 bits":
        truth.unlink()
        Image.fromarray(blob(CLINIC).astype(np.uint16) * 257).save(truth.with_suffix(".png"))
        return f"1.png has colours of the kind I;16; {WAY_OUT}"
    if name == "coloured mask":
        write_picture(truth, frame(CLINIC, 1), photometric="rgb")
        return f"1.tif is no mask of black and white with 8 bits: (288, 384, 3), uint8; {WAY_OUT}"
    if name == "grey picture":
        write_picture(original, blob(CLINIC))
        return f"1.tif is no colour picture of 8 bits: (288, 384), uint8; {WAY_OUT}"
    if name in ("white on black", "CMYK"):
        original.unlink()
        if name == "CMYK":  # four channels, and no alpha
            Image.fromarray(frame(CLINIC, 1)).convert("CMYK").save(original, compression=None)
            return "1.tif has colours of the kind SEPARATED"
        write_picture(original, frame(CLINIC, 1), photometric="rgb")
        write_picture(truth, blob(CLINIC), photometric="miniswhite")
        return f"1.tif has colours of the kind MINISWHITE; {WAY_OUT}"
    if name == "CMYK in a JPEG":
        original.unlink()
        Image.fromarray(frame(CLINIC, 1)).convert("CMYK").save(original.with_suffix(".png"), format="JPEG")
        return "1.png has colours of the kind CMYK"
    if name == "half a file":
        original.write_bytes(original.read_bytes()[:5000])
        return "1.tif cannot be read"
    other = source / "again" / "Original" / "1.tif"
    write_picture(other, frame(CLINIC, 2), photometric="rgb")
    return "should be the same, and differ"


@pytest.mark.parametrize(
    "name",
    [
        "frame of another data set",
        "size of another data set",
        "mask of 0 and 1",
        "mask of 16 bits",
        "coloured mask",
        "grey picture",
        "white on black",
        "CMYK",
        "CMYK in a JPEG",
        "half a file",
        "two of one name",
    ],
)
def test_what_fits_nothing_is_named(tmp_path, name):
    words = spoil(name, tmp_path)
    with pytest.raises(UserError) as error:
        convert_polyps("clinicdb", tmp_path)
    assert words in str(error.value)
    assert not list(tmp_path.glob("raw/*/dataset.json"))
