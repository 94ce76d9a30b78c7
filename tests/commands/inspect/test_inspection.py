"""What the command writes, computed here a second time from the network itself."""

import csv
import json
import math
import re

import numpy as np
import pytest
import SimpleITK
import torch
from helpers.models import LABELS, REGIONS, SOURCES, make_image, make_mask, make_model
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.reads.recorder import recorded

CPU = torch.device("cpu")


def invoke(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments), "--device", "cpu"])


def inspected(out, *arguments):
    done = invoke(*arguments, "-o", out)
    assert done.exit_code == 0, done.output
    return done.output


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(tmp_path):
    for i in range(2):
        make_image(tmp_path / "images" / f"case_{i}_0000.nii.gz", seed=i, shape=(14, 11, 22 + 4 * i))
    return tmp_path / "images"


def stock_predictor(model, folds=(0,)):
    """nnU-Net's own, and nothing of ours but the network."""
    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False, perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
    return predictor


def predict(predictor, images, out):
    out.mkdir()
    predictor.predict_from_files_sequential(str(images), str(out))


def assert_same_files(a, b):
    names = sorted(path.name for path in a.glob("*.nii.gz"))
    assert names and names == sorted(path.name for path in b.glob("*.nii.gz"))
    for name in names:
        one, two = (SimpleITK.ReadImage(str(folder / name)) for folder in (a, b))
        np.testing.assert_array_equal(*map(SimpleITK.GetArrayFromImage, (one, two)))
        assert geometry(one) == geometry(two)


