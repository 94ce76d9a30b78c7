"""Reads under everything that looks at a computation: each is the reference's, and nothing is wrong in silence."""

import pytest
import torch
from helpers.reads import CASES, make, needs_operators
from torch.autograd import forward_ad

from nnunet_xattnres import ops
from nnunet_xattnres.ops import reference

SOME = ["2d, finer and coarser", "3d, odd and not integer", "2d, no projection at any size", "one sample"]
some_cases = pytest.mark.parametrize("name", SOME)


def function_of(name):
    """A scalar function of a read's tensors, for a way to read; and the tensors."""
    tensors, read = make(CASES[name])
    values = tuple(t.detach() for t in tensors.values())

    def by(history_read):
        return lambda *args: read(history_read, dict(zip(tensors, args))).sin().sum()

    return by, values


@some_cases
def test_transforms(name):
    by, values = function_of(name)
    ours, expected, every = by(ops.history_read), by(reference.history_read), tuple(range(len(values)))
    torch.testing.assert_close(torch.func.grad(ours, every)(*values), torch.func.grad(expected, every)(*values))
    tangents = tuple(torch.randn_like(v) for v in values)
    found, right = (torch.func.jvp(f, values, tangents)[1] for f in (ours, expected))
    assert right.abs() > 1e-3
    torch.testing.assert_close(found, right)
    twice = tuple(torch.stack((v, 2 * v)) for v in values)
    torch.testing.assert_close(
        torch.func.vmap(ours)(*twice), torch.stack((ours(*values), ours(*(2 * v for v in values))))
    )


@some_cases
def test_forward_mode(name):
    by, values = function_of(name)
    tangents = [torch.randn_like(v) for v in values]
    _, expected = torch.func.jvp(by(reference.history_read), values, tuple(tangents))
    with forward_ad.dual_level():
        out = by(ops.history_read)(*map(forward_ad.make_dual, values, tangents))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, expected)
        x = torch.randn(1, 2, 4, 4)
        resized = ops.resize_to_each(forward_ad.make_dual(x, x), [(2, 2), (3, 5)])
        for each in resized:
            torch.testing.assert_close(*forward_ad.unpack_dual(each))  # it is linear


@some_cases
def test_second_derivatives(name):
    """A gradient penalty: the gradient of the squares of all gradients, the way torch.autograd makes it."""
    by, values = function_of(name)

    def penalty(f):
        inputs = [v.clone().requires_grad_() for v in values]
        gradients = torch.autograd.grad(f(*inputs), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)

    torch.testing.assert_close(penalty(by(ops.history_read)), penalty(by(reference.history_read)))


def test_a_map_that_is_two_sources_has_one_gradient_of_each():
    x, w = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, dtype=torch.float64)

    def gradient(history_read):
        (found,) = torch.autograd.grad(
            history_read([x, x], [None, None], w, w, (4, 4)).sin().sum(), x, create_graph=True
        )
        return found

    torch.testing.assert_close(gradient(ops.history_read), gradient(reference.history_read))


def test_a_resize_can_be_differentiated_twice():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: [r.sin() for r in ops.resize_to_each(x, [(2, 2), (7, 4)])], (x,))


@needs_operators
@some_cases
def test_gradients_of_many_outputs_at_once(name):
    """``is_grads_batched``, as of torch.autograd.functional.jacobian with ``vectorize``, and vmap of a backward."""
    tensors, read = make(CASES[name])
    inputs = [t.detach().requires_grad_() for t in tensors.values()]
    out = read(ops.history_read, dict(zip(tensors, inputs)))
    grads = torch.randn(3, *out.shape, dtype=out.dtype)
    expected = [torch.autograd.grad(out, inputs, g, retain_graph=True) for g in grads]
    expected = tuple(map(torch.stack, zip(*expected)))
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, grads, is_grads_batched=True, retain_graph=True), expected
    )
    batched = torch.func.vmap(lambda g: torch.autograd.grad(out, inputs, g, retain_graph=True))(grads)
    torch.testing.assert_close(batched, expected)


@pytest.mark.parametrize("path", [None, "tiled", "fused"])
def test_what_is_captured_takes_the_reference_forced_or_not(path):
    """Also one that cannot compute there: a network that is trained by the kernels is exported on the CPU."""
    if path and not ops.choice.CUSTOM_OPS:
        pytest.skip("before torch 2.4 there is no other path")
    device = torch.device("cpu")
    asked = []

    def ask(x):
        asked.append((ops.read_path(device, path=path), ops.choice.only_plain_torch(device, path=path)))
        return x + 1

    x = torch.ones(2)
    torch.jit.trace(ask, x, check_trace=False)
    torch.func.vmap(ask)(x)
    torch.func.grad(lambda x: ask(x).sum())(x)
    with forward_ad.dual_level():
        ask(x)
    assert asked == [("reference", True)] * 4
    if path != "fused" and ops.choice.CUSTOM_OPS:
        ask(x)
        assert asked[-1] == ("tiled", False)
