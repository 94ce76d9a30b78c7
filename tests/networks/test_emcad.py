"""EMCAD: the paper's counts and formulas by hand, sizes, and what nnU-Net asks of it beyond the shared tester."""

import json
import math

import numpy as np
import pytest
import torch
from golden.stored import HERE, fixed_weights
from helpers.networks import OWN, make_input, make_network
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres.networks.emcad import (
    EMCAD,
    ChannelAttention,
    Enlargement,
    Gate,
    MultiScaleConvolution,
    SpatialAttention,
    pretrained_encoder,
)
from nnunet_xattnres.ops import history_read
from nnunet_xattnres.ops.reference import history_read as reference

every_kind = pytest.mark.parametrize("kind", OWN)


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "of_three", "of_one", "decoder"),
    [("pvt_v2_b2", 26_764_399, 26_764_411, 1_913_515), ("pvt_v2_b0", 3_916_783, 3_916_795, 506_507)],
)
def test_the_papers_parameters(encoder, of_three, of_one, decoder):
    network = EMCAD(3, 1, encoder=encoder)
    assert n_parameters(network) == of_three
    assert n_parameters(EMCAD(1, 1, encoder=encoder)) == of_one
    assert n_parameters(network.decoder) - n_parameters(network.decoder.seg_layers) == decoder
    if encoder == "pvt_v2_b2":
        assert n_parameters(network.decoder.gates) == 11_017


def test_the_papers_multiply_adds():
    """5.6 G of b2 and 0.84 G of b0 at 256: of convolutions and linear layers, without attention's own products."""
    for encoder, size, expected in (("pvt_v2_b2", 256, 5.6e9), ("pvt_v2_b0", 256, 0.84e9)):
        with torch.device("meta"):
            network, x = EMCAD(3, 1, encoder=encoder, deep_supervision=False).eval(), torch.empty(1, 3, size, size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x)
        attention = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
        assert (counter.get_total_flops() - attention) / 2 == pytest.approx(expected, rel=0.025)


@every_kind
@pytest.mark.parametrize("size", [(224, 224), (256, 256), (352, 352), (48, 56), (1, 33)])
def test_shapes(kind, size):
    network = make_network(2, "own", kind).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 2, *size))
    assert [tuple(o.shape) for o in outputs] == [(1, 3, *size)] * 4
    assert network.padded(size) == tuple(32 * math.ceil(n / 32) for n in size)


@every_kind
def test_an_odd_patch_is_padded_inside_and_cut_outside(kind):
    network = make_network(2, "own", kind).eval()
    x = torch.randn(2, 2, 48, 56)
    whole = torch.zeros(2, 2, 64, 64)
    whole[..., :48, :56] = x
    for found, expected in zip(network(x), network(whole)):
        assert torch.equal(found, expected[..., :48, :56])


def test_another_dimension_is_refused():
    with pytest.raises(ValueError, match="2 axes"):
        make_network(2, "own", "emcad")(torch.zeros(1, 2, 32, 32, 32))


# The formulas, in sums over shifted maps; the weights are those of the modules.


def convolve(x, weight, bias=None):
    """Of odd size, stride 1; each output channel takes its group's input channels."""
    n, per_group, kernel, _ = weight.shape
    height, width, groups, r = *x.shape[2:], x.shape[1] // per_group, kernel // 2
    big = x.new_zeros(*x.shape[:2], height + 2 * r, width + 2 * r)
    big[..., r : r + height, r : r + width] = x
    out = []
    for c in range(n):
        first = c // (n // groups) * per_group
        out.append(
            sum(
                weight[c, k, i, j] * big[:, first + k, i : i + height, j : j + width]
                for k in range(per_group)
                for i in range(kernel)
                for j in range(kernel)
            )
        )
    out = torch.stack(out, 1)
    return out if bias is None else out + bias[:, None, None]


def normalise(x, norm):
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    x = (x - mean) / (variance + norm.eps).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def cab(m, x):
    down, up = m.shared[0].weight[..., 0, 0], m.shared[2].weight[..., 0, 0]
    rows = [[], []]
    for pooled in (x.flatten(2).sum(2) / x[0, 0].numel(), x.flatten(2).max(2).values):
        rows[0].append(torch.relu(pooled @ down.T) @ up.T)
    return 1 / (1 + torch.exp(-(rows[0][0] + rows[0][1])))[:, :, None, None]


def sab(m, x):
    stacked = torch.stack((x.sum(1) / x.shape[1], x.max(1).values), 1)
    return 1 / (1 + torch.exp(-convolve(stacked, m.conv.weight)))


