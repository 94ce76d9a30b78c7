"""Running sums against sums over everything at once, and what they cost."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_xattnres.commands.inspect import sums
from nnunet_xattnres.commands.inspect.routing import RoutingWatcher, routing_rows
from nnunet_xattnres.commands.inspect.sums import Sums, sums_of
from nnunet_xattnres.common.nearest import nearest


@pytest.mark.parametrize("chunk", [7, 2**16])
def test_means_spreads_and_entropies(monkeypatch, chunk):
    monkeypatch.setattr(sums, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    patches = [torch.randn(4, 5, 6, 7, generator=generator).mul(3).softmax(0) for _ in range(3)]
    importance = [torch.rand(5, 6, 7, generator=generator) for _ in patches]
    labels = [torch.randint(0, 3, (2, 5, 6, 7), generator=generator) for _ in patches]
    found = sum(sums_of(a, w, label, 4) for a, w, label in zip(patches, importance, labels))
    assert found.shape == (2, 4, 10) and found.dtype == torch.float64

    a = np.concatenate([p.flatten(1).numpy() for p in patches], axis=1).astype(np.float64)
    w = np.concatenate([i.flatten().numpy() for i in importance]).astype(np.float64)
    for k in range(2):
        label = np.concatenate([x[k].flatten().numpy() for x in labels])
        for value in range(3):
            weights, s = w * (label == value), Sums(found[k, value])
            mean = np.average(a, axis=1, weights=weights)
            assert s.mean.numpy() == pytest.approx(mean, rel=1e-5)
            spread = np.sqrt(np.average((a - mean[:, None]) ** 2, axis=1, weights=weights))
            assert s.deviation.numpy() == pytest.approx(spread, rel=1e-4)
            entropy = np.average(-(a * np.log(a)).sum(0), weights=weights)
            assert s.mean_entropy == pytest.approx(entropy, rel=1e-5)
            assert s.importance == pytest.approx(weights.sum())
        nowhere = Sums(found[k, 3])
        assert nowhere.importance == 0 and np.isnan(nowhere.mean_entropy)


def test_a_weight_of_zero_has_no_entropy():
    found = Sums(sums_of(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2), torch.zeros(1, 2).long(), 1)[0, 0])
    assert found.mean_entropy == 0 and found.deviation.tolist() == [0, 0]


@pytest.mark.parametrize("size", [(8, 12), (4, 3), (3, 5)])
def test_the_nearest_is_torchs(size):
    x = torch.rand(2, 8, 12)
    assert torch.equal(nearest(x, size), torch.nn.functional.interpolate(x[None], size, mode="nearest-exact")[0])
    assert nearest((x > 0.5), size).dtype == torch.bool


class Labels:
    """As nnU-Net's LabelManager."""

    def __init__(self, n_labels, has_regions):
        self.has_regions, self.all_labels = has_regions, list(range(n_labels))
        self.foreground_regions = [(1, 2), *range(2, n_labels + 1)]


WEIGHTS = {"e3": (2, 8), "d1": (3, 8), "d2": (4, 16)}


def watched(n_labels, has_regions):
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(n, edge, edge, edge, generator=generator).softmax(0) for name, (n, edge) in WEIGHTS.items()
    }
    logits, importance = (torch.randn(k, 16, 16, 16, generator=generator) for k in (n_labels, 1))
    watcher = RoutingWatcher(Labels(n_labels, has_regions))
    watcher.start(importance)
    watcher.patch((), importance[0].abs(), logits, weights)
    watcher.end()
    return watcher, weights, logits, importance[0].abs()


class Counted(TorchDispatchMode):
    """What torch computes: how many calls, and the bytes of the largest tensor that it makes anew."""

    calls = largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        self.calls += 1
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            self.largest = max(self.largest, out.numel() * out.element_size())
        return out


def test_the_number_of_labels_costs_nothing(monkeypatch):
    """As many calls for 118 labels as for 3, and no tensor that grows with them but the sums."""
    costs = {}
    for n in (3, 118):
        watcher = RoutingWatcher(Labels(n, False))
        logits = torch.zeros(n, 16, 16, 16)  # made outside: nnU-Net's
        weights = {name: torch.full((k, edge, edge, edge), 1 / k) for name, (k, edge) in WEIGHTS.items()}
        with Counted() as counted:
            watcher.start(logits)
            watcher.patch((), torch.ones(16, 16, 16), logits, weights)
            watcher.end()
        costs[n] = counted.calls, counted.largest
    assert costs[3] == costs[118] and costs[3][0] > 10
    assert costs[118][1] < 118 * 16**3


def test_regions_take_a_byte_a_voxel_each():
    n = 118
    watcher, weights = RoutingWatcher(Labels(n, True)), {"d2": torch.full((4, 16, 16, 16), 0.25)}
    logits = torch.zeros(len(watcher.regions) - 1, 16, 16, 16)
    with Counted() as counted:
        watcher.patch((), torch.ones(16, 16, 16), logits, weights)
    assert counted.largest <= logits.numel()


@pytest.mark.parametrize("has_regions", [False, True])
@pytest.mark.parametrize("n_labels", [3, 20])
def test_the_numbers_are_those_of_a_mask_for_each_label(n_labels, has_regions):
    """As they were computed before: each region's mask times the importance, over all positions."""
    watcher, weights, logits, importance = watched(n_labels, has_regions)
    rows = {
        (row["region"], row["read"], row["source"]): row
        for row in routing_rows(watcher, {name: [str(k) for k in range(n)] for name, (n, _) in WEIGHTS.items()}, {})
    }
    keys = watcher.regions[1:]
    assert len(keys) == len(set(keys)) == n_labels
    masks = logits > 0 if has_regions else torch.nn.functional.one_hot(logits.argmax(0)).movedim(-1, 0)
    for key, mask in [("all", torch.ones_like(importance)), *zip(keys, masks)]:
        for name, a in weights.items():
            size = a.shape[1:]
            counts, where = (nearest(x.double(), size).flatten() for x in (importance, mask))
            flat = a.double().flatten(1)
            mean = (flat * counts * where).sum(1) / (counts * where).sum()
            square = (flat.square() * counts * where).sum(1) / (counts * where).sum()
            for k, (m, s) in enumerate(zip(mean.tolist(), square.tolist())):
                assert rows[key, name, str(k)]["mean_weight"] == pytest.approx(m, rel=1e-5)
                assert rows[key, name, str(k)]["std_over_positions"] == pytest.approx((s - m * m) ** 0.5, rel=1e-4)
