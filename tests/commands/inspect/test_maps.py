"""The weights of a read at every voxel are large: as many numbers as the image has voxels, for each source."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import torch
from torch.profiler import profile

from nnunet_xattnres.commands.inspect.maps import MapsWatcher, in_the_image, seen_of

N, SIZE = 8, (16, 40, 48)


def watched(folds):
    watcher = MapsWatcher("d1")
    generator = torch.Generator().manual_seed(0)
    fold_weights = [torch.rand(N, *SIZE, generator=generator) for _ in range(folds)]
    with torch.inference_mode():
        for weights in fold_weights:
            watcher.start(torch.zeros(1, *SIZE))
            watcher.patch((slice(None),) * 3, torch.full(SIZE, 0.5), torch.empty(0), {"d1": weights})
            with profile(profile_memory=True) as found:
                watcher.end()
                watcher.maps()
            allocated = sum(max(0, event.cpu_memory_usage) for event in found.events())
            assert allocated < 0.1 * 4 * weights.numel(), "it is divided and added in place"
    return watcher, sum(fold_weights) / folds


def test_the_mean_over_the_folds_takes_no_further_memory():
    for folds in (1, 2, 3):
        watcher, expected = watched(folds)
        torch.testing.assert_close(watcher.maps(), expected)


def test_the_part_that_the_network_has_looked_at_is_in_the_files_axes():
    """nnU-Net's crop is in those of the plans."""
    predictor = SimpleNamespace(plans_manager=SimpleNamespace(transpose_backward=[1, 2, 0]))
    found = seen_of(predictor, {"bbox_used_for_cropping": [[7, 8], [1, 3], [2, 5]]})
    assert found == (slice(1, 3), slice(2, 5), slice(7, 8))


def test_bringing_maps_to_the_image_takes_one_copy_of_them():
    maps = torch.rand(N, *SIZE, generator=torch.Generator().manual_seed(0))
    predictor = SimpleNamespace(
        plans_manager=SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2]),
        configuration_manager=SimpleNamespace(
            patch_size=(8, 8, 8), spacing=[1.0] * 3, resampling_fn_probabilities=lambda x, *_: x.numpy() - 0.25
        ),
    )
    properties = {
        "shape_after_cropping_and_before_resampling": SIZE,
        "spacing": [1.0] * 3,
        "shape_before_cropping": (SIZE[0] + 2, *SIZE[1:]),
        "bbox_used_for_cropping": [[1, SIZE[0] + 1], [0, SIZE[1]], [0, SIZE[2]]],
    }
    tracemalloc.start()
    found = in_the_image(predictor, maps, torch.zeros(1, *SIZE), properties)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.6 * found.nbytes
    positive = (maps - 0.25).clip(min=0).numpy()
    np.testing.assert_allclose(found[:, 1:-1], positive / positive.sum(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(found[:, [0, -1]], np.float32(1 / N))
