"""The network through torch.compile's own backend, as nnU-Net compiles it on CUDA."""

import shutil

import pytest
import torch
from helpers.networks import make_input, make_network, without_dropout

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if not (shutil.which("g++") or shutil.which("clang++")):
    pytest.skip("torch.compile needs a C++ compiler on the CPU", allow_module_level=True)
if not hasattr(torch.library, "custom_op"):
    pytest.skip("before torch 2.4 the graph breaks", allow_module_level=True)


def make(dimension, encoder, mode):
    """A network of three stages of one block, inductor's compiler takes seconds for each further one; and an image."""
    torch._dynamo.reset()
    changes = {
        "features_per_stage": [4, 8, 8],
        "kernel_sizes": 3,
        "strides": [1, 2, 2],
        {"plain conv": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[encoder]: 1,
        "n_conv_per_stage_decoder": 1,
    }
    network = make_network(dimension, encoder, mode, n_stages=3, **changes).to(DEVICE)
    return network, make_input(network).to(DEVICE)


# few, for each takes half a minute to compile
@pytest.mark.parametrize(("dimension", "encoder", "mode"), [(3, "plain conv", "gated"), (2, "residual", "add")])
def test_compiled_and_eager_agree(dimension, encoder, mode):
    """Training with deep supervision, then inference without: compiled anew, with no graph break."""
    network, x = make(dimension, encoder, mode)
    # In float32 the two round differently. An activation within that of zero then falls on the other side of
    # LeakyReLU's kink, and in a network as small as this its gradient alone is percents of the whole.
    network, x = network.double(), x.double()
    compiled = torch.compile(network, fullgraph=True)

    def gradients(model):
        network.zero_grad()
        outputs = model(x)
        sum(o.square().mean() for o in outputs).backward()
        return list(outputs), {name: p.grad.clone() for name, p in network.named_parameters()}

    found, expected = gradients(compiled), gradients(network)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
    for name, value in expected[1].items():
        allowed = 1e-12 + 1e-10 * value.abs().max().item()
        torch.testing.assert_close(found[1][name], value, rtol=1e-10, atol=allowed, msg=name)

    network.decoder.deep_supervision = False
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-10, atol=1e-10)
    network.decoder.deep_supervision = True
    network.train()
    assert len(compiled(x)) == 2


@pytest.mark.parametrize("mode", ["replace", "uctransnet"])
def test_traced_under_autocast(mode):
    """As nnU-Net trains on CUDA, in half precision; without inductor, whose part the test above has."""
    network, x = make(2, "plain conv", mode)
    without_dropout(network)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.autocast(DEVICE, torch.bfloat16):
        found, expected = compiled(x), network(x)
        sum(o.float().square().mean() for o in found).backward()
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05 * b.abs().max().item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
