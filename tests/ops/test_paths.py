"""Which path a read takes, and that a network computes the same by all of them."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from networks import make_input, make_network

from nnunet_xattnres import ops
from nnunet_xattnres.ops import reference

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.skipif(not ops._CUSTOM_OPS, reason="the reference alone before torch 2.4")
def test_the_rule(monkeypatch):
    assert [ops.read_path(device, 32) for device in (CPU, CUDA, MPS)] == ["tiled"] * 3
    assert ops.read_path(CPU, 32, return_weights=True) == "reference"
    with torch.no_grad():
        assert ops.read_path(CPU, 32, return_weights=True) == "tiled"
    monkeypatch.setattr(ops, "FUSED_ON_CUDA", True)
    monkeypatch.setattr(ops.fused, "available", lambda: True)
    assert [ops.read_path(device, 32) for device in (CPU, CUDA, MPS)] == ["tiled", "fused", "tiled"]
    assert ops.read_path(CUDA, 128) == "tiled"
    assert ops.read_path(CUDA, 32, return_weights=True) == "reference"
    monkeypatch.setattr(ops.fused, "available", lambda: False)
    assert ops.read_path(CUDA, 32) == "tiled"


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
    unshared = patch("nnunet_xattnres.unet.resize_to_each", lambda x, sizes: [x] * len(sizes))
    with patch("nnunet_xattnres.history.history_read", reference.history_read), unshared:
        expected = run()
    for name, value in expected.items():
        error, scale = (found[name] - value).abs().max(), value.abs().max()
        assert error <= 1e-10 * max(scale, 1e-3), f"{name}: {error:.1e} on {scale:.1e}"


def test_a_map_is_resized_once_for_all_its_readers():
    network = make_network(2, "plain conv", "add", n_stages=4)
    calls = []
    original = ops.resize_to_each
    with patch("nnunet_xattnres.unet.resize_to_each", lambda x, s: (calls.append(len(s)), original(x, s))[1]):
        network(make_input(network))
    assert calls == [2, 1, 0, 0, 0, 0, 0]  # e1 for the reads at e2 and e3, e2 for those at e3


def test_torch_before_custom_operators_falls_back_to_the_reference():
    """torch < 2.4, as nnU-Net still allows: reads by the reference, everything else as ever."""
    script = """
import torch
import torch._dynamo  # has operators of its own
custom_op = vars(torch.library).pop("custom_op", None)
from nnunet_xattnres import ops
assert ops.read_path(torch.device("cpu"), 32) == "reference"
from networks import make_input, make_network
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
