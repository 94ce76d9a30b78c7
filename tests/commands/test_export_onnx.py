"""The exported network computes what the network computes, for any batch; the description says what is around it."""

import hashlib
import json
import pydoc
from itertools import combinations, groupby, product

import numpy as np
import pytest
import torch
from helpers import models
from helpers.networks import plan
from helpers.plans import CLASSES, build, make_plans
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference import export_prediction, predict_from_raw_data
from nnunetv2.preprocessing.preprocessors import default_preprocessor
from nnunetv2.preprocessing.resampling import default_resampling
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands import export_onnx
from nnunet_xattnres.common import installing
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
RESAMPLING = {
    "resampling_fn_data": "resample_torch_fornnunet",
    "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": False},
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"order": 1, "order_z": 0, "force_separate_z": None},
}


def invoke(*arguments):
    return CliRunner().invoke(app, ["export-onnx", *map(str, arguments)])


def make_model(folder, trainer, plans, folds=("0",), dataset=DATASET, channels=(1, 2)):
    """A folder as a training leaves it, of a network with random weights; the network."""
    plans |= {
        "transpose_forward": [0, 1],
        "transpose_backward": [0, 1],
        "foreground_intensity_properties_per_channel": STATISTICS,
    }
    plans["configurations"]["2d"] |= {"spacing": [0.5, 0.7], "use_mask_for_norm": [False], **RESAMPLING}
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
    assert description["tile_step_size"] == 0.5 and description["gaussian_sigma_scale"] == 1 / 8
    of_image, of_logits = description["resampling_of_image"], description["resampling_of_logits"]
    assert of_image["function"].endswith(".resample_torch_fornnunet") and of_image["arguments"]["mode"] == "linear"
    assert of_image["arguments"]["force_separate_z"] is False, "the function's default, not what the plans say"
    assert of_logits["function"].endswith(".resample_data_or_seg_to_shape")
    expected = {**RESAMPLING["resampling_fn_probabilities_kwargs"], "is_seg": False}
    assert of_logits["arguments"].items() >= expected.items()
    checkpoint = (model / "fold_0" / "checkpoint_final.pth").read_bytes()
    assert description["sha256_of_checkpoint"] == hashlib.sha256(checkpoint).hexdigest()


def test_the_steps_are_nnunets_in_nnunets_order(tmp_path, monkeypatch):
    model = models.make_model(tmp_path, "nnUNetTrainer")
    assert invoke(model, tmp_path / "a.onnx").exit_code == 0
    description = json.loads((tmp_path / "a.json").read_text())
    done = []

    def watch(owner, name, step):
        original = getattr(owner, name)

        def watched(*args, **options):
            done.append(step)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(SimpleITKIO, "read_images", "read")
    watch(default_preprocessor, "crop_to_nonzero", "crop")
    watch(default_preprocessor.DefaultPreprocessor, "_normalize", "normalise")
    watch(default_resampling, "resample_data_or_seg_to_shape", "resample")
    watch(predict_from_raw_data, "pad_nd_image", "pad")
    watch(predict_from_raw_data, "compute_steps_for_sliding_window", "take")
    watch(predict_from_raw_data.nnUNetPredictor, "_internal_maybe_mirror_and_predict", "of")
    watch(torch, "div", "mean")
    watch(LabelManager, "convert_logits_to_segmentation", "apply")
    watch(export_prediction, "insert_crop_into_image", "put")
    models.make_image(tmp_path / "image_0000.nii.gz")
    predictor(model).predict_from_files_sequential([[str(tmp_path / "image_0000.nii.gz")]], [str(tmp_path / "mask")])
    steps = [step.split()[0].rstrip(",") for step in (*description["before"], *description["after"])]
    assert [step for step, _ in groupby(done)] == [step for step in steps if step != "transpose"]
    assert [i for i, step in enumerate(steps) if step == "transpose"] == [1, len(steps) - 1]


