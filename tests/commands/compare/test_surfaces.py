"""Distances between surfaces, computed here a second time: over whole images, without a crop and without MONAI."""

import math

import numpy as np
import pytest
import SimpleITK
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from nnunet_xattnres.commands.compare import surfaces
from nnunet_xattnres.commands.compare.pairs import Pair, pairs_of
from nnunet_xattnres.nnunet.masks import Files, Masks, Reader


def dice(prediction, reference):
    return surfaces.dice(Pair(prediction, reference, (1, 1, 1)))


def hd95(prediction, reference, spacing):
    return surfaces.hd95(Pair(prediction, reference, spacing))


def surface_dice(prediction, reference, spacing, tolerance):
    return surfaces.surface_dice(Pair(prediction, reference, spacing), tolerance)


def synapse_dice(prediction, reference, spacing):
    return surfaces.synapse_dice(Pair(prediction, reference, spacing))


def synapse_hd95(prediction, reference, spacing):
    return surfaces.synapse_hd95(Pair(prediction, reference, spacing))


def border(mask):
    """The voxels of which a neighbour along an axis is outside of the mask, or of the image."""
    inside = np.pad(mask, 1)
    for axis in range(mask.ndim):
        inside = inside & np.roll(np.pad(mask, 1), 1, axis) & np.roll(np.pad(mask, 1), -1, axis)
    return mask & ~inside[(slice(1, -1),) * mask.ndim]


def distances(one, other, spacing):
    """From each voxel on the border of one mask to the border of the other."""
    return ndimage.distance_transform_edt(~border(other), sampling=spacing)[border(one)]


def both_ways(prediction, reference, spacing):
    return distances(prediction, reference, spacing), distances(reference, prediction, spacing)


