"""The exported network computes what the network computes, for any batch; the description says what is around it."""

import hashlib
import json

import pytest
import torch
from helpers.networks import plan
from helpers.plans import CLASSES, build, make_plans
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.training.epochs import TRAINERS

pytest.importorskip("onnxscript", reason="pip install 'nnunet-xattnres[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime")
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
    pytest.skip("the export needs torch 2.7", allow_module_level=True)

DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "all": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}
STATISTICS = {"0": {"mean": 2.0, "std": 3.0, "percentile_00_5": -1.0, "percentile_99_5": 9.0}}


def invoke(*arguments):
    return CliRunner().invoke(app, ["export-onnx", *map(str, arguments)])


def make_model(folder, trainer, plans, folds=("0",), dataset=DATASET, channels=(1, 2)):
    """A folder as a training leaves it, of a network with random weights; the network."""
    plans |= {
        "transpose_forward": [0, 1],
        "transpose_backward": [0, 1],
        "foreground_intensity_properties_per_channel": STATISTICS,
    }
    plans["configurations"]["2d"] |= {"spacing": [0.5, 0.7], "use_mask_for_norm": [False]}
    torch.manual_seed(3)
    trainer_class = {**TRAINERS, "nnUNetTrainer": nnUNetTrainer}[trainer]
    network = build(trainer_class, plans, deep_supervision=False, channels=channels).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    for fold in folds:
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": trainer,
            "init_args": {"plans": plans, "configuration": "2d", "dataset_json": dataset},
            "inference_allowed_mirroring_axes": (0, 1),
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return network


def make_plans_3d(n_blocks=1):
    """The plans of the 2D tests with a 3D network, and one axis that is not resized at first."""
    plans = make_plans()
    configuration = plans["configurations"]["2d"]
    configuration["patch_size"] = [4, 16, 16]
    kwargs = plan(3, "plain conv", "anisotropic", n_stages=3, n_blocks=n_blocks)
    for key in ("input_channels", "num_classes", "deep_supervision"):
        del kwargs[key]
    names = {"conv_op": "torch.nn.Conv3d", "norm_op": "torch.nn.InstanceNorm3d", "nonlin": "torch.nn.LeakyReLU"}
    configuration["architecture"]["arch_kwargs"] = {**kwargs, **names, "dropout_op": None, "dropout_op_kwargs": None}
    return plans


@pytest.mark.parametrize(
    ("trainer", "plans"),
    [
        *[("nnUNetTrainerXAttnRes", make_plans(network_class)) for network_class in CLASSES],
        ("nnUNetTrainerXAttnResGated", make_plans_3d()),
        ("nnUNetTrainerXAttnResBlock", make_plans_3d(n_blocks=2)),
        ("nnUNetTrainer", make_plans()),
        ("nnUNetTrainerEMCADB0XAttnRes", make_plans()),
    ],
    ids=["add", "add, residual", "gated, 3d", "block, 3d", "stock", "emcad"],
)
def test_onnxruntime_agrees(tmp_path, trainer, plans):
    network = make_model(tmp_path / "model", trainer, plans)
    out = tmp_path / "new folder" / "network.onnx"
    done = invoke(tmp_path / "model", out)
    assert done.exit_code == 0, done.output
    assert "the network alone" in done.output and {f.name for f in out.parent.iterdir()} == {
        "network.onnx",
        "network.json",
    }
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    patch = plans["configurations"]["2d"]["patch_size"]
    for batch in (1, 2, 3):
        x = torch.randn(batch, 1, *patch, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            expected = network(x)
        (found,) = session.run(["logits"], {"image": x.numpy()})
        error = (torch.from_numpy(found) - expected).abs().max() / expected.abs().max()
        assert found.shape == expected.shape and error < 1e-4, f"batch {batch}: {error:.1e}"


@pytest.fixture
def model(tmp_path):
    make_model(tmp_path / "model", "nnUNetTrainerXAttnRes", make_plans())
    return tmp_path / "model"


def test_the_description(model, tmp_path):
    assert invoke(model, tmp_path / "a.onnx").exit_code == 0
    description = json.loads((tmp_path / "a.json").read_text())
    assert description.pop("note").startswith("This is the network alone.")
    assert description["input"] == {"name": "image", "shape": ["batch", 1, 16, 16]}
    assert description["output"] == {"name": "logits", "shape": ["batch", 2, 16, 16]}
    assert description["spacing"] == [0.5, 0.7] and description["patch_size"] == [16, 16]
    assert description["normalization"] == [
        {"scheme": "ZScoreNormalization", "use_mask_for_norm": False, "intensities_of_foreground": STATISTICS["0"]}
    ]
    assert description["labels"] == DATASET["labels"] and description["regions_class_order"] == [1, 2]
    assert description["nonlinearity"] == "sigmoid" and description["channel_names"] == {"0": "MRI"}
    assert description["mirroring_axes"] == [0, 1] and description["previous_stage"] is None
    checkpoint = (model / "fold_0" / "checkpoint_final.pth").read_bytes()
    assert description["sha256_of_checkpoint"] == hashlib.sha256(checkpoint).hexdigest()


def test_the_description_of_a_cascade_says_where_the_further_channels_come_from(tmp_path):
    plans = make_plans()
    plans["configurations"]["2d"]["previous_stage"] = "2d_coarse"
    labels = {"background": 0, "a": 1, "b": 2}
    dataset = {**DATASET, "labels": labels}
    del dataset["regions_class_order"]
    make_model(tmp_path / "model", "nnUNetTrainerXAttnRes", plans, dataset=dataset, channels=(1 + 2, 3))
    done = invoke(tmp_path / "model", tmp_path / "a.onnx")
    assert done.exit_code == 0, done.output
    description = json.loads((tmp_path / "a.json").read_text())
    assert description["input"]["shape"][1] == 1 + 2 and description["channel_names"] == {"0": "MRI"}
    assert description["previous_stage"] == {"configuration": "2d_coarse", "one_hot_of_labels": [1, 2]}
    assert "'previous_stage'" in description["note"]


def test_what_is_refused(model, tmp_path):
    make_model(tmp_path / "two", "nnUNetTrainerXAttnRes", make_plans(), folds=("0", "all"))
    for arguments, message in (
        ((tmp_path / "no", tmp_path / "a.onnx"), "is no folder of a trained model"),
        ((model, tmp_path / "a.pt"), "must end in .onnx"),
        ((model, tmp_path / "a.onnx", "-f", 3), "name one fold"),
        ((model, tmp_path / "a.onnx", "-chk", "checkpoint_best.pth"), "has no checkpoint_best.pth"),
        ((tmp_path / "two", tmp_path / "a.onnx"), "fold_0/checkpoint_final.pth, fold_all/checkpoint_final.pth"),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
        assert "Traceback" not in done.output
    assert not list(tmp_path.glob("a.*"))


def change(checkpoint, **changes):
    torch.save({**torch.load(checkpoint, weights_only=False), **changes}, checkpoint)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), "is damaged, probably cut off"),
        (lambda file: torch.save({"state_dict": {}}, file), "is no checkpoint of nnU-Net v2"),
        (
            lambda file: change(file, trainer_name="nnUNetTrainerMine"),
            "nnU-Net finds no trainer 'nnUNetTrainerMine' here. Install the package that has the trainer",
        ),
        (lambda file: change(file, network_weights={"encoder": torch.ones(1)}), "Put the plans.json and the dataset"),
        (lambda file: (file.parents[1] / "plans.json").write_text("{"), "(JSONDecodeError: "),
    ],
    ids=["damaged", "foreign", "trainer", "weights", "plans"],
)
def test_a_model_that_cannot_be_loaded_is_said(model, tmp_path, spoil, message):
    spoil(model / "fold_0" / "checkpoint_final.pth")
    done = invoke(model, tmp_path / "a.onnx")
    assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
    assert str(model / "fold_0" / "checkpoint_final.pth") in done.output and not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize("options", [("-f", "all"), ("-f", 0, "-chk", "checkpoint_best.pth")])