def mscb(m, x):
    """As published, with the shuffle: the rows of the last convolution's weight are then in another order."""
    channels = x.shape[1]
    wide = normalise(convolve(x, m.expand[0].weight), m.expand[1]).clamp(0, 6)
    total = sum(normalise(convolve(wide, s[0].weight), s[1]).clamp(0, 6) for s in m.scales)
    groups = math.gcd(2 * channels, channels)
    order = torch.arange(2 * channels).view(groups, -1).T.flatten()
    return x + normalise(convolve(total[:, order], m.project[0].weight[:, order]), m.project[1])


def lgag(m, g, x):
    parts = [
        normalise(convolve(a, branch[0].weight, branch[0].bias), branch[1])
        for a, branch in ((g, m.of_decoder), (x, m.of_encoder))
    ]
    one = normalise(convolve(torch.relu(parts[0] + parts[1]), m.factor[0].weight, m.factor[0].bias), m.factor[1])
    return x / (1 + torch.exp(-one))


def eucb(m, x):
    big = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return convolve(torch.relu(normalise(convolve(big, m[1].weight), m[2])), m[4].weight, m[4].bias)


@pytest.mark.parametrize(
    ("module", "formula", "n_maps"),
    [
        (ChannelAttention(32), cab, 1),
        (ChannelAttention(4), cab, 1),
        (SpatialAttention(), sab, 1),
        (MultiScaleConvolution(6), mscb, 1),
        (Gate(6), lgag, 2),
        (Enlargement(6, 4), eucb, 1),
    ],
)
def test_the_blocks_are_the_formulas(module, formula, n_maps):
    torch.manual_seed(0)
    module = module.double().train()
    for p in module.parameters():
        nn.init.normal_(p, std=0.7)
    channels = module.shared[0].in_channels if isinstance(module, ChannelAttention) else 6
    maps = [torch.randn(2, channels, 5, 7, dtype=torch.float64, requires_grad=True) for _ in range(n_maps)]
    inputs = [*maps, *module.parameters()]
    found, expected = module(*maps), formula(module, *maps)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    # any function of the output: a plain sum would be blind behind a norm
    direction = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad((out * direction).sum(), inputs) for out in (found, expected))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@every_kind
