"""EMCAD's loss against loops over subsets, labels and pixels."""

from itertools import combinations

import numpy as np
import pytest
import torch

from nnunet_xattnres.training.emcad_loss import EMCADLoss

H, W, HEADS = 40, 20, 4  # more than half a window of 31 to each side


def make(channels, target_shape, largest):
    generator = np.random.default_rng(0)
    heads = [torch.from_numpy(generator.normal(size=(2, channels, H, W))).float() for _ in range(HEADS)]
    target = torch.from_numpy(generator.integers(0, largest + 1, size=(2, *target_shape, H, W))).float()
    return heads, target


def several_labels(heads, target, ignore=None):
    """0.3 CE + 0.7 Dice of every subset's sum, by pixels."""
    total = 0.0
    for n in range(1, len(heads) + 1):
        for subset in combinations(heads, n):
            z = sum(h.double().numpy() for h in subset)
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            pixels = [(b, i, j) for b, i, j in np.ndindex(2, H, W) if target[b, 0, i, j] != ignore]
            label = {place: int(target[place[0], 0, place[1], place[2]]) for place in pixels}
            ce = np.mean([-np.log(p[b, label[b, i, j], i, j]) for b, i, j in pixels])
            dice = []
            for c in range(z.shape[1]):
                both = sum(p[b, c, i, j] * (label[b, i, j] == c) for b, i, j in pixels)
                squares = sum(p[b, c, i, j] ** 2 + (label[b, i, j] == c) for b, i, j in pixels)
                dice.append(1 - (2 * both + 1e-5) / (squares + 1e-5))
            total += 0.3 * ce + 0.7 * np.mean(dice)
    return total


def of_masks(logits, mask, valid):
    """Weighted BCE + weighted IoU of each head and of their sum, by pixels; logits and mask (B, R, H, W)."""
    total = 0.0
    for z in [*logits, sum(logits)]:
        each = []
        for b, r in np.ndindex(mask.shape[:2]):
            weights, wrong, shared, both = 0.0, 0.0, 0.0, 0.0
            for i, j in np.ndindex(H, W):
                window = mask[b, r, max(0, i - 15) : i + 16, max(0, j - 15) : j + 16]
                w = (1 + 5 * abs(window.sum() / 31**2 - mask[b, r, i, j])) * valid[b, 0, i, j]
                p, m = 1 / (1 + np.exp(-z[b, r, i, j])), mask[b, r, i, j]
                weights += w
                wrong -= w * (m * np.log(p) + (1 - m) * np.log(1 - p))
                shared += w * p * m
                both += w * (p + m)
            each.append(wrong / weights + 1 - (shared + 1) / (both - shared + 1))
        total += np.mean(each)
    return total


@pytest.mark.parametrize("ignore", [None, 3])
def test_several_labels(ignore):
    heads, target = make(3, (1,), 2 if ignore is None else 3)
    loss = EMCADLoss(ignore_label=ignore)
    found = loss(heads, [target] * HEADS)
    assert found.item() == pytest.approx(several_labels(heads, target, ignore), rel=1e-5)
    assert loss(heads, target) == found and (target == (ignore or 2)).any(), "the target was changed"


@pytest.mark.parametrize("ignore", [None, 2])
def test_one_label(ignore):
    """Two channels: the difference is the logit."""
    heads, target = make(2, (1,), 1 if ignore is None else 2)
    z = [(h[:, 1:] - h[:, :1]).double().numpy() for h in heads]
    valid = (target != ignore).double().numpy() if ignore else np.ones((2, 1, H, W))
    mask = (target == 1).double().numpy()
    assert EMCADLoss(ignore_label=ignore)(heads, [target]).item() == pytest.approx(of_masks(z, mask, valid), rel=1e-5)


@pytest.mark.parametrize("ignore", [None, 9])
@pytest.mark.parametrize("regions", [1, 2, 3])
def test_regions(ignore, regions):
    heads, target = make(regions, (regions + (ignore is not None),), 1)
    valid = np.ones((2, 1, H, W)) if ignore is None else 1 - target[:, -1:].double().numpy()
    mask = target[:, :regions].double().numpy()
    expected = of_masks([h.double().numpy() for h in heads], mask, valid)
    for given in (target, target.bool()):
        assert EMCADLoss(True, ignore)(heads, given).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("regions", "channels"), [(False, 3), (False, 2), (True, 2)])
def test_one_output_counts_once_and_where_all_is_ignored_nothing_counts(regions, channels):
    heads, _ = make(channels, (1,), 1)
    target = torch.zeros(2, channels if regions else 1, H, W)
    loss = EMCADLoss(regions)
    assert loss(heads[0], target) == loss(heads[:1], [target])
    if not regions and channels == 3:  # one label: head and sum are not the same thing counted twice
        assert loss(heads[0], target).item() == pytest.approx(several_labels(heads[:1], target), rel=1e-5)
    ignored = torch.ones(2, channels + 1, H, W) if regions else torch.full((2, 1, H, W), 7.0)
    logits = [h.clone().requires_grad_() for h in heads]
    value = EMCADLoss(regions, 7)(logits, ignored)
    value.backward()
    assert value.isfinite() and all(not h.grad.any() for h in logits)


def test_a_better_prediction_costs_less_and_half_precision_is_enough():
    heads, target = make(3, (1,), 2)
    good = [4 * torch.nn.functional.one_hot(target[:, 0].long(), 3).movedim(-1, 1).float()] * HEADS
    loss = EMCADLoss()
    assert loss(good, target) < 0.1 * loss(heads, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(heads, target).item() == pytest.approx(loss(heads, target).item())
        assert loss([h.half() * 100 for h in heads], target).isfinite()
