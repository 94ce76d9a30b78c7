"""Running sums against sums over everything at once."""

import numpy as np
import pytest
import torch

from nnunet_xattnres.commands.inspect import sums
from nnunet_xattnres.commands.inspect.sums import sums_of


@pytest.mark.parametrize("chunk", [7, 2**16])
def test_means_spreads_and_entropies(monkeypatch, chunk):
    monkeypatch.setattr(sums, "_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    patches = [torch.randn(4, 5, 6, 7, generator=generator).mul(3).softmax(0) for _ in range(3)]
    importance = [torch.rand(5, 6, 7, generator=generator) for _ in patches]
    masks = [torch.rand(5, 6, 7, generator=generator) > 0.7 for _ in patches]
    found = {}
    for a, w, mask in zip(patches, importance, masks):
        for name, s in sums_of(a, w, {"label": mask.float(), "nowhere": torch.zeros_like(w)}).items():
            found[name] = found[name] + s if name in found else s

    a = np.concatenate([p.flatten(1).numpy() for p in patches], axis=1).astype(np.float64)
    w = np.concatenate([i.flatten().numpy() for i in importance]).astype(np.float64)
    mask = np.concatenate([m.flatten().numpy() for m in masks])
    for name, weights in (("all", w), ("label", w * mask)):
        mean = np.average(a, axis=1, weights=weights)
        assert found[name].mean.numpy() == pytest.approx(mean, rel=1e-5)
        spread = np.sqrt(np.average((a - mean[:, None]) ** 2, axis=1, weights=weights))
        assert found[name].deviation.numpy() == pytest.approx(spread, rel=1e-4)
        entropy = np.average(-(a * np.log(a)).sum(0), weights=weights)
        assert found[name].mean_entropy == pytest.approx(entropy, rel=1e-5)
        assert found[name].mean.sum().item() == pytest.approx(1, rel=1e-5)
    assert found["nowhere"].importance == 0 and np.isnan(found["nowhere"].mean_entropy)


def test_a_weight_of_zero_has_no_entropy():
    found = sums_of(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2), {})["all"]
    assert found.mean_entropy == 0 and found.deviation.tolist() == [0, 0]