def geometry(image):
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def routing_by_hand(model, images, region_of):
    """Every patch again, with whole arrays and no sums: the weights, the importance and the label of every position."""
    predictor = stock_predictor(model)
    patch = tuple(predictor.configuration_manager.patch_size)
    gaussian = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=CPU).double().numpy()
    network, forward, collected = predictor.network, predictor.network.forward, {}

    def watched(x):
        weights = {}
        with recorded(network, weights.__setitem__):
            logits = forward(x)
        label = region_of(logits[0].numpy())
        for name, a in weights.items():
            a = a[0].double().numpy()
            nearest = np.ix_(*(((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(a.shape[1:], patch)))
            parts = a.reshape(len(a), -1), gaussian[nearest].ravel(), label[nearest].ravel()
            collected.setdefault(name, []).append(parts)
        return logits

    network.forward = watched
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    for file in sorted(images.iterdir()):
        managers = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        data, _, _ = preprocessor.run_case([str(file)], None, *managers)
        predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    return {name: [np.concatenate(parts, axis=-1) for parts in zip(*found)] for name, found in collected.items()}


def test_the_routing(tmp_path, images):
    model = make_model(tmp_path)
    screen = inspected(tmp_path / "out", model, "-i", images)
    assert "d2 reads most from" in screen
    rows = {(row["region"], row["read"], row["source"]): row for row in table(tmp_path / "out" / "routing.csv")}
    expected = routing_by_hand(model, images, lambda logits: logits.argmax(0))
    regions = ["all"]
    for read, (a, w, label) in expected.items():
        for region, value in (("all", None), *LABELS.items()):
            counts = w if value is None else w * (label == value)
            if not counts.sum():
                assert (region, read, "e1") not in rows
                continue
            regions.append(region)
            mean = np.average(a, axis=1, weights=counts)
            spread = np.sqrt(np.average((a - mean[:, None]) ** 2, axis=1, weights=counts))
            entropy = np.average(-(a * np.log(a)).sum(0), weights=counts)
            for k, source in enumerate(SOURCES[read]):
                row = rows[region, read, source]
                assert float(row["mean_weight"]) == pytest.approx(mean[k], rel=1e-4)
                assert float(row["std_over_positions"]) == pytest.approx(spread[k], rel=1e-3, abs=1e-6)
                assert float(row["entropy"]) == pytest.approx(entropy, rel=1e-4)
                assert float(row["uniform_weight"]) == pytest.approx(1 / len(SOURCES[read]))
                assert float(row["uniform_entropy"]) == pytest.approx(math.log(len(SOURCES[read])))
    assert {region for region, _, _ in rows} == set(regions) and len(set(regions)) > 2
    as_json = json.loads((tmp_path / "out" / "routing.json").read_text())
    assert [str(row["mean_weight"]) for row in as_json] == [row["mean_weight"] for row in rows.values()]


def test_the_masks_are_nnunets_and_twice_the_same_and_the_model_is_unchanged(tmp_path, images):
    model = make_model(tmp_path, folds=(0, 1))
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    for out in ("one", "two"):
        inspected(tmp_path / out, model, "-i", images, "--maps", "d2")
    predict(stock_predictor(model, (0, 1)), images, tmp_path / "nnunet")
    assert_same_files(tmp_path / "one" / "predictions", tmp_path / "nnunet")
    assert_same_files(tmp_path / "one" / "predictions", tmp_path / "two" / "predictions")
    assert (tmp_path / "one" / "routing.csv").read_bytes() == (tmp_path / "two" / "routing.csv").read_bytes()
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


def test_folds_are_averaged(tmp_path, images):
    model = make_model(tmp_path, folds=(0, 1))
    weights = {}
    for name, folds in (("0", (0,)), ("1", (1,)), ("both", (0, 1))):
        inspected(tmp_path / name, model, "-i", images, "-f", *folds)
        rows = table(tmp_path / name / "routing.csv")
        weights[name] = np.array([float(row["mean_weight"]) for row in rows if row["region"] == "all"])
    np.testing.assert_allclose(weights["both"], (weights["0"] + weights["1"]) / 2, rtol=1e-5)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_maps_are_the_weights_at_every_voxel_with_the_geometry_of_the_image(tmp_path, reader):
    image = make_image(tmp_path / "images" / "case_0_0000.nii.gz")
    model = make_model(tmp_path, reader=reader)
    inspected(tmp_path / "out", model, "-i", tmp_path / "images" / "case_0_0000.nii.gz", "--maps", "d2", "e3")
    for read in ("d2", "e3"):
        files = [tmp_path / "out" / "maps" / f"case_0_{read}_{source}.nii.gz" for source in SOURCES[read]]
        maps = [SimpleITK.ReadImage(str(file)) for file in files]
        for found in maps:
            for a, b in zip(geometry(found), geometry(image)):
                assert a == pytest.approx(b, abs=1e-5)
        values = np.stack([SimpleITK.GetArrayFromImage(found) for found in maps])
        np.testing.assert_allclose(values.sum(axis=0), 1, atol=1e-5)
        inside = values[:, 2:-2, 2:-2, 2:-2]
        assert inside.std() > 0.01
        outside = np.ones(values.shape[1:], dtype=bool)
        outside[2:-2, 2:-2, 2:-2] = False
        np.testing.assert_allclose(values[:, outside], 1 / len(values), atol=1e-6)
    assert (tmp_path / "out" / "maps" / "case_0_d2_overlay.png").stat().st_size > 1000


def test_a_map_against_the_weights_of_the_one_patch_that_there_is(tmp_path):
    """Where nothing is resampled and one patch covers the image, a map is the weights themselves."""
    path = tmp_path / "images" / "case_0_0000.nii.gz"
    image = make_image(path, shape=(16, 8, 16), empty_border=0)
    image.SetSpacing([0.9, 2.0, 0.8])
    SimpleITK.WriteImage(image, str(path))
    model = make_model(tmp_path)
    inspected(tmp_path / "out", model, "-i", path, "--maps", "d2")
    predictor = stock_predictor(model)
    voxels = SimpleITK.GetArrayFromImage(image).transpose(1, 0, 2)  # the plans' transposition
    x = torch.from_numpy((voxels - voxels.mean()) / voxels.std())[None, None]
    weights = {}
    with torch.inference_mode(), recorded(predictor.network, weights.__setitem__):
        predictor.network(x)
    for k, source in enumerate(SOURCES["d2"]):
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"out/maps/case_0_d2_{source}.nii.gz")))
        np.testing.assert_allclose(found.transpose(1, 0, 2), weights["d2"][0, k].numpy(), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_png(tmp_path, channels):
    """Gray, and three channels in one file."""
    from skimage.io import imread, imsave

    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "case_0_0000.png"
    shape = (29, 35, 3)[: 2 if channels == 1 else 3]
    imsave(str(file), generator.integers(0, 255, shape, dtype=np.uint8), check_contrast=False)
    model = make_model(tmp_path, dimension=2, reader="NaturalImage2DIO", ending=".png", channels=channels)
    inspected(tmp_path / "out", model, "-i", tmp_path / "images", "--maps", "d2")
    maps = [imread(str(tmp_path / "out" / "maps" / f"case_0_d2_{source}.png")) for source in SOURCES["d2"]]
    assert all(m.shape == (29, 35) and m.dtype == np.uint16 for m in maps)
    assert np.abs(np.sum(maps, axis=0, dtype=np.int64) - 65535).max() <= 2
    assert np.std(maps) > 500 and (tmp_path / "out" / "predictions" / "case_0.png").is_file()


def test_a_network_that_pads_inside(tmp_path):
    """EMCAD computes a patch of 16x16 as one of 32x32: the padding is no part of the tables and the maps."""
    from skimage.io import imread, imsave

    image = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    imsave(str(tmp_path / "images" / "case_0_0000.png"), image, check_contrast=False)
    trainer = "nnUNetTrainerEMCADB0XAttnRes"
    model = make_model(tmp_path, trainer, dimension=2, reader="NaturalImage2DIO", ending=".png")
    inspected(tmp_path / "out", model, "-i", tmp_path / "images", "--maps", "d1", "d3")
    predictor = stock_predictor(model)
    x = torch.zeros(1, 1, 32, 32)
    x[..., :16, :16] = torch.from_numpy((image - image.mean()) / image.std())
    weights = {}
    with torch.inference_mode(), recorded(predictor.network, weights.__setitem__):
        predictor.network.eval()(x)
    gaussian = compute_gaussian((16, 16), sigma_scale=1 / 8, value_scaling_factor=10, device=CPU).double()
    rows = [row for row in table(tmp_path / "out" / "routing.csv") if row["region"] == "all"]
    for read, sources in (("d3", ["x1", "x2", "x3", "x4", "d4"]), ("d1", ["x1", "x2", "x3", "x4", "d4", "d3", "d2"])):
        a = torch.nn.functional.interpolate(weights[read], (32, 32), mode="bilinear")[0, :, :16, :16].double()
        assert [row["source"] for row in rows if row["read"] == read] == sources
        for k, source in enumerate(sources):
            found = imread(str(tmp_path / "out" / "maps" / f"case_0_{read}_{source}.png")) / 65535
            np.testing.assert_allclose(found, a[k].numpy(), atol=2e-4)
            (row,) = [row for row in rows if (row["read"], row["source"]) == (read, source)]
            assert float(row["mean_weight"]) == pytest.approx(
                ((a[k] * gaussian).sum() / gaussian.sum()).item(), rel=1e-3
            )


def test_a_volume_slice_by_slice(tmp_path, images):
    """A 2D network on a volume."""
    model = make_model(tmp_path, dimension=2)
    inspected(tmp_path / "out", model, "-i", images, "--maps", "d2")
    values = sum(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"out/maps/case_0_d2_{source}.nii.gz")))
        for source in SOURCES["d2"]
    )
    np.testing.assert_allclose(values, 1, atol=1e-5)


