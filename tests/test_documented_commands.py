"""Every command of README.md and docs/*.md parses, and runs, or stands in a list with the reason why it does not."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
import typer
from helpers.distributed import body, on_its_side, scan, write_clinicdb, write_colondb, write_isic, write_slices
from helpers.documentation import RUNNER, Shown, fill, shown

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.demo.synthetic import write_dataset

SHOWN = shown()
OURS = typer.main.get_command(app).commands
DATASET = "Dataset901_Anatomy"
MODEL = f"nnUNet_results/{DATASET}/{{}}__nnUNetPlans__3d_fullres"
# What stands for the words in capitals, in the folder where all are run.
VALUES = {
    "DATASET": "901",
    "DATASET/": DATASET,
    "CONFIGURATION": "3d_fullres",
    "IMAGES": f"nnUNet_raw/{DATASET}/imagesTs",
    "LABELS": f"nnUNet_raw/{DATASET}/labelsTs",
    "MODEL_FOLDER": MODEL.format("nnUNetTrainerXAttnRes"),
    "STOCK_CHECKPOINT": MODEL.format("nnUNetTrainer") + "/fold_0/checkpoint_final.pth",
}
DISTRIBUTED = "as distributed"  # has made-up files of each data set that can be converted
# What the reader has done before, with a command that the pages show, too.
FIRST = ("nnUNetv2_plan_and_preprocess -d DATASET", "nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainer")
# What makes a command fit for a CPU, for a plain one and in seconds.
SMALL = {
    "nnUNetv2_plan_and_preprocess": "-c 3d_fullres -npfp 1 -np 1",
    "nnUNetv2_train": "-device cpu",
    "nnUNetv2_predict": "-device cpu -npp 0 -nps 0 --disable_tta",
    "nnUNetv2_predict_from_modelfolder": "-device cpu -npp 0 -nps 0 --disable_tta",
    "nnunet-xattnres inspect": "-device cpu",
    "nnunet-xattnres profile": "-device cpu --rounds 1 -tr nnUNetTrainerXAttnRes",
}
_DEMO = "needs the demo's model; minutes"
_TRIED = "a record of what was tried on real data, with trainers and plans that are not shipped"
NOT_RUN = {
    "pip install .": "tests/test_install.py installs a wheel and a checkout",
    "pip install -e '.[test]'": "tests/test_install.py installs a wheel and a checkout",
    "pytest": "this is it",
    "nnunet-xattnres demo": "minutes; tests/nnunet_commands runs the same commands",
    "cd nnunet-xattnres-demo": _DEMO,
    **{one.text: _DEMO for one in SHOWN if "Dataset900_XAttnResDemo" in one.text},
    **{one.text: _TRIED for one in SHOWN if "nnUNetPlansSmall" in one.text},
    **{one.text: "reads records of this repository" for one in SHOWN if "benchmarks/study/results" in one.text},
    **{one.text: "needs weights from ImageNet" for one in SHOWN if "2d 0 -tr nnUNetTrainerEMCAD" in one.text},
    **{one.text: "lines of a program" for one in SHOWN if one.text.startswith("network.use_path(")},
}
if importlib.util.find_spec("monai") is None:
    NOT_RUN |= {one.text: "needs the extra metrics" for one in SHOWN if "--metrics" in one.text}
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
    NOT_RUN |= {one.text: "needs torch 2.7" for one in SHOWN if one.text.startswith("nnunet-xattnres export-onnx")}


def is_known(one: Shown) -> bool:
    return one.words[0] in ("python", "export", "nnunet-xattnres") or one.words[0].startswith("nnUNetv2_")


RUN = sorted(
    (one for one in SHOWN if one.text not in NOT_RUN and is_known(one)),
    key=lambda one: FIRST.index(one.text) if one.text in FIRST else len(FIRST),
)


def name_of(one: Shown) -> str:
    return f"{one.page}: {one.text.strip().splitlines()[-1] if one.is_python else one.text}"


def test_every_command_is_run_or_listed():
    assert {one.text for one in SHOWN} == {one.text for one in RUN} | set(NOT_RUN)
    assert set(FIRST) <= {one.text for one in RUN}
    assert {"README.md", "docs/plans.md", "docs/warm-start.md", "docs/other-tools.md"} <= {one.page for one in RUN}


class ParsedError(Exception):
    """By a parser of nnU-Net's; its argument is what it found."""


def parsed(words, monkeypatch):
    """What nnU-Net's own parser makes of a command, which goes no further."""

    def stop(parser, *args):
        raise ParsedError(parse(parser, words[1:]))

    parse = argparse.ArgumentParser.parse_args
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=words[0])
    function = entry.load()
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(ParsedError) as found:
            function()
    return found.value.args[0]


