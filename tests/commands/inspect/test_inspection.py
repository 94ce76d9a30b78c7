"""What the command writes, computed here a second time from the network itself."""

import base64
import csv
import hashlib
import io
import json
import math
import os
import re
import sys
from unittest.mock import Mock

import matplotlib.image
import numpy as np
import pytest
import SimpleITK
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from helpers.models import LABELS, REGIONS, SOURCES, make_image, make_mask, make_model
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.inspect import inspection
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


def stock_predictor(model, folds=(0,), mirroring=False):
    """nnU-Net's own, and nothing of ours but the network."""
    predictor = nnUNetPredictor(
        use_mirroring=mirroring, device=CPU, allow_tqdm=False, perform_everything_on_device=False
    )
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
        for region, value in (("all", None), *((str(value), value) for value in LABELS.values())):
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
    named = {row["region"]: row["name"] for row in rows.values()}
    assert named == {"all": "", **{str(value): name for name, value in LABELS.items() if str(value) in regions}}
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


def test_with_mirroring_the_masks_are_nnunets_and_the_weights_those_of_the_unmirrored_pass(tmp_path, images):
    model = make_model(tmp_path)
    inspected(tmp_path / "mirrored", model, "-i", images, "--mirroring")
    inspected(tmp_path / "plain", model, "-i", images)
    predict(stock_predictor(model, mirroring=True), images, tmp_path / "nnunet")
    assert_same_files(tmp_path / "mirrored" / "predictions", tmp_path / "nnunet")
    with pytest.raises(AssertionError):  # or nothing was mirrored
        assert_same_files(tmp_path / "mirrored" / "predictions", tmp_path / "plain" / "predictions")
    found, expected = (
        {(row["read"], row["source"]): float(row["mean_weight"]) for row in table(tmp_path / out / "routing.csv")
         if row["region"] == "all"}
        for out in ("mirrored", "plain")
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-6) and len(found) == sum(map(len, SOURCES.values()))


def test_folds_are_averaged(tmp_path, images):
    model = make_model(tmp_path, folds=(0, 1))
    weights = {}
    for name, folds in (("0", (0,)), ("1", (1,)), ("both", (0, 1))):
        inspected(tmp_path / name, model, "-i", images, "-f", *folds)
        rows = table(tmp_path / name / "routing.csv")
        weights[name] = np.array([float(row["mean_weight"]) for row in rows if row["region"] == "all"])
    np.testing.assert_allclose(weights["both"], (weights["0"] + weights["1"]) / 2, rtol=1e-5)


READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")


@pytest.mark.parametrize("reader", READERS)
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


def test_a_map_against_the_weights_of_two_padded_patches_and_two_folds(tmp_path):
    """Where nothing is resampled: put together by hand, from whole arrays."""
    path = tmp_path / "images" / "case_0_0000.nii.gz"
    image = make_image(path, shape=(16, 6, 24), empty_border=0)
    image.SetSpacing([0.9, 2.0, 0.8])
    SimpleITK.WriteImage(image, str(path))
    model = make_model(tmp_path, folds=(0, 1))
    inspected(tmp_path / "out", model, "-i", path, "--maps", "d2")
    voxels = SimpleITK.GetArrayFromImage(image).transpose(1, 0, 2)  # the plans' transposition
    normalised = torch.from_numpy((voxels - voxels.mean()) / voxels.std())[None]
    x, inside = pad_nd_image(normalised, (8, 16, 16), "constant", {"value": 0}, True, None)
    assert x.shape == (1, 8, 16, 24)
    gaussian = compute_gaussian((8, 16, 16), sigma_scale=1 / 8, value_scaling_factor=10, device=CPU).double()
    folds = []
    for fold in (0, 1):
        predictor = stock_predictor(model, (fold,))
        total, count = torch.zeros(len(SOURCES["d2"]), *x.shape[1:]).double(), torch.zeros(x.shape[1:]).double()
        places = predictor._internal_get_sliding_window_slicers(x.shape[1:])
        assert len(places) == 2
        for place in places:
            weights = {}
            with torch.inference_mode(), recorded(predictor.network, weights.__setitem__):
                predictor.network.eval()(x[place][None])
            total[place] += weights["d2"][0] * gaussian
            count[place[1:]] += gaussian
        folds.append(total / count)
    assert (folds[0] - folds[1]).abs().max() > 0.01
    expected = (sum(folds) / 2)[(slice(None), *inside[1:])]
    for k, source in enumerate(SOURCES["d2"]):
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"out/maps/case_0_d2_{source}.nii.gz")))
        np.testing.assert_allclose(found.transpose(1, 0, 2), expected[k].numpy(), atol=1e-5)


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
    found = {(row["region"], row["name"]) for row in table(tmp_path / "out" / "routing.csv")}
    assert found == {("all", ""), ("(1, 2)", "whole"), ("2", "core")}
    assert (tmp_path / "out" / "routing_1-2_whole.png").is_file() and (
        tmp_path / "out" / "routing_2_core.png"
    ).is_file()