def test_regions(tmp_path, images):
    model = make_model(tmp_path, labels=REGIONS)
    inspected(tmp_path / "out", model, "-i", images, "--each-label")
    found = {row["region"] for row in table(tmp_path / "out" / "routing.csv")}
    assert found == {"all", "whole", "core"}
    assert (tmp_path / "out" / "routing_whole.png").is_file()


@pytest.mark.parametrize("labels", [LABELS, REGIONS])
def test_the_knockout(tmp_path, images, labels):
    model = make_model(tmp_path, labels=labels)
    for i in range(2):
        like = SimpleITK.ReadImage(str(images / f"case_{i}_0000.nii.gz"))
        make_mask(tmp_path / "labels" / f"case_{i}.nii.gz", like, seed=i)
    inspected(tmp_path / "out", model, "-i", images, "-gt", tmp_path / "labels", "--knockout")
    cases = table(tmp_path / "out" / "knockout_cases.csv")
    foreground = {key: value for key, value in labels.items() if key != "background"}
    pairs = [(read, source) for read, sources in SOURCES.items() for source in sources]
    assert len(cases) == 2 * len(pairs) * len(foreground)

    predictor = stock_predictor(model)
    read = predictor.network.reads["d2"]
    parameters = {name: value.clone() for name, value in predictor.network.state_dict().items()}
    without = without_source(read, 1)
    predictor.network.reads["d2"].forward = without
    predict(predictor, images, tmp_path / "knocked")
    for name, value in predictor.network.state_dict().items():
        assert torch.equal(value, parameters[name])
    for folder, column in ((tmp_path / "out" / "predictions", "dice"), (tmp_path / "knocked", "dice_without")):
        for row in cases:
            if (row["read"], row["source"]) == ("d2", "e2"):
                value = foreground[row["label"]]
                both = (
                    np.isin(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(d / f"{row['case']}.nii.gz"))), value)
                    for d in (folder, tmp_path / "labels")
                )
                a, b = both
                assert float(row[column]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))

    for row in table(tmp_path / "out" / "knockout.csv"):
        these = [c for c in cases if (c["read"], c["source"]) == (row["read"], row["source"])]
        if row["label"] != "mean":
            these = [c for c in these if c["label"] == row["label"]]
        for column in ("dice", "dice_without"):
            assert float(row[column]) == pytest.approx(np.mean([float(c[column]) for c in these]))
        assert float(row["difference"]) == pytest.approx(float(row["dice_without"]) - float(row["dice"]))
    assert any(float(row["difference"]) for row in table(tmp_path / "out" / "knockout.csv"))
    assert (tmp_path / "out" / "knockout.png").stat().st_size > 1000