def blobs(shape, seed):
    """Two masks that overlap, with holes and islands, which touch the border of the image."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, *shape)), (0, *(1.5,) * len(shape)))
    first, second = smooth / smooth.std()
    prediction, reference = first > 0.3, first + 0.6 * second > 0.3
    assert (prediction & reference).any() and border(prediction).sum() > 10 and prediction[0].any()
    return prediction, reference


IMAGES = [((40, 30), (1.0, 1.0)), ((40, 30), (0.7, 1.3)), ((12, 30, 24), (2.5, 0.9, 0.7)), ((9, 9, 40), (1, 1, 5.0))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "spacing"), IMAGES)
def test_monais_measures_are_those_of_the_distance_transform(shape, spacing, seed):
    pytest.importorskip("monai", reason="pip install 'nnunet-xattnres[metrics]'")
    prediction, reference = blobs(shape, seed)
    there, back = both_ways(prediction, reference, spacing)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hd95(prediction, reference, spacing) == pytest.approx(expected, rel=1e-5)
    for tolerance in (0.0, 1.0, 2.0):
        near = np.concatenate([there, back]) <= tolerance
        found = surface_dice(prediction, reference, spacing, tolerance)
        assert found == pytest.approx(near.mean(), rel=1e-5), tolerance


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(30, 24), (10, 20, 16)])
def test_the_published_hd95_counts_voxels_and_both_directions_together(shape, seed):
    prediction, reference = blobs(shape, seed)
    of_pairs = cdist(np.argwhere(border(prediction)), np.argwhere(border(reference)))
    together = np.concatenate([of_pairs.min(axis=1), of_pairs.min(axis=0)])
    for spacing in ((5.0, 0.7, 0.7)[: len(shape)], (1.0,) * len(shape)):
        assert synapse_hd95(prediction, reference, spacing) == pytest.approx(np.percentile(together, 95))


def boxes(shift):
    """Two boxes of 4 x 6 x 6 voxels, the second moved along the first axis."""
    prediction, reference = np.zeros((2, 20, 12, 12), bool)
    prediction[2:6, 3:9, 3:9] = True
    reference[2 + shift : 6 + shift, 3:9, 3:9] = True
    return prediction, reference


def test_boxes_by_hand():
    """The lids are as far apart as the boxes were moved; a third of the way is twice the spacing of a voxel."""
    pytest.importorskip("monai", reason="pip install 'nnunet-xattnres[metrics]'")
    for shift in (4, 9):
        prediction, reference = boxes(shift)
        assert hd95(prediction, reference, (2.5, 1.0, 1.0)) == pytest.approx(2.5 * shift)
        assert synapse_hd95(prediction, reference, (2.5, 1.0, 1.0)) == shift
    assert surface_dice(*boxes(0), (1.0, 1.0, 1.0), 0.0) == 1 and hd95(*boxes(0), (1.0, 1.0, 1.0)) == 0
    assert surface_dice(*boxes(1), (2.5, 1.0, 1.0), 2.5) == 1
    assert surface_dice(*boxes(9), (2.5, 1.0, 1.0), 2.5) == 0


@pytest.mark.parametrize("axis", range(3))
def test_a_single_slice_has_two_axes_whichever_is_the_third(tmp_path, axis):
    """To its neighbours there is no surface: all of a mask would be one."""
    files, spacing = Files(tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"), (1.5, 0.7)
    of_file = np.insert(spacing, axis, 3.0)
    masks = blobs((40, 30), 0)
    for mask, file in zip(masks, files, strict=True):
        image = SimpleITK.GetImageFromArray(np.expand_dims(mask.astype(np.uint8), axis))
        image.SetSpacing(of_file[::-1].tolist())
        SimpleITK.WriteImage(image, str(file))
    found = Reader({}, {"file_ending": ".nii.gz"}, files.reference).read(files)
    assert found.spacing == pytest.approx(spacing)
    for a, b in zip(found[:2], masks, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_single_voxel_in_a_corner():
    pytest.importorskip("monai", reason="pip install 'nnunet-xattnres[metrics]'")
    prediction, reference = np.zeros((2, 8, 8), bool)
    prediction[0, 0] = reference[7, 7] = True
    assert hd95(prediction, reference, (3.0, 4.0)) == pytest.approx(7 * 5)
    assert synapse_hd95(prediction, reference, (3.0, 4.0)) == pytest.approx(7 * math.sqrt(2))


EMPTY, FULL = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
EMPTY_MASKS = {  # prediction, true mask: Dice, HD95, surface Dice, and Dice and HD95 as published
    "both": (EMPTY, EMPTY, math.nan, math.nan, math.nan, 0, 0),
    "true mask": (FULL, EMPTY, 0, math.nan, 0, 1, 0),
    "prediction": (EMPTY, FULL, 0, math.nan, 0, 0, 0),
    "none": (FULL, FULL, 1, 0, 1, 1, 0),
}


@pytest.mark.parametrize("masks", EMPTY_MASKS.values(), ids=EMPTY_MASKS)
def test_empty_masks(masks):
    prediction, reference, of_dice, _, _, published, published_hd95 = masks
    same = {"nan_ok": True, "abs": 0}
    assert dice(prediction, reference) == pytest.approx(of_dice, **same)
    assert synapse_dice(prediction, reference, (1, 1, 1)) == published
    assert synapse_hd95(prediction, reference, (1, 1, 1)) == published_hd95


@pytest.mark.parametrize("masks", EMPTY_MASKS.values(), ids=EMPTY_MASKS)
def test_empty_masks_with_monai(masks):
    pytest.importorskip("monai", reason="pip install 'nnunet-xattnres[metrics]'")
    prediction, reference, _, distance, surface, *_ = masks
    assert hd95(prediction, reference, (1, 1, 1)) == pytest.approx(distance, nan_ok=True)
    assert surface_dice(prediction, reference, (1, 1, 1), 2.0) == pytest.approx(surface, nan_ok=True)


def test_two_masks_that_are_apart_have_the_dice_of_nothing_and_a_distance_as_published():
    prediction, reference = boxes(9)
    assert dice(prediction, reference) == synapse_dice(prediction, reference, (1, 1, 1)) == 0
    assert synapse_hd95(prediction, reference, (1, 1, 1)) == 9


def segmentations(shape, seed):
    """A prediction and a true mask of the labels 1, 2 and 300, which touch each other and the border of the image."""
    first, second = blobs(shape, seed), blobs(shape, seed + 100)
    both = [np.where(b, 2, a).astype(np.int16) for a, b in zip(first, second)]
    for mask, i in zip(both, (3, 5)):
        mask[-1, ..., :i] = 300
        mask[0, ..., :2] = -1  # of no label
    return both


@pytest.mark.parametrize(("shape", "spacing"), IMAGES)
def test_the_part_of_a_volume_has_the_values_of_the_whole_to_the_last_bit(shape, spacing):
    metrics = pytest.importorskip("monai.metrics", reason="pip install 'nnunet-xattnres[metrics]'")
    masks, keys = segmentations(shape, 4), {"1": [1], "(1, 2)": [1, 2], "300": [300], "(300, 2)": [2, 300]}
    found = dict(pairs_of(Masks(*masks, spacing), [*keys, "299"], None))
    assert list(found) == [*keys, "299"]
    for key, labels in keys.items():
        whole = [np.isin(mask, labels) for mask in masks]
        batches = [torch.from_numpy(mask)[None, None] for mask in whole]
        options = {"include_background": True, "spacing": [float(s) for s in spacing]}
        assert found[key].prediction.size < whole[0].size or key != "300"
        assert surfaces.hd95(found[key]) == float(
            metrics.compute_hausdorff_distance(*batches, percentile=95, **options)
        )
        assert surfaces.surface_dice(found[key], 1.0) == float(metrics.compute_surface_dice(*batches, [1.0], **options))
        assert surfaces.dice(found[key]) == dice(*whole)
        assert surfaces.synapse_hd95(found[key]) == synapse_hd95(*whole, spacing)
    assert found["299"].prediction.size == 0
    assert math.isnan(surfaces.hd95(found["299"])) and math.isnan(surfaces.surface_dice(found["299"], 1.0))
    assert surfaces.synapse_dice(found["299"]) == surfaces.synapse_hd95(found["299"]) == 0


def annotated_in_every(n, shift):
    """A box and the same moved by some rows, of which somebody has looked at every ``n``-th slice only."""
    prediction, reference = np.zeros((2, 20, 30, 16), np.int16)
    prediction[2:18, 4 + shift : 12 + shift, 2:14] = 1
    reference[2:18, 4:12, 2:14] = 1
    reference[np.arange(20) % n != 0] = 9
    return Masks(prediction, reference, (2.5, 1.0, 1.0))


def in_each_slice(one, other):
    return np.concatenate([distances(*planes, (1, 1)) for planes in zip(one, other) if planes[0].any()])


@pytest.mark.parametrize("n", [2, 5])
def test_a_cut_by_the_ignore_label_is_no_surface(n):
    """The contour of each slice is, and not the slice as a whole, of which both masks have the same at distance 0."""
    pytest.importorskip("monai", reason="pip install 'nnunet-xattnres[metrics]'")
    ((_, pair),) = pairs_of(annotated_in_every(n, 3), ["1"], 9)
    for mask, surface in zip((pair.prediction, pair.reference), pair.surfaces):
        assert np.array_equal(surface, [border(plane) for plane in mask])
    ways = [in_each_slice(*masks) for masks in ((pair.prediction, pair.reference), (pair.reference, pair.prediction))]
    for tolerance in (0.0, 2.0):
        near = (np.concatenate(ways) <= tolerance).mean()
        assert near < 0.7 and surfaces.surface_dice(pair, tolerance) == pytest.approx(near)
    assert surfaces.hd95(pair) == surfaces.synapse_hd95(pair) == 3


def test_a_label_without_a_surface_where_somebody_has_looked_has_no_value():
    pytest.importorskip("monai", reason="pip install 'nnunet-xattnres[metrics]'")
    prediction, reference = np.zeros((2, 9, 9), np.int16)
    reference[...] = 3
    reference[2:5, 2:5] = prediction[2:4, 2:4] = 1  # the true contour is somewhere outside
    pairs = dict(pairs_of(Masks(prediction, reference, (1, 1)), ["1", "2"], 3))
    assert pairs["1"].in_both and not pairs["1"].has_surfaces and pairs["1"].surfaces[0].sum() == 3
    for compute in (surfaces.hd95, surfaces.synapse_hd95, lambda pair: surfaces.surface_dice(pair, 2.0)):
        assert math.isnan(compute(pairs["1"]))
    assert surfaces.dice(pairs["1"]) == 8 / 13
