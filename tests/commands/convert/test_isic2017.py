"""ISIC 2017: its three parts, what lies among the pictures, and archives that were unpacked into themselves."""

import json
import os
import shutil

import numpy as np
import pytest
from helpers.distributed import blob, write_isic
from PIL import Image

from nnunet_xattnres.commands.convert import DATA_SETS, convert
from nnunet_xattnres.common.errors import UserError


def convert_isic(tmp_path, source="source", **options):
    return convert(DATA_SETS["isic2017"], tmp_path / source, tmp_path / "raw", **options)


def names(outcome, folder):
    return sorted(path.name for path in (outcome.folder / folder).glob("*"))


def test_the_official_parts(tmp_path):
    write_isic(tmp_path / "source", "Training", (0, 1, 2))
    write_isic(tmp_path / "source", "Validation", (3,))
    write_isic(tmp_path / "source", "Test_v2", (4, 5))
    outcome = convert_isic(tmp_path)
    assert names(outcome, "imagesTr") == [f"ISIC_000000{i}_0000.png" for i in range(4)]
    assert names(outcome, "labelsTs") == ["ISIC_0000004.png", "ISIC_0000005.png"]
    (fold,) = json.loads((outcome.folder / "splits_final.json").read_text())
    assert fold == {"train": [f"ISIC_000000{i}" for i in range(3)], "val": ["ISIC_0000003"]}
    assert outcome.parts == {"training": (3, 2000), "validation": (1, 150), "test": (2, 600)}
    description = json.loads((outcome.folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "R", "1": "G", "2": "B"} and description["numTraining"] == 4
    assert description["labels"] == {"background": 0, "lesion": 1}
    mask = np.asarray(Image.open(outcome.folder / "labelsTr" / "ISIC_0000000.png"))
    assert np.array_equal(mask, blob((60, 80)) // 255)


def test_superpixels_and_tables_are_left_out(tmp_path):
    write_isic(tmp_path / "source", "Training", (0, 1))
    outcome = convert_isic(tmp_path)
    assert outcome.skipped["superpixels"] == ["ISIC_0000000_superpixels.png", "ISIC_0000001_superpixels.png"]
    assert outcome.skipped["other files: tables, and what is not of part 1"] == ["ISIC-2017_Training_Data_metadata.csv"]


def test_without_the_validation_part_the_folds_are_nnunets_own(tmp_path):
    """Written down: its planner compares them with those of an earlier data set of that number."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    write_isic(tmp_path / "source", "Training", range(7))
    outcome = convert_isic(tmp_path)
    nnunets = generate_crossval_split([f"ISIC_000000{i}" for i in range(7)], seed=12345, n_splits=5)
    assert json.loads((outcome.folder / "splits_final.json").read_text()) == outcome.folds
    assert outcome.folds == [{key: list(fold[key]) for key in ("train", "val")} for fold in nnunets]
    assert outcome.parts["validation"] == (0, 150) and outcome.parts["test"] == (0, 600)


def test_with_one_picture_there_is_nothing_to_validate_on(tmp_path):
    write_isic(tmp_path / "source", "Training", (0,))
    outcome = convert_isic(tmp_path)
    assert outcome.folds == [] and not (outcome.folder / "splits_final.json").exists()


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    write_isic(tmp_path / "source", "Training", (0, 1))
    (tmp_path / "source" / "ISIC-2017_Training_Data" / "again").symlink_to(tmp_path / "source")
    outcome = convert_isic(tmp_path)
    assert outcome.n_training == 2 and "the same file once more" not in outcome.skipped


@pytest.mark.parametrize("name", ["a_folder", "z_folder"])
def test_a_link_that_gives_a_folder_its_name_counts(tmp_path, name):
    """Whichever of the two is found first."""
    write_isic(tmp_path / "source", "Training", (0,))
    data = tmp_path / "source" / "ISIC-2017_Training_Data"
    data.rename(tmp_path / "source" / name)
    data.symlink_to(tmp_path / "source" / name)
    assert convert_isic(tmp_path).n_training == 1


def test_a_folder_that_cannot_be_read_is_not_left_out_without_a_word(tmp_path, monkeypatch):
    write_isic(tmp_path / "source", "Training", (0,))
    write_isic(tmp_path / "source", "Validation", (1,))
    original = os.scandir

    def scandir(folder):
        if str(folder).endswith("ISIC-2017_Validation_Data"):
            raise PermissionError(13, "Permission denied", str(folder))
        return original(folder)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(PermissionError, match="ISIC-2017_Validation_Data"):
        convert_isic(tmp_path)


def test_a_folder_in_a_folder_of_the_same_name(tmp_path):
    """As when an archive is unpacked into a folder of its name; one of the two unpacked in both ways."""
    write_isic(tmp_path / "made", "Training", (0, 1))
    for name in ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"):
        shutil.copytree(tmp_path / "made" / name, tmp_path / "source" / name / name)
    shutil.copy(tmp_path / "made" / name / "ISIC_0000001_segmentation.png", tmp_path / "source" / name)
    outcome = convert_isic(tmp_path)
    assert names(outcome, "imagesTr") == ["ISIC_0000000_0000.png", "ISIC_0000001_0000.png"]
    assert [len(what) for reason, what in outcome.skipped.items() if reason == "the same file once more"] == [1]


def test_the_source_may_be_the_folder_of_a_part_that_is_linked(tmp_path):
    write_isic(tmp_path / "made", "Test_v2", (7,))
    (tmp_path / "source").mkdir()
    for folder in (tmp_path / "made").iterdir():
        (tmp_path / "source" / folder.name).symlink_to(folder)
    assert names(convert_isic(tmp_path), "imagesTs") == ["ISIC_0000007_0000.png"]


def test_what_macos_puts_into_archives_is_no_picture(tmp_path):
    write_isic(tmp_path / "source", "Training", (0,))
    hidden = tmp_path / "source" / "__MACOSX" / "ISIC-2017_Training_Data" / "ISIC_0000000.jpg"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"not a picture")
    (tmp_path / "source" / "ISIC-2017_Training_Data" / "._ISIC_0000000.jpg").write_bytes(b"nor this")
    assert convert_isic(tmp_path).n_training == 1


@pytest.mark.parametrize("folder", ["ISBI2016_ISIC_Part1_Training_Data", "ISIC2018_Task1-2_Training_Input"])
def test_other_years_are_no_isic_2017(tmp_path, folder):
    write_isic(tmp_path / "made", "Training", (0,))
    (tmp_path / "made" / "ISIC-2017_Training_Data").rename(tmp_path / "made" / folder)
    (tmp_path / "made" / "ISIC-2017_Training_Part1_GroundTruth").rename(tmp_path / "made" / "truth")
    with pytest.raises(UserError, match="Expected: the folders ISIC-2017_Training_Data and"):
        convert_isic(tmp_path, "made")


def test_random_is_of_all_parts_together(tmp_path):
    for part, numbers in (("Training", range(8)), ("Validation", range(8, 9)), ("Test_v2", range(9, 10))):
        write_isic(tmp_path / "source", part, numbers)
    outcome = convert_isic(tmp_path, split="random")
    assert (outcome.n_training, outcome.n_test) == (9, 1) and not outcome.warnings
    (fold,) = outcome.folds
    assert (len(fold["train"]), len(fold["val"])) == (8, 1)
    with pytest.raises(UserError, match="has no split 'sequence'; it has: official, random"):
        convert_isic(tmp_path, split="sequence")