def test_the_description_has_all_numbers_that_nnunets_prediction_needs(tmp_path):
    """The mask of a volume, by the steps and the numbers of the description, is nnU-Net's."""
    model = models.make_model(tmp_path, "nnUNetTrainer")
    assert invoke(model, tmp_path / "a.onnx").exit_code == 0
    d = json.loads((tmp_path / "a.json").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    models.make_image(tmp_path / "image_0000.nii.gz", shape=(14, 9, 22))  # one axis is smaller than the patch
    image, properties = SimpleITKIO().read_images([str(tmp_path / "image_0000.nii.gz")])
    expected = predictor(model).predict_single_npy_array(image, dict(properties))

    forward = d["transpose_forward"]
    x, spacing = image[0].transpose(forward).astype(np.float32), [properties["spacing"][i] for i in forward]
    whole = x.shape
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(x))
    x = x[box]
    cropped = x.shape
    x = (x - x.mean()) / x.std()
    assert d["normalization"][0]["scheme"] == "ZScoreNormalization" and not d["normalization"][0]["use_mask_for_norm"]
    shape = [round(n * a / b) for n, a, b in zip(cropped, spacing, d["spacing"], strict=True)]
    x = resample(d["resampling_of_image"], x[None], shape, spacing, d["spacing"])[0]
    patch, missing = d["patch_size"], [max(0, p - n) for p, n in zip(d["patch_size"], x.shape, strict=True)]
    assert any(missing)
    x = np.pad(x, [(n // 2, n - n // 2) for n in missing])
    middle = [((np.arange(p) - p // 2) / (p * d["gaussian_sigma_scale"])) ** 2 for p in patch]
    weight = np.exp(-0.5 * sum(np.meshgrid(*middle, indexing="ij")))
    total, weights = np.zeros((d["output"]["shape"][1], *x.shape)), np.zeros(x.shape)
    for start in product(*(starts(n, p, d["tile_step_size"]) for n, p in zip(x.shape, patch, strict=True))):
        window = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        for axes in (axes for n in range(len(patch) + 1) for axes in combinations(d["mirroring_axes"], n)):
            (logits,) = session.run(["logits"], {"image": np.flip(x[window], axes)[None, None].astype(np.float32)})
            total[(slice(None), *window)] += weight * np.flip(logits[0], [axis + 1 for axis in axes])
            weights[window] += weight
    inside = tuple(slice(n // 2, n // 2 + s) for n, s in zip(missing, shape, strict=True))
    logits = (total / weights)[(slice(None), *inside)]
    labels = np.zeros(whole, dtype=np.uint8)
    labels[box] = resample(d["resampling_of_logits"], logits, cropped, d["spacing"], spacing).argmax(0)
    found = labels.transpose(d["transpose_backward"])
    assert found.shape == expected.shape and len(np.unique(expected)) > 1
    assert (found != expected).mean() < 0.01  # nnU-Net sums in half precision


def resample(described, x, shape, spacing, new_spacing):
    return pydoc.locate(described["function"])(x, shape, spacing, new_spacing, **described["arguments"])


def starts(n, patch, step):
    count = int(np.ceil((n - patch) / (patch * step))) + 1
    return [round(i * (n - patch) / max(count - 1, 1)) for i in range(count)]


def predictor(model):
    options = {"device": torch.device("cpu"), "allow_tqdm": False, "perform_everything_on_device": False}
    predictor = predict_from_raw_data.nnUNetPredictor(**options)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    return predictor


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
    stage = description["previous_stage"]
    assert (stage["configuration"], stage["one_hot_of_labels"]) == ("2d_coarse", [1, 2])
    assert stage["resampling"]["arguments"]["is_seg"] is True
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


def change_plans(checkpoint, **changes):
    """What those of its model folder say of the network; nnU-Net's own trainer builds whatever that is."""
    change(checkpoint, trainer_name="nnUNetTrainer")
    file = checkpoint.parents[1] / "plans.json"
    plans = json.loads(file.read_text())
    for configuration in plans["configurations"].values():
        architecture = configuration["architecture"]
        kwargs = {**architecture["arch_kwargs"], **changes.get("arch_kwargs", {})}
        configuration["architecture"] = {**architecture, **changes, "arch_kwargs": kwargs}
    file.write_text(json.dumps(plans))


def change_dataset(checkpoint, **changes):
    file = checkpoint.parents[1] / "dataset.json"
    dataset = json.loads(file.read_text()) | changes
    del dataset["regions_class_order"]
    file.write_text(json.dumps(dataset))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), "is damaged, probably cut off"),
        (lambda file: torch.save({"state_dict": {}}, file), "is no checkpoint of nnU-Net v2"),
        (
            lambda file: change(file, trainer_name="nnUNetTrainerMine"),
            "nnU-Net finds no trainer 'nnUNetTrainerMine' here. Install the package that has the trainer",
        ),
        (
            lambda file: change(file, network_weights={"encoder": torch.ones(1)}),
            "are not those of this training, put those there",
        ),
        (lambda file: change_plans(file, network_class_name="a_package.Network"), "(ImportError: "),
        (lambda file: change_plans(file, arch_kwargs={"an_option_of_tomorrow": 1}), "(TypeError: "),
        (lambda file: (file.parents[1] / "plans.json").write_text("{"), "(JSONDecodeError: "),
        (lambda file: change_dataset(file, labels={"background": 0, "all": [1, 2]}), "(AssertionError: "),
    ],
    ids=["damaged", "foreign", "trainer", "weights", "no network", "an option of the network", "plans", "regions"],
)
def test_a_model_that_cannot_be_loaded_is_said(model, tmp_path, spoil, message):
    spoil(model / "fold_0" / "checkpoint_final.pth")
    done = invoke(model, tmp_path / "a.onnx")
    assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
    assert str(model / "fold_0" / "checkpoint_final.pth") in done.output and not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize(
    "options", [("-f", "all"), ("-f", 0, "-chk", "checkpoint_best.pth"), ("-f", 0, "-chk", "averaged.pth")]
)
def test_the_fold_and_the_checkpoint_that_are_named_are_exported(tmp_path, options):
    network = make_model(tmp_path / "two", "nnUNetTrainer", make_plans(), folds=("0", "all"))
    final, named = (tmp_path / "two" / name / "checkpoint_final.pth" for name in ("fold_0", "fold_all"))
    if "-chk" in options:
        named = final.with_name(options[-1])
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


@pytest.mark.parametrize("where", ["_describe", "_write_network"])
def test_a_failure_leaves_both_files_of_the_export_that_is_there(model, tmp_path, monkeypatch, where):
    def fail(*_):
        raise OSError("No space left on device")

    for name in ("a.onnx", "a.json"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(f"nnunet_xattnres.commands.export_onnx.{where}", fail)
    done = invoke(model, tmp_path / "a.onnx", "--force")
    assert done.exit_code == 1 and "No space left on device" in done.output
    assert [(tmp_path / name).read_text() for name in ("a.onnx", "a.json")] == ["old", "old"]
    assert not list(tmp_path.glob(".partial-*"))


def test_the_hash_is_that_of_the_weights_that_were_loaded(model, tmp_path, monkeypatch):
    """A training may write another checkpoint of this name in the meantime."""
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    expected = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    monkeypatch.setattr(
        "nnunet_xattnres.commands.export_onnx._write_network",
        lambda network, shape, path: (path.write_bytes(b"network"), checkpoint.write_bytes(b"of a later epoch")),
    )
    assert invoke(model, tmp_path / "a.onnx").exit_code == 0
    assert json.loads((tmp_path / "a.json").read_text())["sha256_of_checkpoint"] == expected


def test_a_network_may_call_its_input_as_it_likes(tmp_path):
    class Network(torch.nn.Conv2d):
        def forward(self, image):
            return super().forward(image)

    export_onnx._write_network(Network(1, 2, 3).eval(), (1, 8, 8), tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": np.zeros((3, 1, 8, 8), np.float32)})
    assert found.shape == (3, 2, 6, 6)


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
    assert done.exit_code == 1 and "-m pip install 'nnunet-xattnres[onnx]'" in " ".join(done.output.split())


def test_with_a_torch_that_is_too_old(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    monkeypatch.setattr(installing.importlib.metadata, "version", lambda name: "2.6.0+cu124")
    done = invoke(model, tmp_path / "a.onnx")
    message = "torch 2.6.0+cu124 is older than 2.7: install torch>=2.1.2,!=2.9.*,>=2.7 for your GPU (cu124 now)"
    assert done.exit_code == 1 and message in " ".join(done.output.split())