def test_the_wiring_by_hand(kind):
    """d_i = A(u + gate(u, x_i) + r_i), with A(x) = MSCB(S(C(x))); every map of a read is resized by the read itself."""
    network = make_network(2, "own", kind).double()
    x = make_input(network).double()
    x1, x2, x3, x4 = network.encoder(network.stem(x))
    decoder = network.decoder

    def attend(i, x):
        x = x * decoder.channelwise[i](x)
        return decoder.convolutions[i](x * decoder.spatial(x))

    pool, d = [x1, x2, x3, x4], attend(0, x4)
    logits = [decoder.seg_layers[0](d)]
    for i, (level, skip) in enumerate(((3, x3), (2, x2), (1, x1))):
        pool.append(d)
        up = decoder.enlargements[i](d)
        joined = up + decoder.gates[i](up, skip)
        if kind == "emcad_xattnres":
            read = network.reads[f"d{level}"]
            weights = [None if k in read.direct else p.weight.flatten(1) for k, p in enumerate(read.projections)]
            assert read.direct == {level - 1}
            joined = joined + reference(pool, weights, read.pseudo_query, read.key_scale, skip.shape[2:])
        d = attend(i + 1, joined)
        logits.append(decoder.seg_layers[i + 1](d))
    for found, expected in zip(network(x), reversed(logits)):
        expected = F.interpolate(expected, x.shape[2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_reads_are_in_the_decoder_alone_and_the_history_is_in_the_order_computed():
    network = make_network(2, "own", "emcad_xattnres")
    assert list(network.reads) == ["d3", "d2", "d1"]
    names = ["x1", "x2", "x3", "x4", "d4", "d3", "d2", "d1"]
    assert [stage.name for stage in network.history_stages] == names
    assert [len(read.source_channels) for read in network.reads.values()] == [5, 6, 7]
    plain = EMCAD(2, 3, encoder="pvt_v2_b0")
    assert plain.state_dict().keys() == {key for key in network.state_dict() if not key.startswith("reads.")}


@every_kind
def test_initialize_leaves_the_encoder_alone_and_makes_the_rest_anew(kind):
    network = make_network(2, "own", kind)
    before = {name: p.clone() for name, p in network.state_dict().items()}
    network.apply(network.initialize)
    for name, value in network.state_dict().items():
        if name.startswith("encoder.") or name.endswith(("pseudo_query", "key_scale")):
            assert torch.equal(value, before[name]), name
        elif value.ndim == 4:
            assert not torch.equal(value, before[name]), name
    kernels = torch.cat([m.weight.flatten() for m in network.decoder.modules() if isinstance(m, nn.Conv2d)])
    assert kernels.std().item() == pytest.approx(0.02, rel=0.02) and abs(kernels.mean().item()) < 1e-3


@every_kind
def test_the_encoder_is_the_papers(kind):
    encoder = make_network(2, "own", kind).encoder
    assert encoder.feature_info.channels() == [32, 64, 160, 256]
    rates = [m.drop_prob for m in encoder.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1) and len(rates) == 14  # two in each of eight blocks, none in the first
    assert encoder.stages_0.norm.eps == encoder.stages_0.blocks[0].norm1.eps == 1e-6


def test_building_fetches_nothing(monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    EMCAD(1, 2, encoder="pvt_v2_b0")


def as_the_authors_wrote_it(weights):
    """PVTv2's own names, of timm's."""
    found = {}
    for key, value in weights.items():
        if key.startswith("stages."):
            _, i, part, *rest = key.split(".")
            names = {
                "blocks": f"block{int(i) + 1}",
                "norm": f"norm{int(i) + 1}",
                "downsample": f"patch_embed{int(i) + 1}",
            }
            key = ".".join([names[part], *rest]).replace("dwconv.", "dwconv.dwconv.")
        found[key.replace("patch_embed.", "patch_embed1.")] = value
    return found


@pytest.mark.parametrize("change", [lambda w: w, lambda w: {"state_dict": w}, as_the_authors_wrote_it])
def test_weights_from_a_file_reach_every_parameter_of_the_encoder(tmp_path, change):
    timm = pytest.importorskip("timm")
    classifier = timm.create_model("pvt_v2_b0")
    for p in classifier.parameters():
        nn.init.normal_(p)
    torch.save(change(classifier.state_dict()), tmp_path / "weights.pth")
    encoder = EMCAD(3, 2, encoder="pvt_v2_b0").encoder.eval()
    encoder.load_state_dict(pretrained_encoder("pvt_v2_b0", str(tmp_path / "weights.pth")), strict=True)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(encoder(x)[-1], classifier.eval().forward_features(x))
    assert sum(p.sum() for p in encoder.parameters()).item() == pytest.approx(
        sum(p.sum() for n, p in classifier.named_parameters() if not n.startswith("head.")).item(), rel=1e-3
    )


@pytest.mark.parametrize(
    "content", [{}, {"a": torch.zeros(1)}, None], ids=["empty", "of another network", "one is missing"]
)
def test_a_file_without_all_weights_is_refused(tmp_path, content):
    """timm would load an encoder from any file, and leave it random."""
    timm = pytest.importorskip("timm")
    if content is None:
        content = timm.create_model("pvt_v2_b0").state_dict()
        del content["stages.1.blocks.1.norm2.bias"]
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(Exception, match=r"Missing key|state_dict|index"):
        pretrained_encoder("pvt_v2_b0", str(tmp_path / "weights.pth"))


@pytest.mark.skipif(not hasattr(torch.library, "custom_op"), reason="before torch 2.4 the graph breaks")
def test_is_one_graph_for_torch_compile():
    torch._dynamo.reset()
    network = make_network(2, "own", "emcad_xattnres")
    compiled, x = torch.compile(network, backend="eager", fullgraph=True), torch.randn(2, 2, 48, 56)
    for deep_supervision in (True, False):
        network.decoder.deep_supervision = deep_supervision
        for a, b in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(a, b)
    network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), network(x))


@every_kind
def test_the_logits_are_those_of_before(kind):
    """Weights by a formula, in the order of the state dict; its names and shapes are stored, too."""
    stored = np.load(HERE / "emcad.npz")
    network = make_network(2, "own", kind).eval()
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == json.loads(
        str(stored[f"{kind} keys"])
    )
    x = fixed_weights(network)
    with torch.no_grad():
        outputs = network(x)
    for i, found in enumerate(outputs):
        expected = torch.from_numpy(stored[f"{kind} {i}"])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_the_operator_is_the_specification_at_these_reads():
    """The path that a CPU takes, on the pools of this network."""
    torch.manual_seed(0)
    network = make_network(2, "own", "emcad_xattnres").double()
    maps = [torch.randn(1, c, 64 // s, 64 // s).double() for c, s in zip((32, 64, 160, 256, 256), (4, 8, 16, 32, 32))]
    read = network.reads["d3"]
    weights = [None if k in read.direct else p.weight.flatten(1) for k, p in enumerate(read.projections)]
    found, expected = (f(maps, weights, read.pseudo_query, read.key_scale, (4, 4)) for f in (history_read, reference))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