def test_the_truth_on_the_page(tmp_path, images):
    """It has 2 and 3, which are in the same regions, and nnU-Net predicts 2 for both; a slice is to be ignored."""
    model = make_model(tmp_path, labels=REGIONS)
    dataset = json.loads((model / "dataset.json").read_text())
    dataset["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ignore": 4}
    (model / "dataset.json").write_text(json.dumps(dataset))
    image = SimpleITK.ReadImage(str(images / "case_0_0000.nii.gz"))
    values = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    values[:, :3], values[:, 3:6], values[:, 6:8], values[9] = 1, 2, 3, 4
    mask = SimpleITK.GetImageFromArray(values)
    mask.CopyInformation(image)
    (tmp_path / "labels").mkdir()
    SimpleITK.WriteImage(mask, str(tmp_path / "labels" / "case_0.nii.gz"))
    inspected(tmp_path / "out", model, "-i", images / "case_0_0000.nii.gz", "-gt", tmp_path / "labels")
    page = (tmp_path / "out" / "report.html").read_text()
    legend = {name: color for color, name in re.findall(r'<i style="background:(#\w+)"></i>([^<]+)</li>', page)}
    assert list(legend) == ["whole", "whole and core", "ignore"]
    truth = base64.b64decode(re.findall(r'href="data:image/png;base64,([^"]+)"', page)[-1])
    pixels = (matplotlib.image.imread(io.BytesIO(truth), format="png") * 255).round().astype(np.uint8).reshape(-1, 4)
    assert {f"#{bytes(rgb).hex()}" for rgb in np.unique(pixels[pixels[:, 3] > 0, :3], axis=0)} == set(legend.values())
    prediction = SimpleITK.GetArrayFromImage(
        SimpleITK.ReadImage(str(tmp_path / "out" / "predictions" / "case_0.nii.gz"))
    )
    values[9] = 0
    fullest = ((prediction > 0).sum(axis=(1, 2)) + (values > 0).sum(axis=(1, 2))).argmax()
    assert f"slice <output>{fullest}</output>" in page


def rename(model, **names):
    """Give the labels of a model folder other names."""
    dataset = json.loads((model / "dataset.json").read_text())
    dataset["labels"] = {names.get(name, name): value for name, value in dataset["labels"].items()}
    (model / "dataset.json").write_text(json.dumps(dataset))
    return model


def test_labels_with_the_names_of_what_is_ours(tmp_path, images):
    """A region called all, and one called mean, beside the row of everything and that of the mean."""
    like = SimpleITK.ReadImage(str(images / "case_0_0000.nii.gz"))
    make_mask(tmp_path / "labels" / "case_0.nii.gz", like)
    model = make_model(tmp_path, labels=REGIONS)
    options = ("-i", images / "case_0_0000.nii.gz", "-gt", tmp_path / "labels", "--knockout")
    inspected(tmp_path / "plain", model, *options)
    screen = inspected(tmp_path / "out", rename(model, whole="all", core="mean"), *options)
    assert screen.count("d2 reads most from") == 1
    for name in ("routing.csv", "knockout.csv", "knockout_cases.csv", "dice.csv"):
        expected = table(tmp_path / "plain" / name)
        for row in expected:
            row["name"] = {"whole": "all", "core": "mean"}.get(row["name"], row["name"])
        assert table(tmp_path / "out" / name) == expected
    routing = table(tmp_path / "out" / "routing.csv")
    n_rows = sum(map(len, SOURCES.values()))
    assert sum(row["region"] == "all" for row in routing) == n_rows
    assert sum(row["name"] == "all" for row in routing) == n_rows
    knockout = table(tmp_path / "out" / "knockout.csv")
    assert {(row["label"], row["name"]) for row in knockout} == {("(1, 2)", "all"), ("2", "mean"), ("mean", "")}


