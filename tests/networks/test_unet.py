"""What is special to the U-Nets with reads; test_every_network.py has what all networks share."""

import pytest
import torch
from helpers.networks import ENCODERS, UPSTREAM, make_input, make_network, plan
from torch import nn

from nnunet_xattnres import XAttnResUNet

every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


@every_encoder
@pytest.mark.parametrize("dimension", [2, 3])
def test_plain_computes_what_upstream_computes(dimension, encoder):
    upstream = UPSTREAM[encoder](**plan(dimension, encoder, "anisotropic"))
    ours = make_network(dimension, encoder, "plain", "anisotropic")
    ours.load_state_dict(upstream.state_dict(), strict=True)
    x = make_input(ours)
    for a, b in zip(ours(x), upstream(x), strict=True):
        assert torch.equal(a, b)


@every_encoder
@pytest.mark.parametrize("dimension", [2, 3])
def test_gated_starts_as_upstream(dimension, encoder):
    upstream = UPSTREAM[encoder](**plan(dimension, encoder, "anisotropic"))
    ours = make_network(dimension, encoder, "gated", "anisotropic")
    for read in ours.reads.values():
        nn.init.zeros_(read.gate)
    ours.apply(ours.initialize)
    assert not any(read.gate.any() for read in ours.reads.values()), "initialize has overwritten a gate"
    ours.load_state_dict(upstream.state_dict(), strict=False)
    x = make_input(ours)
    for a, b in zip(ours(x), upstream(x), strict=True):
        assert torch.equal(a, b)


@every_encoder
def test_a_gate_scales_what_the_read_adds(encoder):
    """With all gates at one, an encoder stage takes e(s-1) + read and the skip half is that of add."""
    gated, add = make_network(2, encoder, "gated"), make_network(2, encoder, "add")
    add.load_state_dict(gated.state_dict(), strict=False)
    pool = [torch.randn(2, c, *[16 // 2**k] * 2) for k, c in enumerate(gated.encoder.output_channels)]
    for name, skip in (("e3", 1), ("d1", 2)):
        read = gated.reads[name]
        nn.init.ones_(read.gate)
        sources, size = pool[: len(read.source_channels)], pool[skip].shape[2:]
        below = torch.randn(2, 3, *size)
        torch.testing.assert_close(
            read(sources, size, skip=skip, below=below), add.reads[name](sources, size, skip=skip, below=below)
        )
        out, weights = read(sources, size, skip=skip, return_weights=True)
        torch.testing.assert_close(out, add.reads[name](sources, size, skip=skip))
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


@every_encoder
@pytest.mark.parametrize("mode", ["add", "replace", "gated"])
def test_a_stock_checkpoint_lacks_only_the_reads(encoder, mode):
    network = make_network(3, encoder, mode)
    stock = UPSTREAM[encoder](**plan(3, encoder)).state_dict()
    result = network.load_state_dict(stock, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) == {key for key in network.state_dict() if key.startswith("reads.")}


def test_the_start_is_the_mean_after_nnunets_initialisation():
    network = make_network(2, "plain conv", "add")
    for read in network.reads.values():
        nn.init.zeros_(read.pseudo_query)
    network.apply(network.initialize)
    for name, read in network.reads.items():
        assert not read.pseudo_query.any(), f"initialize has overwritten the pseudo-query of {name}"
        assert torch.equal(read.key_scale, torch.ones_like(read.key_scale))


def test_which_stage_reads_what():
    network = make_network(2, "plain conv", "add", n_stages=5, **{
        "features_per_stage": [4, 8, 16, 16, 16],
        "kernel_sizes": 3,
        "strides": [1, 2, 2, 2, 1],  # e4 and e5 have the same size and the same channels
        "n_conv_per_stage": 1,
        "n_conv_per_stage_decoder": 1,
    })  # fmt: skip
    sources = {name: (read.source_channels, sorted(read.direct)) for name, read in network.reads.items()}
    assert sources == {
        "e3": ((4, 8), [1]),
        "e4": ((4, 8, 16), [2]),
        "e5": ((4, 8, 16, 16), [3]),
        "d1": ((4, 8, 16, 16, 16), [3, 4]),
        "d2": ((4, 8, 16, 16, 16, 16), [2]),
        "d3": ((4, 8, 16, 16, 16, 16, 16), [1]),
        "d4": ((4, 8, 16, 16, 16, 16, 16, 8), [0]),
    }
    network(make_input(network))


def test_encoder_reads_off_leaves_the_encoder_as_it_is():
    network = make_network(2, "plain conv", "decoder_reads")
    assert list(network.reads) == ["d1", "d2", "d3"]
    x, outputs = make_input(network), []
    network.encoder.stages[-1].register_forward_hook(lambda *args: outputs.append(args[-1]))
    network(x)
    assert torch.equal(outputs[0], network.encoder(x)[-1])


@pytest.mark.parametrize("mode", ["add", "replace", "gated"])
def test_the_pool_is_causal(mode):
    """What a read sees of the history does not change when a later stage does."""
    network = make_network(3, "plain conv", mode).eval()
    x = make_input(network)
    seen = {}
    for name, read in network.reads.items():
        read.register_forward_hook(lambda _m, args, out, name=name: seen.setdefault(name, []).append((args[0], out)))
    order = ["e3", "e4", "d1", "d2", "d3"]
    network(x)
    later = {"e3": "encoder.stages.2", "e4": "encoder.stages.3", "d1": "decoder.stages.0", "d2": "decoder.stages.1"}
    for name, stage in later.items():
        with torch.no_grad():
            for p in network.get_submodule(stage).parameters():
                p.add_(torch.randn_like(p))
        network(x)
        for earlier in order[: order.index(name) + 1]:
            assert torch.equal(seen[earlier][-1][1], seen[earlier][-2][1]), f"{earlier} changed with {stage}"
        assert not torch.equal(seen["d3"][-1][1], seen["d3"][-2][1])


def test_no_gradient_from_a_read_to_a_later_output():
    network = make_network(2, "plain conv", "add")
    maps = {}
    for name, module in [(f"e{s}", m) for s, m in enumerate(network.encoder.stages, 1)] + [
        (f"d{j}", m) for j, m in enumerate(network.decoder.stages, 1)
    ]:
        module.register_forward_hook(lambda _m, _a, out, name=name: maps.__setitem__(name, out))
    reads = {}
    for name, read in network.reads.items():
        read.register_forward_hook(lambda _m, _a, out, name=name: reads.__setitem__(name, out))
    network(make_input(network))
    order = ["e1", "e2", "e3", "e4", "d1", "d2", "d3"]
    for name, out in reads.items():
        gradients = torch.autograd.grad(out.sum(), [maps[k] for k in order], allow_unused=True, retain_graph=True)
        reached = [k for k, g in zip(order, gradients) if g is not None]
        assert reached == order[: order.index(name)]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="skip_mode is 'sum'; it must be one of 'add', 'replace', 'none', 'plain'"):
        XAttnResUNet(**plan(2, "plain conv"), skip_mode="sum")
    with pytest.raises(ValueError, match="read_gate is 'one'; it must be one of 'none', 'zero'"):
        XAttnResUNet(**plan(2, "plain conv"), read_gate="one")
    with pytest.raises(ValueError, match="needs skip_mode 'add', but that is 'replace'"):
        XAttnResUNet(**plan(2, "plain conv"), read_gate="zero", skip_mode="replace")
    with pytest.raises(ValueError, match="n_stages is 1"):
        make_network(2, "plain conv", "add", **plan(2, "plain conv", n_stages=1))
