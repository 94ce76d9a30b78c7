import json

import numpy as np
import pytest
import SimpleITK

from nnunet_xattnres.commands.demo.synthetic import SPACING, STRUCTURES, make_case, write_dataset


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_seed_gives_one_case():
    image, labels = make_case(np.random.default_rng(3), (24, 28, 20))
    again, labels_again = make_case(np.random.default_rng(3), (24, 28, 20))
    other, _ = make_case(np.random.default_rng(4), (24, 28, 20))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(image, other)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 28, 20), (16, 40, 18)])
def test_both_structures_always_occur(shape):
    for seed in range(40):
        image, labels = make_case(np.random.default_rng(seed), shape)
        assert image.shape == labels.shape == shape
        assert image.dtype == np.float32 and labels.dtype == np.uint8
        assert np.isfinite(image).all()
        assert set(np.unique(labels)) == {0, 1, 2}
        assert min((labels == label).sum() for label in STRUCTURES.values()) >= 10, f"seed {seed}"


@pytest.mark.parametrize("shape", [(15, 16, 16), (32, 32), (16, 16, 16, 16)])
def test_shapes_that_cannot_hold_the_anatomy(shape):
    with pytest.raises(ValueError, match="at least 16"):
        make_case(np.random.default_rng(0), shape)


def test_brightness_alone_does_not_tell_the_structures():
    """The best of all intervals of brightness, chosen with the truth at hand, is a poor segmentation."""
    best = {label: [] for label in STRUCTURES.values()}
    for seed in range(6):
        image, labels = make_case(np.random.default_rng(seed), (32, 36, 32))
        levels = np.quantile(image, np.linspace(0, 1, 25))
        for label, values in best.items():
            values.append(
                max(
                    dice((image >= low) & (image <= high), labels == label)
                    for i, low in enumerate(levels)
                    for high in levels[i + 1 :]
                )
            )
    assert max(np.mean(values) for values in best.values()) < 0.45


def test_structures_vary_between_cases():
    _, labels = make_case(np.random.default_rng(0), (32, 36, 32))
    _, other = make_case(np.random.default_rng(1), (32, 36, 32))
    for label in STRUCTURES.values():
        assert dice(labels == label, other == label) < 0.75


def test_dataset_is_in_nnunets_raw_format(tmp_path):
    folder = write_dataset(tmp_path / "raw", "Dataset005_Tiny", 3, 2, (24, 28, 20), seed=7)
    assert folder == tmp_path / "raw" / "Dataset005_Tiny"
    description = json.loads((folder / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "MRI"}
    assert description["labels"] == {"background": 0, **STRUCTURES}
    assert description["numTraining"] == 3 and description["file_ending"] == ".nii.gz"

    for split, n_cases in (("Tr", 3), ("Ts", 2)):
        images, labels = (sorted((folder / f"{kind}{split}").iterdir()) for kind in ("images", "labels"))
        assert [path.name.replace("_0000", "") for path in images] == [path.name for path in labels]
        assert len(images) == n_cases
        for image_path, label_path in zip(images, labels, strict=True):
            image, label = SimpleITK.ReadImage(str(image_path)), SimpleITK.ReadImage(str(label_path))
            assert image.GetSize() == label.GetSize() == (20, 28, 24)
            assert image.GetSpacing() == pytest.approx(SPACING[::-1]) and label.GetSpacing() == image.GetSpacing()
            assert set(np.unique(SimpleITK.GetArrayFromImage(label))) == {0, 1, 2}


def test_dataset_is_the_same_for_a_seed(tmp_path):
    first, second = (write_dataset(tmp_path / name, "Dataset005_Tiny", 1, 1, (16, 16, 16), seed=7) for name in "ab")
    for path in first.rglob("*.nii.gz"):
        same = second / path.relative_to(first)
        np.testing.assert_array_equal(*(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(p))) for p in (path, same)))
