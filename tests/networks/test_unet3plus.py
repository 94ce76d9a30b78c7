"""UNet 3+: the paper's own counts, the wiring against plain loops, and the width by its cost."""

import copy

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from helpers.networks import make_input, make_network, plan
from helpers.plans import build, make_plans
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres.networks.configs import ConfigError
from nnunet_xattnres.networks.unet3plus import LIMIT, WIDTHS, FullScaleDecoder, UNet3Plus, multiply_adds
from nnunet_xattnres.training.epochs import TRAINERS


def n_parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_parameters_of_the_papers_own_network():
    """Five levels, two convolutions each, c = 64; one head, or five; each 3x3, on the bottleneck, too."""
    widths = [64, 128, 256, 512, 1024]
    encoder = PlainConvEncoder(
        *(3, 5, widths, nn.Conv2d, 3, [1, 2, 2, 2, 2], 2, True, nn.BatchNorm2d, {}, None, None, nn.ReLU, {}),
        return_skips=True,
    )
    decoder = FullScaleDecoder(encoder, 1, 64, True)
    without_heads = n_parameters(encoder, decoder.reductions, decoder.fusions)
    heads = [n_parameters(nn.Conv2d(channels, 1, 3)) for channels in (320, 320, 320, 320, 1024)]
    assert without_heads + heads[0] == 26_971_777
    assert without_heads + sum(heads) == 26_989_637
    assert n_parameters(decoder) == n_parameters(decoder.reductions, decoder.fusions) + 4 * (320 + 1)  # ours: 1x1


def by_hand(network, x):
    """The logits of every stage, the finest first, from the network's parameters."""
    skips, strides = network.encoder(x), network.strides
    n = len(skips)
    pool = {4: F.max_pool2d, 5: F.max_pool3d}[x.ndim]
    mode = {4: "bilinear", 5: "trilinear"}[x.ndim]
    decoded, logits = {n - 1: skips[-1]}, []
    for stage, i in enumerate(range(n - 2, -1, -1)):
        parts = []
        for j in range(n):
            if j < i:
                factor = [a // b for a, b in zip(strides[i], strides[j])]
                h = pool(skips[j], factor, factor, ceil_mode=True)
            else:
                h = skips[i] if j == i else F.interpolate(decoded[j], skips[i].shape[2:], mode=mode)
            parts.append(network.decoder.reductions[stage][j](h))
        decoded[i] = network.decoder.fusions[stage](torch.cat(parts, 1))
        logits.append(network.decoder.seg_layers[stage](decoded[i]))
    return logits[::-1]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("encoder", ["plain conv", "residual"])
@pytest.mark.parametrize("shape", ["isotropic", "anisotropic"])
def test_every_stage_sees_every_scale(dimension, encoder, shape):
    network = make_network(dimension, encoder, "unet3plus", shape).double()
    x = make_input(network).double()
    for found, expected in zip(network(x), by_hand(network, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("encoder", ["plain conv", "residual"])
@pytest.mark.parametrize("width", [2, 5, 16])
def test_the_cost_is_what_torch_counts(encoder, width):
    network = make_network(3, encoder, "unet3plus", "anisotropic", width=width, deep_supervision=False).eval()
    plain = make_network(3, encoder, "plain", "anisotropic", deep_supervision=False).eval()
    counts = []
    for module in (network, plain):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(make_input(network, batch=1))
        counts.append(counter.get_total_flops())
    assert network.cost == pytest.approx(counts[0] / counts[1], rel=1e-12)
    assert f"reductions of {width} channels, {network.cost:.2f} times" in network.note


@pytest.mark.parametrize("features", [[4, 8, 16, 16], [16, 32, 64, 64], [32, 64, 128, 256]])
def test_the_width_is_the_largest_that_is_cheap_enough(features):
    arguments = plan(2, "plain conv") | {"features_per_stage": features}
    chosen = UNet3Plus(**arguments)
    cheap = [c for c in WIDTHS if UNet3Plus(**arguments, width=c).cost <= LIMIT]
    assert chosen.width == max(cheap) and chosen.cost <= LIMIT


def test_where_none_is_cheap_enough_it_is_the_smallest():
    network = UNet3Plus(**plan(2, "plain conv") | {"features_per_stage": [1, 1, 1, 1]})
    assert network.width == 2 and network.cost > LIMIT


def test_the_width_depends_on_the_plans_alone_and_draws_no_random_numbers():
    plans = make_plans()
    torch.manual_seed(0)
    first = build(TRAINERS["nnUNetTrainerUNet3Plus"], plans)
    drawn = torch.rand(1)
    other = copy.deepcopy(plans)
    other["configurations"]["2d"] |= {"patch_size": [64, 96], "batch_size": 9}
    torch.manual_seed(0)
    second = build(TRAINERS["nnUNetTrainerUNet3Plus"], other)
    assert torch.equal(drawn, torch.rand(1)) and second.width == first.width
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_the_encoder_is_nnunets():
    ours = build(TRAINERS["nnUNetTrainerUNet3Plus"], make_plans()).state_dict()
    stock = build(nnUNetTrainer, make_plans()).state_dict()
    kept = {key: value.shape for key, value in stock.items() if key.startswith("encoder.")}
    assert kept == {key: value.shape for key, value in ours.items() if key.startswith("encoder.")}
    assert not [key for key in ours if not key.startswith(("encoder.", "decoder."))]


@pytest.mark.parametrize("width", [0, -3])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(ConfigError, match=f"width is {width}"):
        UNet3Plus(**plan(2, "plain conv"), width=width)


def test_the_formula_counts_one_head():
    network = make_network(2, "plain conv", "unet3plus", width=4)
    few, many = (multiply_adds(network.encoder, (16, 16), 4, n) for n in (1, 3))
    assert many - few == 2 * 4 * 4 * 16 * 16