@pytest.mark.parametrize("one", [one for one in SHOWN if is_known(one)], ids=name_of)
def test_it_parses(one, monkeypatch):
    words = one.filled(VALUES)
    if words[0] == "nnunet-xattnres":
        assert OURS[words[1]].make_context(words[1], words[2:])
    elif one.is_python:
        compile(one.text, one.page, "exec")
    elif words[0] != "export":
        found = parsed(words, monkeypatch)
        if words[0].startswith("nnUNetv2_predict"):
            assert tuple(found.f) != (0, 1, 2, 3, 4), "after a training of one fold nnU-Net finds no other"


def test_a_wrong_command_does_not_parse(monkeypatch):
    with pytest.raises(SystemExit):
        parsed(["nnUNetv2_predict", "-i", "IMAGES", "-o", "MASKS", "-d", "1", "-c", "2d", "-fold", "0"], monkeypatch)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each command and each block of Python; all are run in one folder, in the order of the pages."""
    root = tmp_path_factory.mktemp("documentation")
    folders = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in folders.values():
        folder.mkdir()
    write_dataset(folders["nnUNet_raw"], DATASET, n_train=5, n_test=1, shape=(20, 28, 24), seed=1)
    write_distributed(root / DISTRIBUTED)
    (root / "run.py").write_text(RUNNER)
    (root / "steps.json").write_text(json.dumps(list(steps(folders["nnUNet_preprocessed"]))))
    clean = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")}
    environment = clean | {name: str(folder) for name, folder in folders.items()}
    environment |= {"nnUNet_def_n_proc": "1", "COLUMNS": "200"}
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    command = [sys.executable, "run.py", "steps.json", "results.jsonl"]
    subprocess.run(command, env=environment, cwd=root, check=True, timeout=900)
    results = [json.loads(line) for line in (root / "results.jsonl").read_text().splitlines()]
    return {result["key"]: result for result in results}, root


def write_distributed(folder: Path) -> None:
    """A few files of each data set that can be converted."""
    write_clinicdb(folder / "clinicdb", (1, 2, 30))
    write_colondb(folder / "colondb", (1, 39))
    write_isic(folder / "isic2017", "Training", (0, 1))
    for case, n_slices in ((31, 93), (39, 90)):
        labels = on_its_side(body(n_slices))
        write_slices(folder / "synapse", case, scan(labels), labels)


def masks_of(one: Shown) -> str:
    """The folder for what it predicts."""
    return f"masks {RUN.index(one)}"


def steps(preprocessed: Path):
    first = masks_of(next(one for one in RUN if one.words[0] == "nnUNetv2_predict"))
    for i, one in enumerate(RUN):
        values = VALUES | dict.fromkeys(("MASKS", "MASKS_AGAIN"), masks_of(one)) | {"OUT": f"out {i}"}
        values |= dict.fromkeys(("FOLDER_A", "FOLDER_B"), first)
        if one.words[:2] == ["nnunet-xattnres", "convert"]:
            values |= {"SOURCE": f"{DISTRIBUTED}/{one.words[2]}"}
        step = {"key": one.text}
        if one.is_python:
            yield step | {"python": fill(one.text, values)}
            continue
        words = one.filled(values)
        extra = SMALL.get(words[0], SMALL.get(" ".join(words[:2]), ""))
        step |= {"words": [*words, *shlex.split(extra)], "plans": str(preprocessed / DATASET / "nnUNetPlans.json")}
        if words[0] == "export":
            step["line"] = as_line(one)
        if words[:2] == ["nnunet-xattnres", "upgrade"]:
            step["away"] = [words[-1]]  # another command has written there
        if words[:2] == ["nnunet-xattnres", "profile"]:
            step["away"] = [f"profile-{DATASET}-nnUNetPlans-3d_fullres.json"]
        yield step


def as_line(one):
    """A line for a shell that ends well only if the variable then has a value."""
    assignment = " ".join(one.words[1:])
    name, _, value = assignment.partition("=")
    return f'export {name}="{value}"; test -n "${name}"'


@pytest.mark.nnunet
@pytest.mark.parametrize("one", RUN, ids=name_of)
def test_it_runs(one, outcomes):
    result = outcomes[0][one.text]
    assert result["code"] == 0, result["end"]


@pytest.mark.nnunet
def test_they_did_what_they_say(outcomes):
    _, root = outcomes
    converted = "nnUNet_raw/Dataset950_SynapseCT/dataset.json", "nnUNet_raw/Dataset962_CVCClinicDB/imagesTs"
    for name in converted:
        assert (root / name).exists()
    for name in ("start.pth", "comparison/comparison.md", "again/comparison.csv"):
        assert (root / name).is_file()
    # the ways to predict with the model of nnUNetTrainerXAttnRes, one of them after the model has changed its route
    ways = [one for one in RUN if one.page == "docs/other-tools.md" and "MASKS" in one.text]
    first = next(one for one in RUN if one.words[0] == "nnUNetv2_predict")
    assert len(ways) == 3 and "-tr nnUNetTrainerXAttnRes " in first.text
    (expected,) = (root / masks_of(first)).glob("*.nii.gz")
    for one in ways:
        (found,) = (root / masks_of(one)).glob("*.nii.gz")
        assert np.array_equal(voxels(found), voxels(expected)), one.text


def voxels(file):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))