def test_labels_whose_names_make_the_same_file_name(tmp_path, images):
    model = rename(make_model(tmp_path), anterior="stage <2", posterior="stage >2")
    inspected(tmp_path / "out", model, "-i", images, "--each-label")
    found = sorted(path.name for path in (tmp_path / "out").glob("routing_*.png"))
    there = {row["region"]: row["name"] for row in table(tmp_path / "out" / "routing.csv")}
    assert {"1", "2"} < set(there)
    assert found == ["routing_0_background.png", "routing_1_stage__2.png", "routing_2_stage__2.png"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Within stage &lt;2" in page and "Within stage &gt;2" in page


def test_a_name_that_matplotlib_would_take_for_a_formula(tmp_path, images):
    model = rename(make_model(tmp_path), anterior="a$\\b$", posterior="p$$$")
    inspected(tmp_path / "out", model, "-i", images, "--each-label")


def test_here(tmp_path, images, monkeypatch):
    """The model is the folder that the user is in, or the output is."""
    model = make_model(tmp_path)
    monkeypatch.chdir(model)
    inspected(tmp_path / "out", ".", "-i", images)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<td>{model}</td>" in page and f"{model.name.split('__')[0]}, plans" in page
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    inspected(".", model, "-i", images)
    assert (tmp_path / "here" / "report.html").is_file() and (tmp_path / "here" / "predictions").is_dir()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_compare_takes_the_predictions(tmp_path, images):
    model = make_model(tmp_path)
    for i in range(2):
        make_mask(tmp_path / "labels" / f"case_{i}.nii.gz", SimpleITK.ReadImage(str(images / f"case_{i}_0000.nii.gz")))
    for out in ("one", "two"):
        inspected(tmp_path / out, model, "-i", images, "-gt", tmp_path / "labels")
    folders = [f"{name}={tmp_path / name / 'predictions'}" for name in ("one", "two")]
    arguments = ["compare", "--predictions", *folders, "--labels", tmp_path / "labels", "-o", tmp_path / "compared"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    theirs = {(row["case"], row["label"]): float(row["dice"]) for row in table(tmp_path / "compared" / "cases.csv")}
    ours = {(f"{row['case']}.nii.gz", row["name"]): float(row["dice"]) for row in table(tmp_path / "one" / "dice.csv")}
    assert len(ours) == 4 and theirs == pytest.approx(ours)


def test_the_block_level_network(tmp_path, images):
    """Reads of which none has all sources."""
    model = make_model(tmp_path, "nnUNetTrainerXAttnResBlock", convolutions=2)
    make_mask(tmp_path / "labels" / "case_0.nii.gz", SimpleITK.ReadImage(str(images / "case_0_0000.nii.gz")))
    (images / "case_1_0000.nii.gz").unlink()
    out = tmp_path / "out"
    inspected(out, model, "-i", images, "-gt", tmp_path / "labels", "--knockout", "--maps", "d2_skip")
    sources = {"d1_skip": ["block1", "block2"], "d1_block2": ["input", "block1"]}
    sources |= {f"d2{read[2:]}": names for read, names in sources.items()}
    rows = {(r["read"], r["source"]): r for r in table(out / "routing.csv") if r["region"] == "all"}
    assert list(rows) == [(read, source) for read, names in sources.items() for source in names]
    for read, (a, w, _) in routing_by_hand(model, images, lambda logits: logits.argmax(0)).items():
        for source, mean in zip(sources[read], (a * w).sum(1) / w.sum()):
            assert float(rows[read, source]["mean_weight"]) == pytest.approx(mean, rel=1e-4)
    assert {(row["read"], row["source"]) for row in table(out / "knockout.csv")} == set(rows)
    assert {path.name for path in (out / "maps").glob("*.nii.gz")} == {
        f"case_0_d2_skip_{source}.nii.gz" for source in sources["d2_skip"]
    }
    page = (out / "report.html").read_text()
    assert "<td>d2_block2</td><td>input, block1</td>" in page and "Not shown: How much of the upsampled map" in page


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
                value = foreground[row["name"]]
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
    for i in range(2):
        make_mask(tmp_path / "labels" / f"case_{i}.nii.gz", SimpleITK.ReadImage(str(images / f"case_{i}_0000.nii.gz")))
    inspected(tmp_path / "out", model, "-i", images, "--maps", "d1", "-gt", tmp_path / "labels")
    page = (tmp_path / "out" / "report.html").read_text()
    assert model.name in page and "nnUNetTrainerXAttnRes" in page and "checkpoint_final.pth" in page
    import hashlib

    digest = hashlib.sha256((model / "fold_0" / "checkpoint_final.pth").read_bytes()).hexdigest()
    assert digest in page and "data:image/png;base64," in page
    assert not re.search(r'(src|href)="(?!data:|#)', page) and not re.search(r"url\(|@import|https?://", page)
    # every image, with its truth and its Dice; the summary first, long tables folded
    assert page.count('<details class="case"') == 2 and page.count("<figcaption>truth</figcaption>") == 2
    assert page.count("<figcaption>e1: ") == 2 and "<h2>Dice</h2>" in page
    for row in table(tmp_path / "out" / "dice.csv"):
        assert f"{row['name']} {float(row['dice']):.3f}" in page
    first = [page.index(text) for text in ('<th scope="row">model', "<h2>The network", "<h2>What is read")]
    assert first == sorted(first) and "e1 to e3 are the stages of the encoder" in page
    folded = re.sub("<details.*?</details>", "", page, flags=re.DOTALL)
    assert page.count("<thead>") == 4 and folded.count("<thead>") == 1
    assert "@media print" in page and "table-header-group" in page


def test_two_channels_in_two_files(tmp_path, images):
    model = make_model(tmp_path, channels=2)
    for i in range(2):
        make_image(images / f"case_{i}_0001.nii.gz", seed=5 + i, shape=(14, 11, 22 + 4 * i))
    inspected(tmp_path / "out", model, "-i", images / "case_1_0001.nii.gz", "--maps", "d2")
    assert [path.name for path in (tmp_path / "out" / "predictions").glob("*.nii.gz")] == ["case_1.nii.gz"]
    (images / "case_1_0001.nii.gz").unlink()
    done = invoke(model, "-i", images, "-o", tmp_path / "second")
    assert done.exit_code == 1 and "1 channel(s), but the model takes 2" in " ".join(done.output.split())
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "case_1_0000.nii.gz: 1 channel(s), but the model takes 2"),
        (lambda file: (file.unlink(), file.symlink_to("gone.nii.gz")), "case_1_0001.nii.gz is a link to a file that"),
    ],
)
def test_what_the_names_of_the_files_show_is_said_before_the_first_prediction(
    tmp_path, images, monkeypatch, damage, message
):
    model = make_model(tmp_path, channels=2)
    for i in range(2):
        make_image(images / f"case_{i}_0001.nii.gz", seed=5 + i, shape=(14, 11, 22 + 4 * i))
    damage(images / "case_1_0001.nii.gz")
    monkeypatch.setattr("nnunet_xattnres.commands.inspect.inspection.predict_each", pytest.fail)
    done = invoke(model, "-i", images, "-o", tmp_path / "out")
    assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
    assert not (tmp_path / "out").exists()


