"""Every kind of network, held to what nnU-Net asks of one, and to the outputs that it once had."""

import copy
import io
import pickle

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as submodules_loadable
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from golden.stored import CONFIGURATIONS, assert_golden, read_checkpoint, stored_plans
from helpers.networks import (
    ALL_NETWORKS,
    ENCODERS,
    KINDS,
    UPSTREAM,
    make_input,
    make_network,
    output_sizes,
    plan,
    without_dropout,
)
from helpers.plans import build
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

every_network = pytest.mark.parametrize(("dimension", "encoder", "mode", "shape"), ALL_NETWORKS)
every_kind = pytest.mark.parametrize("mode", KINDS)
every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


@every_kind
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_stored_plans_and_weights_give_the_stored_logits(mode, configuration):
    network = build(nnUNetTrainer, stored_plans(mode), configuration=configuration, channels=(2, 3))
    network.load_state_dict(read_checkpoint(mode, configuration)["network_weights"], strict=True)
    assert_golden(network, mode, configuration)


@every_encoder
@every_kind
def test_initialize_reaches_every_convolution_and_spares_what_starts_at_zero(encoder, mode):
    network = make_network(2, encoder, mode)
    before = {name: p.clone() for name, p in network.named_parameters()}
    network.apply(network.initialize)
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert not torch.equal(module.weight, before[f"{name}.weight"]), name
    for name, p in network.named_parameters():
        if p.ndim <= 2 and name.startswith("reads."):
            assert torch.equal(p, before[name]), f"initialize has overwritten {name}"


@every_kind
@pytest.mark.parametrize(("encoder", "nonlin_first"), [("plain conv", True), ("plain conv", False), ("residual", None)])
def test_every_block_has_the_order_of_the_plan(encoder, nonlin_first, mode):
    """Convolution, nonlinearity, norm where it says nonlin_first, which upstream's residual encoder does not take."""
    changes = {} if nonlin_first is None else {"nonlin_first": nonlin_first}
    network = make_network(2, encoder, mode, **changes)
    blocks = [b for b in network.modules() if isinstance(b, ConvDropoutNormReLU) and hasattr(b, "nonlin")]
    assert any(b not in set(network.encoder.modules()) for b in blocks)
    for b in blocks:
        assert list(b.all_modules)[1:] == ([b.nonlin, b.norm] if nonlin_first else [b.norm, b.nonlin])


@every_network
def test_outputs_and_gradients(dimension, encoder, mode, shape):
    network = make_network(dimension, encoder, mode, shape)
    x = make_input(network)
    outputs = network(x)
    assert [list(o.shape) for o in outputs] == [[2, 3, *size] for size in output_sizes(network, x)]
    sum(o.square().mean() for o in outputs).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, f"{name} got no gradient"
        assert p.grad.isfinite().all(), f"{name} got a gradient that is not finite"


@every_network
def test_every_parameter_gets_a_gradient_without_deep_supervision(dimension, encoder, mode, shape):
    """DDP needs one for the idle heads, too; their influence is nil."""
    network = without_dropout(make_network(dimension, encoder, mode, shape, deep_supervision=False))
    x = make_input(network)
    logits = network(x)
    assert torch.equal(logits, network.eval()(x))
    logits.square().mean().backward()
    finest = f"decoder.seg_layers.{len(network.decoder.seg_layers) - 1}."
    for name, p in network.named_parameters():
        idle = name.startswith("decoder.seg_layers.") and not name.startswith(finest)
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert not (idle and p.grad.any()), name


@every_network
def test_state_dict_fits_with_deep_supervision_on_and_off(dimension, encoder, mode, shape):
    on = make_network(dimension, encoder, mode, shape).eval()
    off = make_network(dimension, encoder, mode, shape, deep_supervision=False).eval()
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
        assert len(on(x)) == len(on.decoder.seg_layers)


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
@every_kind
def test_upstreams_helpers_work(encoder, mode):
    network, upstream = make_network(3, encoder, mode), UPSTREAM[encoder](**plan(3, encoder))
    submodules_loadable(network)  # key_to_encoder, key_to_stem, keys_to_in_proj
    assert network.compute_conv_feature_map_size((16, 16, 16)) == KINDS[mode].feature_maps(network, upstream)
    heads = [key for key in network.state_dict() if ".seg_layers." in key]
    assert heads and all(key.startswith("decoder.seg_layers.") for key in heads)


@pytest.mark.parametrize("n_stages", [2, 3, 8])
@every_kind
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


@every_kind
def test_an_input_that_the_strides_do_not_divide_is_refused_with_the_divisors(mode):
    network = make_network(3, "plain conv", mode, "anisotropic")
    with pytest.raises(ValueError, match=r"spatial size \(16, 20, 16\).*multiples of \(4, 8, 8\)"):
        network(torch.randn(1, 2, 16, 20, 16))
    with pytest.raises(ValueError, match=r"holds it is \(16, 24, 16\): pad the input to that, or, where nnU-Net"):
        network(torch.randn(1, 2, 16, 20, 16))
    with pytest.raises(ValueError, match="3 axes"):
        network(torch.randn(1, 2, 16, 16))


@every_encoder
@every_kind
def test_other_channels_and_integers_are_refused(encoder, mode):
    network = make_network(2, encoder, mode)
    with pytest.raises(ValueError, match="3 channels; the network was built for 2"):
        network(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"the input is of torch\.int64; expected a floating dtype"):
        network(torch.ones(1, 2, 16, 16, dtype=torch.int64))


def test_one_spatial_axis_is_refused_where_there_are_reads():
    changes = {"conv_op": nn.Conv1d, "norm_op": nn.InstanceNorm1d, "kernel_sizes": 3, "strides": [1, 2, 2, 2]}
    with pytest.raises(ValueError, match="conv_op is Conv1d: a read needs maps of 2 or 3 spatial axes"):
        make_network(2, "plain conv", "add", **changes)


def of_three_stages(encoder, mode):
    """The fewest with reads of every kind: compiling takes most of the time of a test, and as much for each stage."""
    return make_network(2, encoder, mode, **plan(2, encoder, n_stages=3, n_blocks=KINDS[mode].n_blocks))


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="before torch 2.4 the graph breaks")
@every_encoder
@every_kind
def test_is_one_graph_for_torch_compile(encoder, mode):
    """nnU-Net compiles the network for training on CUDA, then switches deep supervision off to validate."""
    torch._dynamo.reset()
    network = without_dropout(of_three_stages(encoder, mode))
    compiled, x = torch.compile(network, backend="eager", fullgraph=True), make_input(network)
    for deep_supervision in (True, False):
        network.decoder.deep_supervision = deep_supervision
        for a, b in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(a, b)