def without_source(read, k):
    """A read of the pool without its source k, by the operator itself."""
    from nnunet_xattnres.ops import reference

    def forward(pool, size, *, skip=None, below=None):
        kept = [i for i in range(len(pool)) if i != k]
        projections = [None if i in read.direct else read.projections[i].weight.flatten(1) for i in kept]
        found = reference.history_read([pool[i] for i in kept], projections, read.pseudo_query, read.key_scale, size)
        return torch.cat((below, found + pool[skip]), dim=1)

    return forward


def test_the_page_needs_no_other_file(tmp_path, images):
    model = make_model(tmp_path)
    inspected(tmp_path / "out", model, "-i", images, "--maps", "d1")
    page = (tmp_path / "out" / "report.html").read_text()
    assert model.name in page and "nnUNetTrainerXAttnRes" in page and "checkpoint_final.pth" in page
    import hashlib

    digest = hashlib.sha256((model / "fold_0" / "checkpoint_final.pth").read_bytes()).hexdigest()
    assert digest in page and page.count("data:image/png;base64,") == 2  # the routing and one overlay
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_two_channels_in_two_files(tmp_path, images):
    model = make_model(tmp_path, channels=2)
    for i in range(2):
        make_image(images / f"case_{i}_0001.nii.gz", seed=5 + i, shape=(14, 11, 22 + 4 * i))
    inspected(tmp_path / "out", model, "-i", images / "case_1_0001.nii.gz", "--maps", "d2")
    assert [path.name for path in (tmp_path / "out" / "predictions").iterdir()] == ["case_1.nii.gz"]
    (images / "case_1_0001.nii.gz").unlink()
    done = invoke(model, "-i", images, "-o", tmp_path / "second")
    assert done.exit_code == 1 and "1 channel(s), but the model takes 2" in " ".join(done.output.split())
    assert not (tmp_path / "second").exists()


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: a.update({"-f": 3}), "fold_3/checkpoint_final.pth does not exist; there is fold_0/"),
        (lambda a, t: a.update({"-chk": "checkpoint_best.pth"}), "is no folder of a trained model"),
        (lambda a, t: a.update(model=t / "nowhere"), "is no folder of a trained model"),
        (lambda a, t: a.update(model=make_model(t, "nnUNetTrainer")), "whose network has no reads"),
        (lambda a, t: a.update(model=make_model(t, "nnUNetTrainerNoSkip")), "whose network has no reads"),
        (lambda a, t: a.update({"-i": t / "nowhere"}), "does not exist"),
        (lambda a, t: (t / "empty").mkdir() or a.update({"-i": t / "empty"}), "holds no image CASE_0000.nii.gz"),
        (lambda a, t: a.update({"--maps": "d7"}), "no such read; it has e3, d1, d2"),
        (lambda a, t: a.update({"--knockout": None}), "name their folder with -gt"),
        (lambda a, t: a.update({"-gt": t / "nowhere"}), "-gt needs the true mask of every case"),
        (lambda a, t: a.update({"-gt": other_shape(t)}), "has the shape (4, 5, 6), its image"),
        (lambda a, t: ((t / "out").mkdir(), (t / "out" / "mine").touch()), "exists and is not an empty folder"),
    ],
)
def test_what_is_refused(tmp_path, images, model, change, message):
    arguments = {"model": model, "-i": images}
    change(arguments, tmp_path)
    folder = arguments.pop("model")
    flat = [part for pair in arguments.items() for part in pair if part is not None]
    before = sorted(tmp_path.rglob("*"))
    done = invoke(folder, *flat, "-o", tmp_path / "out")
    assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
    assert "Traceback" not in done.output and sorted(tmp_path.rglob("*")) == before


def other_shape(root):
    for i in range(2):
        make_mask(root / "wrong" / f"case_{i}.nii.gz", SimpleITK.GetImageFromArray(np.zeros((4, 5, 6))))
    return root / "wrong"


def test_a_failure_leaves_nothing(tmp_path, images, model, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("nnunet_xattnres.commands.inspect.inspection.write_page", fail)
    done = invoke(model, "-i", images, "-o", tmp_path / "out")
    assert done.exit_code == 1 and "No space left" in done.output
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