def test_colours_in_one_file_are_counted_before_the_first_prediction(tmp_path, monkeypatch):
    """nnU-Net's preprocessing only fails there, and names neither the file nor the reason."""
    from skimage.io import imsave

    (tmp_path / "images").mkdir()
    for name, shape in (("a", (29, 35)), ("b", (29, 35, 3))):
        imsave(str(tmp_path / "images" / f"{name}_0000.png"), np.zeros(shape, dtype=np.uint8), check_contrast=False)
    model = make_model(tmp_path, dimension=2, reader="NaturalImage2DIO", ending=".png")
    monkeypatch.setattr("nnunet_xattnres.commands.inspect.inspection.predict_each", pytest.fail)
    done = invoke(model, "-i", tmp_path / "images", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "b_0000.png: 3 channel(s), but the model takes 1" in " ".join(done.output.split()), done.output


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no UTF-8")
def test_a_case_whose_name_is_no_utf8_has_its_rows(tmp_path):
    name = os.fsdecode(b"M\xfcller")
    image = make_image(tmp_path / "images" / "case_0000.nii.gz")
    make_mask(tmp_path / "labels" / "case.nii.gz", image)
    for folder, old, new in (("images", "case_0000", f"{name}_0000"), ("labels", "case", name)):
        (tmp_path / folder / f"{old}.nii.gz").rename(tmp_path / folder / f"{new}.nii.gz")
    model = make_model(tmp_path, reader="NibabelIO")
    inspected(tmp_path / "out", model, "-i", tmp_path / "images", "-gt", tmp_path / "labels", "--knockout")
    for file in ("dice.csv", "knockout_cases.csv"):
        assert {row["case"] for row in table(tmp_path / "out" / file)} == {"M\\udcfcller"}


def test_an_error_of_the_knockout_names_the_case(tmp_path, images, monkeypatch):
    for i in range(2):
        like = SimpleITK.ReadImage(str(images / f"case_{i}_0000.nii.gz"))
        make_mask(tmp_path / "labels" / f"case_{i}.nii.gz", like, seed=i)
    fail = Mock(side_effect=RuntimeError("out of luck"))
    monkeypatch.setattr("nnunet_xattnres.commands.inspect.knockout.mask_of", fail)
    done = invoke(make_model(tmp_path), "-i", images, "-gt", tmp_path / "labels", "-o", tmp_path / "out", "--knockout")
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and "case_0: RuntimeError: out of luck What was finished is kept in" in said


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: a.update({"-f": 3}), "fold_3/checkpoint_final.pth does not exist; there is fold_0/"),
        (
            lambda a, t: a.update({"-chk": "nope.pth"}),
            "has the checkpoint nope.pth; there is fold_0/checkpoint_final.pth: take one with -chk NAME",
        ),
        (lambda a, t: a.update(model=t / "nowhere"), "is no folder of a trained model"),
        (lambda a, t: a.update(model=make_model(t, "nnUNetTrainer")), "whose network has no reads"),
        (lambda a, t: a.update(model=make_model(t, "nnUNetTrainerNoSkip")), "whose network has no reads"),
        (
            lambda a, t: a.update(model=make_model(t, "nnUNetTrainerUCTransNet")),
            "nothing is to be seen. Its transformer weighs channels of skips",
        ),
        (lambda a, t: a.update(model=damaged(make_model(t / "b", folds=(0, 1)))), "is damaged, probably cut off"),
        (lambda a, t: a.update({"-i": t / "nowhere"}), "does not exist"),
        (lambda a, t: (t / "empty").mkdir() or a.update({"-i": t / "empty"}), "holds no image CASE_0000.nii.gz"),
        (lambda a, t: a.update({"--maps": "d7"}), "no such read; it has e3, d1, d2"),
        (lambda a, t: a.update({"--knockout": None}), "name their folder with -gt"),
        (lambda a, t: a.update({"-gt": t / "nowhere"}), "-gt needs the true mask of every case"),
        (lambda a, t: a.update({"-gt": other_shape(t)}), "has the shape (4, 5, 6), its image"),
        (lambda a, t: a.update({"-gt": damaged_mask(t)}), "wrong/case_1.nii.gz cannot be read as a mask: "),
        (
            lambda a, t: (damage(t / "images" / "case_0_0000.nii.gz"), a.update({"-gt": other_shape(t)})),
            "images/case_0_0000.nii.gz cannot be read: ",
        ),
        (
            lambda a, t: (damage(t / "images" / "case_0_0000.nii.gz"), a.update(model=make_model(t / "b", channels=2))),
            "images/case_0_0000.nii.gz cannot be read: ",
        ),
        (
            lambda a, t: ((t / "out").mkdir(), (t / "out" / "mine").touch()),
            "exists: name another, or replace it with --force",
        ),
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(tmp_path, images, model):
    arguments = ["inspect", model, "-i", images, "-o", tmp_path / "out", "--device", "cuda"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 1 and "there is cpu. Take --device cpu" in " ".join(done.output.split()), done.output


def test_a_checkpoint_of_another_name(tmp_path, images, model):
    (model / "fold_0" / "checkpoint_final.pth").rename(model / "fold_0" / "mine.pth")
    inspected(tmp_path / "out", model, "-i", images, "-chk", "mine.pth")


def damaged(model):
    file = model / "fold_1" / "checkpoint_final.pth"
    file.write_bytes(file.read_bytes()[:5000])
    return model


def damage(file):
    file.write_bytes(b"no image")


def damaged_mask(root):
    for i in range(2):
        image = SimpleITK.ReadImage(str(root / "images" / f"case_{i}_0000.nii.gz"))
        make_mask(root / "wrong" / f"case_{i}.nii.gz", image)
    damage(root / "wrong" / "case_1.nii.gz")
    return root / "wrong"


def other_shape(root):
    for i in range(2):
        make_mask(root / "wrong" / f"case_{i}.nii.gz", SimpleITK.GetImageFromArray(np.zeros((4, 5, 6))))
    return root / "wrong"


def test_a_failure_before_anything_is_finished_leaves_nothing(tmp_path, images, model):
    (images / "case_0_0000.nii.gz").write_bytes(b"no image")
    done = invoke(model, "-i", images, "-o", tmp_path / "out")
    assert done.exit_code == 1 and "error: case_0: " in done.output and "kept" not in done.output
    assert not (tmp_path / "out").exists()


def kept_in(done, out):
    (kept,) = re.findall(r"What was finished is kept in (.*)", done.output)
    (folder,) = out.iterdir()
    assert str(folder) == kept
    return folder


def test_a_damaged_image_costs_no_other_prediction(tmp_path, images, model):
    image, out = images / "case_1_0000.nii.gz", tmp_path / "out"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    done = invoke(model, "-i", images, "-o", out, "--maps", "d1")
    assert done.exit_code == 1 and "error: case_1: " in done.output and "Traceback" not in done.output, done.output
    kept = kept_in(done, out)
    image.write_bytes(whole)
    inspected(out, model, "-i", images, "--maps", "d1")
    names = [path.relative_to(kept) for path in kept.rglob("*.nii.gz")]
    assert len(names) == 1 + len(SOURCES["d1"]), "of the first case; the next run leaves them"
    assert all((kept / name).read_bytes() == (out / name).read_bytes() for name in names)


@pytest.mark.parametrize("error", [OSError("No space left on device"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_failure_at_the_end_costs_no_prediction(tmp_path, images, model, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("nnunet_xattnres.commands.inspect.inspection.write_page", fail)
    done = invoke(model, "-i", images, "-o", tmp_path / "out")
    said = {OSError: "No space left on device", ValueError: "ValueError: a bug", KeyboardInterrupt: "stopped"}
    assert done.exit_code == 1 and f"error: {said[type(error)]}" in done.output
    kept = kept_in(done, tmp_path / "out")
    predictor = stock_predictor(model)
    predict(predictor, images, tmp_path / "nnunet")
    assert_same_files(kept / "predictions", tmp_path / "nnunet")
    assert (kept / "routing.csv").is_file()


def test_the_page_names_the_weights_that_were_loaded(tmp_path, images, model, monkeypatch):
    """A training may write another checkpoint of this name while the inspection runs."""
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    expected, predict_each = hashlib.sha256(checkpoint.read_bytes()).hexdigest(), inspection.predict_each

    def and_the_training_goes_on(*arguments):
        seen = predict_each(*arguments)
        checkpoint.write_bytes(b"of a later epoch")
        return seen

    monkeypatch.setattr(inspection, "predict_each", and_the_training_goes_on)
    inspected(tmp_path / "out", model, "-i", images)
    assert expected in (tmp_path / "out" / "report.html").read_text()


def test_the_page_of_many_images_shows_the_first(tmp_path, images, model, monkeypatch):
    monkeypatch.setattr("nnunet_xattnres.commands.inspect.cases._SHOWN", 1)
    for i in range(2):
        make_mask(tmp_path / "labels" / f"case_{i}.nii.gz", SimpleITK.ReadImage(str(images / f"case_{i}_0000.nii.gz")))
    inspected(tmp_path / "out", model, "-i", images, "-gt", tmp_path / "labels")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<details class="case"') == 1 and "The first 1 of 2 images" in page
    assert {row["case"] for row in table(tmp_path / "out" / "dice.csv")} == {"case_0", "case_1"}
    assert len(list((tmp_path / "out" / "predictions").glob("*.nii.gz"))) == 2


def test_force_replaces_an_inspection_and_nothing_else(tmp_path, images, model):
    out = tmp_path / "out"
    inspected(out, model, "-i", images, "--maps", "d1", "--each-label")
    others = ["thesis.tex", "dice.xlsx", "routing_notes.md", "routing_1_thesis.png", "knockout-ideas.txt"]
    for name in others:
        (out / name).write_text("years")
    assert "replace it with --force" in invoke(model, "-i", images, "-o", out).output
    done = invoke(model, "-i", images, "-o", out, "--force")
    assert done.exit_code == 0, done.output
    # nothing that the new page lacks
    assert not (out / "maps").exists() and not (out / "routing_1_anterior.png").exists()
    assert all((out / name).read_text() == "years" for name in others) and (out / "report.html").is_file()

    mine = tmp_path / "mine" / "predictions"
    mine.mkdir(parents=True)
    done = invoke(model, "-i", images, "-o", mine.parent, "--force")
    assert done.exit_code == 1 and "holds no inspection that could be replaced" in " ".join(done.output.split())
    (mine.parent / "routing.json").write_text('{"of": "something else"}')
    done = invoke(model, "-i", images, "-o", mine.parent, "--force")
    assert done.exit_code == 1 and "holds no inspection that could be replaced" in " ".join(done.output.split())
    assert mine.is_dir()