def test_the_fold_and_the_checkpoint_that_are_named_are_exported(tmp_path, options):
    network = make_model(tmp_path / "two", "nnUNetTrainer", make_plans(), folds=("0", "all"))
    final, named = (tmp_path / "two" / name / "checkpoint_final.pth" for name in ("fold_0", "fold_all"))
    if "-chk" in options:
        named = final.with_name("checkpoint_best.pth")
    checkpoint = torch.load(final, weights_only=False)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.2)
    torch.save({**checkpoint, "network_weights": network.state_dict()}, named)
    done = invoke(tmp_path / "two", tmp_path / "a.onnx", *options)
    assert done.exit_code == 0, done.output
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x)
    (found,) = session.run(["logits"], {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_a_full_disk_leaves_the_export_that_is_there(model, tmp_path, disk_full_at):
    (tmp_path / "a.onnx").write_bytes(b"old")
    with disk_full_at(5000):
        done = invoke(model, tmp_path / "a.onnx", "--force")
    assert done.exit_code == 1 and "File too large" in done.output, done.output
    assert (tmp_path / "a.onnx").read_bytes() == b"old" and not list(tmp_path.glob(".partial-*"))


def test_what_exists_is_not_overwritten(model, tmp_path):
    (tmp_path / "a.json").write_text("mine")
    done = invoke(model, tmp_path / "a.onnx")
    assert done.exit_code == 1 and "a.json exists: name another, or replace it with --force" in " ".join(
        done.output.split()
    )
    assert (tmp_path / "a.json").read_text() == "mine"
    assert invoke(model, tmp_path / "a.onnx", "--force").exit_code == 0


def test_a_network_that_nnunet_compiled_is_exported(model, tmp_path, monkeypatch):
    """With nnUNet_compile set the predictor compiles on every device."""
    assert invoke(model, tmp_path / "a.onnx").exit_code == 0
    monkeypatch.setenv("nnUNet_compile", "t")
    assert invoke(model, tmp_path / "b.onnx").exit_code == 0
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert a | {"file": "b.onnx"} == b


def test_without_the_packages(model, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.commands.export_onnx.find_spec", lambda _: None)
    done = invoke(model, tmp_path / "a.onnx")
    assert done.exit_code == 1 and "pip install 'nnunet-xattnres[onnx]'" in " ".join(done.output.split())


def test_with_a_torch_that_is_too_old(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    done = invoke(model, tmp_path / "a.onnx")
    message = "torch 2.6.0+cu124 is older than 2.7: pip install 'nnunet-xattnres[onnx]'"
    assert done.exit_code == 1 and message in " ".join(done.output.split())
