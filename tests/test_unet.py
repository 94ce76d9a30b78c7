"""One tester over every kind of network, then what is special to the reads."""

import copy
import io
import pickle

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as submodules_loadable
from networks import ALL_NETWORKS, ENCODERS, MODES, UPSTREAM, make_input, make_network, plan
from torch import nn

from nnunet_xattnres import XAttnResUNet

every_network = pytest.mark.parametrize(("dimension", "encoder", "mode", "shape"), ALL_NETWORKS)
every_mode = pytest.mark.parametrize("mode", MODES)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


@every_network
def test_outputs_and_gradients(dimension, encoder, mode, shape):
    network = make_network(dimension, encoder, mode, shape)
    x = make_input(network)
    outputs = network(x)
    # one for each decoder stage, highest resolution first, each stride coarser than the one before
    sizes = [[n // s for n, s in zip(x.shape[2:], stride)] for stride in network._strides[:-1]]
    assert [list(o.shape) for o in outputs] == [[2, 3, *size] for size in sizes]
    sum(o.square().mean() for o in outputs).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, f"{name} got no gradient"
        assert p.grad.isfinite().all(), f"{name} got a gradient that is not finite"


@every_network
def test_every_parameter_gets_a_gradient_without_deep_supervision(dimension, encoder, mode, shape):
    """DDP needs one for the idle heads, too; their influence is nil."""
    network = make_network(dimension, encoder, mode, shape, deep_supervision=False)
    x = make_input(network)
    logits = network(x)
    assert torch.equal(logits, network.eval()(x))
    logits.square().mean().backward()
    for name, p in network.named_parameters():
        idle = name.startswith("decoder.seg_layers.") and not name.startswith("decoder.seg_layers.2.")
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert not (idle and p.grad.any()), name


@every_network
def test_state_dict_fits_with_deep_supervision_on_and_off(dimension, encoder, mode, shape):
    on = make_network(dimension, encoder, mode, shape)
    off = make_network(dimension, encoder, mode, shape, deep_supervision=False)
    buffer = io.BytesIO()
    torch.save(on.state_dict(), buffer)
    buffer.seek(0)
    off.load_state_dict(torch.load(buffer), strict=True)
    x = make_input(on)
    with torch.inference_mode():
        assert torch.equal(off(x), on(x)[0])
        on.decoder.deep_supervision = False
        assert torch.equal(on(x), off(x))
        on.decoder.deep_supervision = True
        assert len(on(x)) == 3


@every_network
def test_autocast_is_finite_for_large_inputs(dimension, encoder, mode, shape):
    network = make_network(dimension, encoder, mode, shape)
    image = (1e3 * make_input(network)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(o.float().square().mean() for o in network(image))
    loss.backward()
    assert loss.isfinite() and image.grad.isfinite().all()
    # A kernel's gradient is torch's alone and goes nowhere else; where the CPU has no bfloat16, that of a single
    # nn.Conv3d is not finite now and then. Whatever else is not finite shows in biases, norms, reads and the image.
    kernels = {id(m.weight) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)) and m.bias is not None}
    assert all(p.grad.isfinite().all() for p in network.parameters() if id(p) not in kernels)


@every_network
def test_deepcopy_and_pickle(dimension, encoder, mode, shape):
    network = make_network(dimension, encoder, mode, shape).eval()
    x = make_input(network)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(x)[0], network(x)[0])


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


@every_encoder
@every_mode
def test_upstreams_helpers_work(encoder, mode):
    network, upstream = make_network(3, encoder, mode), UPSTREAM[encoder](**plan(3, encoder))
    submodules_loadable(network)  # key_to_encoder, key_to_stem, keys_to_in_proj
    assert network.compute_conv_feature_map_size((16, 16, 16)) == upstream.compute_conv_feature_map_size((16, 16, 16))
    heads = [key for key in network.state_dict() if ".seg_layers." in key]
    assert heads and all(key.startswith("decoder.seg_layers.") for key in heads)


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
    network = make_network(2, "plain conv", "add", encoder_reads=False)
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


@pytest.mark.parametrize("n_stages", [2, 3, 8])
@every_mode
def test_number_of_stages(n_stages, mode):
    network = make_network(2, "plain conv", mode, **plan(2, "plain conv", n_stages=n_stages))
    x = make_input(network, batch=1)
    sum(o.mean() for o in network(x)).backward()
    assert all(p.grad is not None for p in network.parameters())


@every_encoder
def test_one_sample_of_many_channels(encoder):
    network = make_network(3, encoder, "add", **plan(3, encoder, input_channels=11, num_classes=2))
    sum(o.mean() for o in network(make_input(network, batch=1, channels=11))).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_an_input_that_the_strides_do_not_divide_is_refused_with_the_divisors():
    network = make_network(3, "plain conv", "add", "anisotropic")
    with pytest.raises(ValueError, match=r"spatial size \(16, 20, 16\).*multiples of \(4, 8, 8\)"):
        network(torch.randn(1, 2, 16, 20, 16))
    with pytest.raises(ValueError, match="3 axes"):
        network(torch.randn(1, 2, 16, 16))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="skip_mode is 'sum'; it must be one of 'add', 'replace', 'none', 'plain'"):
        make_network(2, "plain conv", "sum")
    with pytest.raises(ValueError, match="read_gate is 'one'; it must be one of 'none', 'zero'"):
        XAttnResUNet(**plan(2, "plain conv"), read_gate="one")
    with pytest.raises(ValueError, match="needs skip_mode 'add', but that is 'replace'"):
        XAttnResUNet(**plan(2, "plain conv"), read_gate="zero", skip_mode="replace")
    with pytest.raises(ValueError, match="n_stages is 1"):
        make_network(2, "plain conv", "add", **plan(2, "plain conv", n_stages=1))


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="before torch 2.4 the graph breaks")
@every_encoder
def test_is_one_graph_for_torch_compile(encoder):
    """nnU-Net compiles the network for training on CUDA, then switches deep supervision off to validate."""
    torch._dynamo.reset()
    network = make_network(2, encoder, "add")
    compiled, x = torch.compile(network, backend="eager", fullgraph=True), make_input(network)
    for deep_supervision in (True, False):
        network.decoder.deep_supervision = deep_supervision
        for a, b in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(a, b)
