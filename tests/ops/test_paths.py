"""Which path a read takes, and that a network computes the same by all of them."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from helpers.networks import make_input, make_network
from helpers.reads import CASES, make, needs_operators

from nnunet_xattnres import ops

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@needs_operators
def test_the_rule():
    assert [ops.read_path(device, 32) for device in (CPU, CUDA, MPS)] == ["tiled", "tiled", "reference"]
    assert ops.read_path(CPU, 32, return_weights=True) == "reference"
    with torch.no_grad():
        assert ops.read_path(CPU, 32, return_weights=True) == "tiled"
    assert ops.read_path(CUDA, 32, return_weights=True) == "reference"


@needs_operators
def test_what_reads_takes_the_path_that_the_rule_names(monkeypatch):
    """The public functions ask the rule, with the device of their tensors."""

    def named(name):
        return lambda *_, **__: name

    w, x = torch.randn(4), torch.randn(1, 4, 4, 4)
    for module in ("reference", "operator"):
        monkeypatch.setattr(getattr(ops, module), "history_read", named(module))
    for path, module in (("reference", "reference"), ("tiled", "operator"), ("fused", "operator")):
        monkeypatch.setattr(ops, "read_path", lambda device, channels, weights, *, path, named=path: named)
        assert ops.history_read([x], [None], w, w, (4, 4)) == module
    monkeypatch.setattr(ops.reference, "resize_to_each", named("reference"))
    monkeypatch.setattr(ops.resize, "resize_to_each", named("resize"))
    assert ops.resize_to_each(x, [(2, 2)]) == "resize"
    on_mps = SimpleNamespace(device=MPS)  # there is no such hardware here
    assert ops.resize_to_each(on_mps, [(2, 2)]) == "reference"


@needs_operators
@pytest.mark.parametrize("path", ["tiled", "reference"])
def test_eps_is_the_callers(path):
    """In the read, its gradients, theirs, and the weights."""
    tensors, read = make(CASES["2d, finer and coarser"])

    def found(history_read, **options):
        history_read = partial(history_read, **options)
        out = read(history_read, tensors)
        first = torch.autograd.grad(out.square().sum(), list(tensors.values()), create_graph=True)
        second = torch.autograd.grad(sum(d.square().sum() for d in first), list(tensors.values()))
        with torch.no_grad():
            _, weights = read(partial(history_read, return_weights=True), tensors)
        return [out, *first, *second, weights]

    expected = found(ops.reference.history_read, eps=0.5)
    for a, b in zip(found(ops.history_read, eps=0.5, path=path), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    usual = found(ops.history_read, path=path)
    assert not any(torch.allclose(usual[i], expected[i], rtol=1e-3) for i in (0, 1, -3, -1))  # the map below stays


@pytest.mark.parametrize("encoder_reads", [True, False])
@pytest.mark.parametrize("mode", ["add", "replace"])
@pytest.mark.parametrize(
    ("dimension", "encoder", "shape"),
    [
        (2, "plain conv", "isotropic"),
        (3, "plain conv", "anisotropic"),
        (2, "residual", "isotropic"),
        (3, "residual", "isotropic"),
    ],
)
def test_a_network_is_the_same_by_the_reference(dimension, encoder, shape, mode, encoder_reads):
    network = make_network(dimension, encoder, mode, shape, encoder_reads=encoder_reads).double()
    x = make_input(network).double()

    def run():
        network.zero_grad()
        outputs = network(x)
        sum(o.square().mean() for o in outputs).backward()
        return {f"output {i}": o.detach() for i, o in enumerate(outputs)} | {
            name: p.grad.clone() for name, p in network.named_parameters()
        }

    found = run()
    network.use_path("reference")
    with patch.object(ops.reference, "history_read", wraps=ops.reference.history_read) as called:
        expected = run()
    assert called.call_count == len(network.reads)
    for name, value in expected.items():
        error, scale = (found[name] - value).abs().max(), value.abs().max()
        assert error <= 1e-10 * max(scale, 1e-3), f"{name}: {error:.1e} on {scale:.1e}"


def test_a_map_is_resized_once_for_all_its_readers():
    network = make_network(2, "plain conv", "add", n_stages=4)
    calls = []

    def resize(x, sizes, *, path):
        calls.append(len(sizes))
        return ops.resize_to_each(x, sizes, path=path)

    with patch("nnunet_xattnres.reads.history.resize_to_each", resize):
        network(make_input(network))
        assert calls == [2, 1, 0, 0, 0, 0, 0]  # e1 for the reads at e2 and e3, e2 for those at e3
        network.use_path("reference")
        network(make_input(network))
        assert calls[7:] == [0] * 7  # the specification resizes every map itself


def test_torch_before_custom_operators_falls_back_to_the_reference():
    """torch < 2.4, as nnU-Net still allows: reads by the reference, everything else as ever."""
    script = """
import torch
import torch._dynamo  # has operators of its own
custom_op = vars(torch.library).pop("custom_op", None)
from nnunet_xattnres import ops
assert ops.read_path(torch.device("cpu"), 32) == "reference"
from helpers.networks import make_input, make_network
if custom_op is not None:
    torch.library.custom_op = custom_op  # torch.compile needs it itself
network = make_network(2, "plain conv", "add")
x = make_input(network)
outputs = torch.compile(network)(x)  # as nnU-Net does for CUDA; it is left as it is
assert all(map(torch.equal, outputs, network(x)))
sum(o.mean() for o in outputs).backward()
assert all(p.grad is not None for p in network.parameters())
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[1])


@needs_operators
@pytest.mark.parametrize("path", ["reference", "tiled"])
def test_parameters_in_half_precision_are_multiplied_in_float32(path):
    """As of a network after ``half()``: w and g are exact there, their product is not."""
    torch.manual_seed(0)
    pool, projections = [torch.randn(1, 8, 4, 4), torch.randn(1, 6, 2, 2)], [None, torch.randn(8, 6)]
    w, g = (8 * torch.randn(8)).half(), torch.rand(8).half()
    options = {"return_weights": True, "path": path}
    with torch.no_grad():
        _, found = ops.history_read(pool, projections, w, g, (4, 4), **options)
        _, expected = ops.history_read(pool, projections, w.float(), g.float(), (4, 4), **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
