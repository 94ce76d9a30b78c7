"""What all data sets have in common: going on after an end, never mixing, and what the command prints."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.distributed import write_clinicdb, write_colondb, write_isic
from PIL import Image
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.cli.convert import Name, Split
from nnunet_xattnres.commands.convert import DATA_SETS, convert
from nnunet_xattnres.commands.convert import conversion as conversion_module
from nnunet_xattnres.commands.convert.record import Record
from nnunet_xattnres.common.errors import UserError


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert_isic(tmp_path, out="raw", **options):
    return convert(DATA_SETS["isic2017"], tmp_path / "source", tmp_path / out, **options)


class KilledError(BaseException):
    pass


def convert_isic_and_stop(tmp_path, monkeypatch, at):
    """Stopped when half of the ``at``-th file has been written."""
    original, n = conversion_module.Path.write_bytes, []

    def stopping(path, content):
        n.append(path)
        if len(n) == at:
            original(path, content[: len(content) // 2])
            raise KilledError
        return original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(conversion_module.Path, "write_bytes", stopping)
        with pytest.raises(KilledError):
            convert_isic(tmp_path)


@pytest.mark.parametrize("at", range(1, 7))
def test_a_second_run_goes_on(tmp_path, monkeypatch, at):
    """Stopped while the ``at``-th file is being written: nothing is half there, and the end is the same."""
    write_isic(tmp_path / "source", "Training", (0, 1))
    write_isic(tmp_path / "source", "Validation", (2,))
    whole = convert_isic(tmp_path, "whole")
    convert_isic_and_stop(tmp_path, monkeypatch, at)
    folder = tmp_path / "raw" / whole.folder.name
    there = files(folder)
    assert all(there[name] == files(whole.folder)[name] for name in there if name.suffix == ".png")
    assert not (folder / "dataset.json").exists()
    outcome = convert_isic(tmp_path)
    assert outcome.n_before == (at - 1) // 2 and files(folder) == files(whole.folder)
    assert outcome.mended == whole.mended and convert_isic(tmp_path).n_before == 3


def test_a_part_that_is_stopped_half_way_is_no_data_set(tmp_path, monkeypatch):
    """nnU-Net refuses a folder without dataset.json; the one of the first run would count fewer cases."""
    write_isic(tmp_path / "source", "Training", (0, 1))
    first = convert_isic(tmp_path)
    assert (first.folder / "dataset.json").is_file()
    write_isic(tmp_path / "source", "Validation", (2, 3))
    convert_isic_and_stop(tmp_path, monkeypatch, at=3)
    assert not (first.folder / "dataset.json").exists()
    assert convert_isic(tmp_path).n_before == 3 and (first.folder / "dataset.json").is_file()


def test_half_a_line_in_the_record_costs_its_case_once_more(tmp_path):
    write_clinicdb(tmp_path / "source", (1, 30))
    run = lambda: convert(DATA_SETS["clinicdb"], tmp_path / "source", tmp_path / "raw")  # noqa: E731
    first = run()
    before = files(first.folder)
    record = first.folder / "conversion.jsonl"
    record.write_bytes(record.read_bytes()[:-20])
    second = run()
    assert second.n_before == 1 and files(first.folder) == before and second.mended == first.mended
    (first.folder / "imagesTr" / "clinicdb_001_0000.png").unlink()
    assert run().n_before == 1 and files(first.folder).keys() == before.keys()


def test_a_part_may_come_later(tmp_path):
    write_isic(tmp_path / "source", "Training", (0, 1))
    assert len(convert_isic(tmp_path).folds) == 2
    write_isic(tmp_path / "source", "Validation", (2,))
    outcome = convert_isic(tmp_path)
    assert outcome.n_before == 2 and len(outcome.folds) == 1
    assert json.loads((outcome.folder / "dataset.json").read_text())["numTraining"] == 3


def test_two_ways_are_never_mixed_in_one_folder(tmp_path):
    write_isic(tmp_path / "source", "Training", range(10))
    folder = convert_isic(tmp_path, size=64).folder
    with pytest.raises(UserError, match="was made with size 64, and now it is not set"):
        convert_isic(tmp_path)
    with pytest.raises(UserError, match="was made with split 'official', and now it is 'random'"):
        convert_isic(tmp_path, size=64, split="random")
    (tmp_path / "source" / "ISIC-2017_Training_Data" / "ISIC_0000003.jpg").unlink()
    with pytest.raises(UserError, match="was made from other cases: ISIC_0000003 is not in the source any more"):
        convert_isic(tmp_path, size=64)
    assert len(list((folder / "imagesTr").iterdir())) == 10


def test_what_another_file_was_made_of_is_made_anew(tmp_path):
    """As of pictures that were squeezed, and later of the originals."""
    write_isic(tmp_path / "source", "Training", (0, 1))
    folder = convert_isic(tmp_path).folder
    mask = tmp_path / "source" / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000001_segmentation.png"
    corrected = Image.fromarray(np.flipud(np.asarray(Image.open(mask))))
    corrected.save(mask)
    os.utime(mask, ns=(0, 1))  # a clock may be coarse
    assert convert_isic(tmp_path).n_before == 1
    found = np.asarray(Image.open(folder / "labelsTr" / "ISIC_0000001.png"))
    assert np.array_equal(found, np.asarray(corrected) // 255) and convert_isic(tmp_path).n_before == 2


def test_what_does_not_fit_any_more_is_taken_out(tmp_path):
    write_isic(tmp_path / "source", "Training", (0, 1, 2))
    folder = convert_isic(tmp_path).folder
    image = tmp_path / "source" / "ISIC-2017_Training_Data" / "ISIC_0000001.jpg"
    Image.open(image).resize((20, 20)).save(image)
    outcome = convert_isic(tmp_path)
    assert outcome.n_training == 2 and json.loads((folder / "dataset.json").read_text())["numTraining"] == 2
    assert not list(folder.rglob("ISIC_0000001*")) and convert_isic(tmp_path).n_before == 2


def test_a_folder_of_before_there_were_digests_goes_on(tmp_path, monkeypatch):
    write_isic(tmp_path / "source", "Training", (0, 1))
    folder = convert_isic(tmp_path).folder
    settings, *cases = (folder / "conversion.jsonl").read_text().splitlines()
    settings = {key: value for key, value in json.loads(settings).items() if key != "written"}
    cases = [json.dumps({key: value for key, value in json.loads(case).items() if key != "source"}) for case in cases]
    (folder / "conversion.jsonl").write_text("\n".join([json.dumps(settings), *cases, ""]))
    convert_isic_and_stop(tmp_path, monkeypatch, at=3)
    assert convert_isic(tmp_path).n_before == 1


@pytest.mark.parametrize("name", ["splits_final.json", "dataset.json"])
def test_what_was_edited_is_not_lost(tmp_path, name):
    write_isic(tmp_path / "source", "Training", (0, 1))
    file = convert_isic(tmp_path).folder / name
    file.write_text("[]")
    write_isic(tmp_path / "source", "Validation", (2,))
    with pytest.raises(UserError, match=f"{name} is not as a conversion left it.*move it away"):
        convert_isic(tmp_path)
    assert file.read_text() == "[]"
    file.rename(tmp_path / name)
    assert convert_isic(tmp_path).n_training == 3 and json.loads(file.read_text()) != []


def test_what_is_refused_changes_nothing(tmp_path):
    """A source that is as it was is taken again."""
    write_clinicdb(tmp_path / "source", (1, 2, 30, 60))
    run = lambda: convert(DATA_SETS["clinicdb"], tmp_path / "source", tmp_path / "raw")  # noqa: E731
    before = files(run().folder)
    gone = tmp_path / "source" / "Original" / "2.tif"
    gone.rename(tmp_path / "2.tif")
    with pytest.raises(UserError, match="is not in the source any more"):
        run()
    (tmp_path / "2.tif").rename(gone)
    assert run().n_before == 4 and files(tmp_path / "raw" / "Dataset952_CVCClinicDB") == before


def test_settings_that_are_refused_are_not_kept(tmp_path):
    """Another part may bring measurements of its own, and be refused: without it the first goes on."""
    folder = tmp_path / "raw" / "Dataset001_A"
    first = Record(folder, {"split": "random"})
    first.begin()
    Record(folder, {"split": "random", "labels of h5": "BTCV's"})
    assert Record(folder, {"split": "random"}).cases == {}


def test_an_empty_argument_is_a_variable_that_is_not_set(tmp_path):
    write_colondb(tmp_path / "source", (1, 39))
    done = CliRunner().invoke(app, ["convert", "colondb", str(tmp_path / "source"), ""])
    assert done.exit_code == 2 and "is the variable set" in done.stderr
    done = CliRunner().invoke(app, ["demo", "--out="])
    assert done.exit_code == 2 and "is the variable set" in done.stderr


def test_cases_that_would_change_their_part_are_refused(tmp_path):
    write_isic(tmp_path / "source", "Training", range(10))
    convert_isic(tmp_path, split="random")
    write_isic(tmp_path / "source", "Validation", range(10, 30))
    with pytest.raises(UserError, match=r"is in another part now\. A random split is drawn over all cases"):
        convert_isic(tmp_path, split="random")


def test_numbers_and_folders_of_others_are_left_alone(tmp_path):
    write_isic(tmp_path / "source", "Training", (0,))
    (tmp_path / "raw" / "Dataset007_Other").mkdir(parents=True)
    with pytest.raises(UserError, match="Dataset007_Other, which has the number 7, too"):
        convert_isic(tmp_path, number=7)
    own = tmp_path / "raw" / "Dataset008_ISIC2017"
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no conversion made it"):
        convert_isic(tmp_path, number=8)
    assert convert_isic(tmp_path, number=9).folder.name == "Dataset009_ISIC2017"


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_source_that_fits_nothing(tmp_path, name):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "holiday.jpg").write_bytes(b"")
    done = CliRunner().invoke(app, ["convert", name, str(tmp_path / "source"), str(tmp_path / "raw")])
    assert done.exit_code == 1 and f"holds no case of {DATA_SETS[name].title}" in done.stderr
    assert f"Expected: {DATA_SETS[name].expected}" in done.stderr and not (tmp_path / "raw").exists()
    done = CliRunner().invoke(app, ["convert", name, str(tmp_path / "nothing"), str(tmp_path / "raw")])
    assert done.exit_code == 1 and "is not a folder" in done.stderr


def test_the_command_knows_the_table():
    assert [name.value for name in Name] == list(DATA_SETS)
    assert {split for data_set in DATA_SETS.values() for split in data_set.splits} == {split.value for split in Split}
    assert [data_set.number for data_set in DATA_SETS.values()] == [950, 951, 952, 953]


def test_what_the_command_prints(tmp_path):
    write_clinicdb(tmp_path / "source", (1, 2, 30, 60))
    (tmp_path / "source" / "Ground Truth" / "2.tif").unlink()
    arguments = [
        "convert",
        "clinicdb",
        str(tmp_path / "source"),
        str(tmp_path / "raw"),
        "-d",
        "12",
        "--split",
        "random",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "raw" / "Dataset012_CVCClinicDB" / "skipped.json").read_text()) == {
        "pictures without a mask": ["2"]
    }
    for words in (
        "Dataset012_CVCClinicDB: 2 cases to train on, 1 to test on",
        "found     3 of 612 cases",
        "mended    colour pictures that are tagged as grey: 3",
        "mended    masks with grey values, cut at 127: 3",
        "skipped   pictures without a mask: 1 (2)",
        "splits    1 fold(s) in splits_final.json, train + validate: 1 + 1",
        "warning   a random split leaks",
        "terms     Research and education only; commercial use is forbidden.",
        "nnUNetv2_plan_and_preprocess -d 12 --verify_dataset_integrity --clean",
    ):
        assert words in done.output


@pytest.mark.parametrize("raw", [None, "raw", "elsewhere"])
def test_a_folder_in_which_nnunet_does_not_look_is_named(tmp_path, monkeypatch, raw):
    """As when the variable's name was typed in the place of its value."""
    write_colondb(tmp_path / "source", (1, 39))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    if raw is not None:
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / raw))
    done = CliRunner().invoke(app, ["convert", "colondb", str(tmp_path / "source"), str(tmp_path / "raw")])
    assert done.exit_code == 0, done.output
    assert (f"nnUNet_raw, which is {tmp_path / 'elsewhere'}" in done.output) == (raw == "elsewhere")


