"""Resizing by matrices against ``F.interpolate``, and its gradient against autograd's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.ops import taps
from nnunet_xattnres.ops.resize import band, resize_axis, resize_to_each

SIZES = {  # from, to each of
    "2d, halves and quarters": ((16, 24), [(8, 12), (4, 6), (2, 3)]),
    "2d, odd": ((7, 13), [(5, 4), (1, 1), (7, 13), (9, 20)]),
    "2d, longer than a band": ((3, 150), [(3, 70), (2, 299)]),
    "3d, anisotropic": ((8, 12, 12), [(8, 6, 6), (4, 3, 3)]),
    "3d, even factors": ((8, 16, 16), [(1, 2, 8), (4, 8, 8), (2, 4, 4), (8, 2, 1)]),
    "3d, only by four and by six": ((8, 12, 24), [(2, 3, 6), (8, 2, 4)]),
    "2d, an even factor and an odd one": ((8, 12), [(4, 6), (4, 4)]),
    "3d, up and down": ((5, 3, 8), [(3, 6, 8), (10, 2, 4)]),
}
MODE = {2: "bilinear", 3: "trilinear"}


@pytest.fixture(params=["as on the CPU", "as on a GPU"])
def device(request, monkeypatch):
    """Where a map shrinks by even factors, the CPU takes other calls than the rest."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(taps, "_mean_in_slices", taps._mean_at_once)
        monkeypatch.setattr(taps, "_add_in_slices", taps._add_at_once)


def interpolate(x, sizes):
    return [F.interpolate(x, size=size, mode=MODE[x.ndim - 2], align_corners=False) for size in sizes]


@pytest.mark.parametrize("name", SIZES)
def test_values_and_gradients(name, device):
    size, sizes = SIZES[name]
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    found, expected = resize_to_each(x, sizes), interpolate(x, sizes)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    weights = [torch.randn_like(a) for a in found]
    gradients = [torch.autograd.grad(maps, x, weights)[0] for maps in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 200))
def test_any_axis(n_in, n_out):
    x = torch.randn(2, n_in, 3, dtype=torch.float64)
    expected = F.interpolate(x.transpose(1, 2), size=n_out, mode="linear", align_corners=False).transpose(1, 2)
    torch.testing.assert_close(resize_axis(x, 1, n_out), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(resize_axis(x.mT.contiguous(), 2, n_out), expected.mT, rtol=0, atol=1e-13)
    # <resize(x), y> = <x, adjoint(y)>
    y = torch.randn_like(expected)
    torch.testing.assert_close((expected * y).sum(), (x * resize_axis(y, 1, n_in, adjoint=True)).sum())


def test_a_band_holds_what_its_outputs_depend_on_and_no_more():
    inputs, weights = band(64, 128, (32, 64), torch.float32, torch.device("cpu"))
    assert (inputs.start, inputs.stop) == (15, 33) and weights.shape == (32, 18)
    torch.testing.assert_close(weights.sum(1), torch.ones(32))


def test_fake_tensors_leave_nothing_behind():
    x = torch.randn(1, 211, dtype=torch.float64)  # longer than any of the tests before: of those bands are kept
    with FakeTensorMode() as mode, pytest.raises(Exception, match="nonzero"):
        resize_axis(mode.from_tensor(x), 1, 223)
    expected = F.interpolate(x.unsqueeze(0), size=223, mode="linear", align_corners=False)[0]
    torch.testing.assert_close(resize_axis(x, 1, 223), expected, rtol=0, atol=1e-13)


def test_gradients_of_all_sizes_meet_in_one_map():
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    maps = resize_to_each(x, [(4, 4), (2, 2)])
    assert maps[0].grad_fn is maps[1].grad_fn
    maps[1].sum().backward()  # the other one has no gradient
    torch.testing.assert_close(x.grad.sum(), torch.tensor(8.0))


@pytest.mark.parametrize("k", [0, 1])
def test_gradients_of_many_outputs_at_once_may_be_of_one_size_alone(k):
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    out = resize_to_each(x, [(4, 4), (3, 2)])[k]
    grads = torch.randn(3, *out.shape, dtype=out.dtype)
    expected = torch.stack([torch.autograd.grad(out, x, g, retain_graph=True)[0] for g in grads])
    (found,) = torch.autograd.grad(out, x, grads, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(found, expected)


def test_no_sizes_no_maps():
    assert resize_to_each(torch.randn(1, 1, 2, 2), []) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "sizes"), [((9, 7), [(4, 5)]), ((16, 32), [(2, 4), (8, 16), (4, 8), (1, 2)])])
def test_low_precision_is_rounded_once(dtype, size, sizes, device):
    x = torch.randn(2, 3, *size).to(dtype).requires_grad_()
    wide = x.detach().float().requires_grad_()
    found, expected = resize_to_each(x, sizes), interpolate(wide, sizes)
    grads = [torch.randn_like(a) for a in found]
    found += torch.autograd.grad(found, x, grads)
    expected += torch.autograd.grad(expected, wide, [g.float() for g in grads])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_maps_in_any_layout_shrink_by_even_factors(device):
    x = torch.randn(2, 6, 8, 16, 16, dtype=torch.float64)
    sizes = [(4, 8, 8), (8, 4, 4)]
    for strange in (x.contiguous(memory_format=torch.channels_last_3d), x.transpose(0, 1), x[..., ::2, :]):
        these = [(d, h // (16 // strange.shape[3]), w) for d, h, w in sizes]
        for a, b in zip(resize_to_each(strange, these), interpolate(strange, these), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_operator_contracts():
    x = torch.randn(2, 3, 4, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.nnunet_xattnres.resize.default, (x, [2, 3, 3, 2]))
    torch.library.opcheck(torch.ops.nnunet_xattnres.resize.default, (x, [2, 3]))
    grads = [torch.randn(2, 3, 2, 3), torch.randn(2, 3, 3, 2)]
    torch.library.opcheck(torch.ops.nnunet_xattnres.resize_backward.default, (grads, [4, 6]))
    torch.library.opcheck(torch.ops.nnunet_xattnres.resize_backward.default, (grads[:1], [4, 6]))