def test_it_converts_without_torch(tmp_path):
    write_colondb(tmp_path / "source", (1, 39))
    code = (
        "import sys; from nnunet_xattnres.cli import app\n"
        "try: app(['convert', 'colondb', 'source', 'raw'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'h5py'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# What nnUNetv2_plan_and_preprocess does first; plans would take a minute more.
ACCEPT = """
import sys
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from unittest.mock import patch

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints

if __name__ == "__main__":
    numbers = list(map(int, sys.argv[1:]))
    # in threads: each process would first import torch, for ten seconds
    with patch("multiprocessing.get_context", lambda method: SimpleNamespace(Pool=ThreadPool)):
        extract_fingerprints(numbers, num_processes=1, check_dataset_integrity=True)
    for number in numbers:
        ExperimentPlanner(number)
"""


@pytest.mark.nnunet
def test_nnunet_accepts_what_is_written(tmp_path):
    """By nnU-Net's own check, and its planner takes the splits along."""
    from helpers.distributed import NUMBERS, body, on_its_side, scan, write_slices

    write_isic(tmp_path / "isic2017", "Training", (0, 1, 2))
    write_isic(tmp_path / "isic2017", "Validation", (3,))
    for case, n_slices in ((31, 93), (39, 90)):
        labels = on_its_side(body(n_slices, NUMBERS["TransUNet"]))
        write_slices(tmp_path / "synapse", case, scan(labels), labels)
    environment = os.environ | {name: str(tmp_path / "raw") for name in ("nnUNet_raw", "nnUNet_results")}
    environment |= {"nnUNet_preprocessed": str(tmp_path / "preprocessed"), "nnUNet_def_n_proc": "1"}
    numbers = []
    for name in ("isic2017", "synapse"):
        convert(DATA_SETS[name], tmp_path / name, tmp_path / "raw")
        numbers.append(str(DATA_SETS[name].number))
    (tmp_path / "accept.py").write_text(ACCEPT)
    command = [sys.executable, "accept.py", *numbers]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("verify_dataset_integrity Done") == 2, done.stdout
    for folder in (tmp_path / "raw").iterdir():
        splits = tmp_path / "preprocessed" / folder.name / "splits_final.json"
        assert json.loads(splits.read_text()) == json.loads((folder / "splits_final.json").read_text())


def test_all_that_was_skipped_has_a_name_even_where_the_screen_has_no_room(tmp_path):
    numbers = (1, 2, 3, 4, 5, 6, 30, 60)
    write_clinicdb(tmp_path / "source", numbers)
    for number in numbers[:6]:
        (tmp_path / "source" / "Ground Truth" / f"{number}.tif").unlink()
    done = CliRunner().invoke(app, ["convert", "clinicdb", str(tmp_path / "source"), str(tmp_path / "raw")])
    assert "pictures without a mask: 6 (1, 2, 3, 4, 5, ..., all in skipped.json)" in done.output
    skipped = json.loads((tmp_path / "raw" / "Dataset952_CVCClinicDB" / "skipped.json").read_text())
    assert skipped == {"pictures without a mask": ["1", "2", "3", "4", "5", "6"]}
