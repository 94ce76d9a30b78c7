"""UCTransNet against the equations of the paper, written out here, and against its parameter count."""

from contextlib import nullcontext
from math import prod
from types import SimpleNamespace

import pytest
import torch
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from helpers.networks import make_input, make_network, plan, size_of_input, without_dropout
from helpers.plans import build, make_plans
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_xattnres.networks import uctransnet
from nnunet_xattnres.networks.uctransnet import ChannelCrossAttention, ChannelTransformer, UCTransNet
from nnunet_xattnres.training.epochs import TRAINERS

CHANNELS, HEADS = [3, 4, 2, 5], 4
STRIDES = {
    "2d": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2]],
    "2d anisotropic": [[1, 1], [1, 2], [3, 2], [2, 1], [1, 2]],
    "3d": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1], [2, 2, 2]],
    "3d anisotropic": [[1, 1, 1], [1, 2, 2], [2, 2, 3], [2, 1, 1], [1, 2, 1]],
    "two skips": [[1, 1, 1], [1, 2, 2], [2, 1, 2]],
}
GRIDS = {2: (2, 3), 3: (2, 3, 1)}


# --- the equations ---


def tokens_of(skip, weight, bias, table):
    """Every patch of the map times the kernel, plus the position: (B, T, C)."""
    patch = weight.shape[2:]
    grid = [n // p for n, p in zip(skip.shape[2:], patch)]
    tokens = []
    for corner in torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid)).tolist():
        window = skip[(..., *(slice(i * p, (i + 1) * p) for i, p in zip(corner, patch)))]
        tokens.append(window.flatten(1) @ weight.flatten(1).T + bias)
    return torch.stack(tokens, 1) + table


def normalised(x, dims, eps):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(dims, keepdim=True).add(eps).sqrt()


def layer_norm(x, module):
    return normalised(x, -1, 1e-6) * module.weight + module.bias


def attention(sets, everything, module):
    """Each head on its own, with full matrices; the mean over the heads."""
    wide, result = everything.shape[2], []
    for i, x in enumerate(sets):
        c, heads = x.shape[2], []
        for h in range(HEADS):
            query = x @ module.queries[i].weight[h * c : (h + 1) * c].T
            key = everything @ module.key.weight[h * wide : (h + 1) * wide].T
            value = everything @ module.value.weight[h * wide : (h + 1) * wide].T
            scores = torch.einsum("btc,btk->bck", query, key) / wide**0.5
            scores = normalised(scores, (1, 2), 1e-5).exp()
            weights = scores / scores.sum(2, keepdim=True)
            heads.append(torch.einsum("bck,btk->btc", weights, value))
        result.append(sum(heads) / HEADS @ module.outs[i].weight.T)
    return result


def perceptron(x, module):
    norm, up, _, down = module
    x = layer_norm(x, norm) @ up.weight.T + up.bias
    return (x * (1 + torch.erf(x / 2**0.5)) / 2) @ down.weight.T + down.bias


def restored(skip, tokens, module, patch):
    """As published: enlarged first, then convolved, normalised and rectified; added to the map."""
    grid = [n // p for n, p in zip(skip.shape[2:], patch)]
    x = tokens.transpose(1, 2).reshape(*tokens.shape[::2], *grid)
    for axis, p in enumerate(patch, start=2):
        x = x.repeat_interleave(p, axis)
    per_channel = [-1, *[1] * len(grid)]
    x = torch.einsum("oc,bc...->bo...", module.conv.weight.flatten(1), x) + module.conv.bias.view(per_channel)
    x = normalised(x, tuple(range(2, x.ndim)), 1e-5)
    x = x * module.norm.weight.view(per_channel) + module.norm.bias.view(per_channel)
    return skip + torch.where(x > 0, x, 0.01 * x)


def transformed(cct, skips, patches):
    parts = list(cct.tokens)
    sets = [tokens_of(x, t.embed.weight, t.embed.bias, t.position.flatten(1, -2)) for x, t in zip(skips, parts)]
    for layer in cct.layers:
        everything = layer_norm(torch.cat(sets, 2), layer.norm_all)
        added = attention([layer_norm(x, n) for x, n in zip(sets, layer.norms)], everything, layer.attention)
        sets = [x + y for x, y in zip(sets, added)]
        sets = [x + perceptron(x, mlp) for x, mlp in zip(sets, layer.mlps)]
    sets = [layer_norm(x, norm) for x, norm in zip(sets, cct.norms)]
    return [restored(*of_one) for of_one in zip(skips, sets, [t.restore for t in parts], patches)]


# --- the network against them ---


def randomised(module):
    """In float64, with every parameter away from its start."""
    module = without_dropout(module).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def noise(*size, seed=1):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder_of(strides):
    dimension = len(strides[0])
    arguments = plan(dimension, "plain conv", n_stages=len(strides))
    for key in ("num_classes", "n_conv_per_stage_decoder", "deep_supervision"):
        del arguments[key]
    features = [*CHANNELS[: len(strides) - 1], 6]
    return PlainConvEncoder(**{**arguments, "strides": strides, "features_per_stage": features})


def assert_same_with_gradients(found, expected, leaves):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    factors = [noise(*x.shape, seed=i) for i, x in enumerate(found)]
    gradients = [
        torch.autograd.grad(sum((x * f).sum() for x, f in zip(xs, factors)), leaves) for xs in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
def test_the_transformer_is_that_of_the_equations(strides):
    n, dimension = len(strides) - 1, len(strides[0])
    cumulative = [[prod(s[axis] for s in strides[: i + 1]) for axis in range(dimension)] for i in range(n + 1)]
    patch_size = [g * s for g, s in zip(GRIDS[dimension], cumulative[n])]
    cct = randomised(ChannelTransformer(encoder_of(strides), patch_size))
    skips = [
        noise(2, c, *(a // b for a, b in zip(patch_size, stride)), seed=i).requires_grad_()
        for i, (c, stride) in enumerate(zip(CHANNELS[:n], cumulative))
    ]
    patches = [[a // b for a, b in zip(cumulative[n], stride)] for stride in cumulative[:n]]
    assert_same_with_gradients(cct(skips), transformed(cct, skips, patches), [*skips, *cct.parameters()])


@pytest.mark.parametrize("size", [(4, 6), (2, 3, 4)])
def test_the_attention_before_a_concatenation_is_that_of_the_equations(size):
    cca = randomised(ChannelCrossAttention(3, 5))
    skip, upsampled = noise(2, 3, *size).requires_grad_(), noise(2, 5, *size, seed=2).requires_grad_()
    expected = torch.empty_like(skip)
    for b in range(2):
        for c in range(3):
            of_skip = sum(cca.of_skip.weight[c, k] * skip[b, k].mean() for k in range(3)) + cca.of_skip.bias[c]
            of_other = sum(cca.of_upsampled.weight[c, k] * upsampled[b, k].mean() for k in range(5))
            score = (of_skip + of_other + cca.of_upsampled.bias[c]) / 2
            expected[b, c] = skip[b, c] / (1 + torch.exp(-score))
    assert_same_with_gradients([cca(skip, upsampled)], [expected], [skip, upsampled, *cca.parameters()])


@pytest.mark.parametrize("encoder", ["plain conv", "residual"])
def test_what_each_decoder_stage_takes(encoder):
    """Six skips: the four finest transformed, the two others as they are, all scaled; the rest is upstream's."""
    arguments = {**plan(2, encoder, n_stages=7), "features_per_stage": [2, 3, 4, 5, 6, 7, 8]}
    network = make_network(2, encoder, "uctransnet", **arguments).eval()
    x, stages = make_input(network, batch=1), []
    for stage in network.decoder.stages:
        stage.register_forward_hook(lambda _m, args, out: stages.append((args[0], out)))
    with torch.inference_mode():
        network(x)
        *skips, below = network.encoder(x)
        new = network.cct(skips)
        assert len(network.cct.tokens) == 4 and all(a is b for a, b in zip(new[4:], skips[4:], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(new[:4], skips[:4]))
        for j, (found, out) in enumerate(stages):
            up = network.decoder.transpconvs[j](below)
            assert torch.equal(found, torch.cat((up, network.cca[j](new[5 - j], up)), 1))
            below = out


def test_every_parameter_has_an_influence():
    network = make_network(3, "plain conv", "uctransnet", "anisotropic").double()
    sum(o.square().mean() for o in network(make_input(network).double())).backward()
    idle = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert not idle


# --- the published configuration ---


class AsPublished(nn.Module):
    """The paper's network, to count: a plain U-Net of five levels with nearest upsampling."""

    def __init__(self, image_size):
        super().__init__()
        widths = [64, 128, 256, 512, 512]
        self.encoder = PlainConvEncoder(
            *(3, 5, widths, nn.Conv2d, 3, [1, 2, 2, 2, 2], [1, 2, 2, 2, 2], True, nn.BatchNorm2d, {}),
            nonlin=nn.ReLU,
            return_skips=True,
            pool="max",
        )
        self.cct = ChannelTransformer(self.encoder, image_size)
        pairs = [(512, 512, 256), (256, 256, 128), (128, 128, 64), (64, 64, 64)]  # of skip, from below, out
        self.cca = nn.ModuleList(ChannelCrossAttention(skip, below) for skip, below, _ in pairs)
        self.stages = nn.ModuleList(
            nn.Sequential(*(nn.Sequential(nn.Conv2d(a, out, 3, padding=1), nn.BatchNorm2d(out)) for a in (both, out)))
            for both, out in ((skip + below, out) for skip, below, out in pairs)
        )
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, x):
        *skips, x = self.encoder(x)
        for cca, stage, skip in zip(self.cca, self.stages, reversed(self.cct(skips)), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2)
            x = stage(torch.cat((cca(skip, x), x), 1))
        return self.head(x)


def test_parameters_of_the_published_configuration():
    with torch.device("meta"):
        network = AsPublished((224, 224))
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 1, 224, 224)
    assert network.cct.grid == (14, 14)
    assert sum(p.numel() for p in network.cct.parameters()) == 52_374_144
    assert sum(p.numel() for p in network.parameters()) == 66_430_657


# --- positions ---


def linear(n_from, n_to):
    """The matrix of a linear interpolation of a row of numbers; at the ends they go on as they are."""
    matrix = torch.zeros(n_to, n_from, dtype=torch.float64)
    for i in range(n_to):
        position = min(max((i + 0.5) * n_from / n_to - 0.5, 0), n_from - 1)
        low = int(position)
        matrix[i, low] += 1 - (position - low)
        matrix[i, min(low + 1, n_from - 1)] += position - low
    return matrix


@pytest.mark.parametrize(("grid", "other"), [((2, 3), (4, 5)), ((4, 6), (3, 2)), ((2, 3, 4), (3, 3, 6))])
def test_positions_for_another_size_are_interpolated(grid, other):
    strides = [[1] * len(grid), [2] * len(grid)]
    cct = randomised(ChannelTransformer(encoder_of(strides), [2 * n for n in grid]))
    skip = noise(1, 3, *(2 * n for n in other))
    table = cct.tokens[0].position.view(*grid, 3)
    for axis, (a, b) in enumerate(zip(grid, other)):
        table = torch.tensordot(linear(a, b), table, ([1], [axis])).movedim(0, axis)
    twin = ChannelTransformer(encoder_of(strides), [2 * n for n in other]).double().eval()
    twin.load_state_dict({**cct.state_dict(), "tokens.0.position": table.reshape(1, -1, 3)})
    torch.testing.assert_close(cct([skip]), twin([skip]), rtol=1e-10, atol=1e-10)


def test_another_size_than_the_patch_computes_and_learns():
    network = make_network(3, "residual", "uctransnet", "anisotropic")
    outputs = network(torch.randn(1, 2, 12, 16, 24))
    assert [tuple(o.shape[2:]) for o in outputs] == [(12, 16, 24), (12, 8, 12), (6, 4, 6)]
    sum(o.square().mean() for o in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_positions_start_at_zero_and_linear_layers_as_torch_has_them():
    network = build(TRAINERS["nnUNetTrainerUCTransNet"], make_plans())
    tables = [p for name, p in network.named_parameters() if name.endswith("position")]
    assert [tuple(p.shape) for p in tables] == [(1, 4, 4, 4), (1, 4, 4, 8)]  # patches of 16 x 16, strides of 4
    assert not any(p.any() for p in tables)
    before = {name: m.weight.clone() for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    network.apply(network.initialize)
    assert not any(p.any() for p in tables)
    assert before and all(torch.equal(network.get_submodule(name).weight, w) for name, w in before.items())


@pytest.mark.parametrize(
    ("patch_size", "message"),
    [
        (None, "patch_size is missing"),
        ([16, 12], r"patch_size is \[16, 12\].*multiples of \[8, 8\]"),
        ([16, 0], "multiples of"),
        ([16, 16, 16], "must have 2 axes"),
    ],
)
def test_a_patch_size_that_no_table_can_be_made_for_is_refused(patch_size, message):
    with pytest.raises(ValueError, match=message):
        UCTransNet(**plan(2, "plain conv"), patch_size=patch_size)


def test_pretrained_weights_of_plans_with_another_grid_are_refused_by_nnunet(tmp_path):
    """With -pretrained_weights, before anything is loaded; those of another patch with the same grid do not exist."""
    plans, file = make_plans(), tmp_path / "checkpoint.pth"
    source = build(TRAINERS["nnUNetTrainerUCTransNet"], plans)
    torch.save({"network_weights": source.state_dict()}, file)
    same = build(TRAINERS["nnUNetTrainerUCTransNet"], plans)
    load_pretrained_weights(same, file)
    assert torch.equal(same.cct.layers[0].attention.key.weight, source.cct.layers[0].attention.key.weight)
    for wide, high in ([32, 16], [16, 32]):
        plans["configurations"]["2d"]["patch_size"] = [wide, high]
        with pytest.raises(AssertionError, match=r"cct\.tokens\.0\.position"):
            load_pretrained_weights(build(TRAINERS["nnUNetTrainerUCTransNet"], plans), file)
        torch.save({"network_weights": build(TRAINERS["nnUNetTrainerUCTransNet"], plans).state_dict()}, file)


@pytest.mark.parametrize(
    ("of", "to", "fits"),
    [
        ("nnUNetTrainerUCTransNet", "nnUNetTrainer", True),
        ("nnUNetTrainer", "nnUNetTrainerUCTransNet", False),
        ("nnUNetTrainerUCTransNet", "nnUNetTrainerXAttnRes", False),
        ("nnUNetTrainerUCTransNet", "nnUNetTrainerNoSkip", False),
        ("nnUNetTrainerXAttnRes", "nnUNetTrainerUCTransNet", False),
    ],
)
def test_which_weights_nnunet_loads(tmp_path, of, to, fits):
    """As docs/warm-start.md says."""
    trainers, file = {**TRAINERS, "nnUNetTrainer": nnUNetTrainer}, tmp_path / "checkpoint.pth"
    torch.save({"network_weights": build(trainers[of], make_plans()).state_dict()}, file)
    with nullcontext() if fits else pytest.raises(AssertionError):
        load_pretrained_weights(build(trainers[to], make_plans()), file)


# --- precision, dropout, export ---


def test_scores_and_softmax_are_float32_inside_autocast(monkeypatch):
    attention, seen = uctransnet.ChannelAttention([3, 5]), {}

    def see(name, x):
        seen.setdefault(name, x)  # the first skip's

    attention.queries[0].register_forward_hook(lambda _m, _a, out: see("query", out))
    attention.key.register_forward_hook(lambda _m, _a, out: see("key", out))
    attention.attention_dropout.register_forward_pre_hook(lambda _m, args: see("weights", args[0]))
    layer_norm = uctransnet.F.layer_norm

    def watched(x, *arguments):
        see("scores", x)
        return layer_norm(x, *arguments)

    monkeypatch.setattr(uctransnet, "F", SimpleNamespace(layer_norm=watched))
    sets = [torch.randn(2, 1000, c) for c in (3, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        added = attention(sets, torch.cat(sets, 2))
    assert seen["query"].dtype == seen["key"].dtype == added[0].dtype == torch.bfloat16
    assert seen["scores"].dtype == seen["weights"].dtype == torch.float32
    query, key = (seen[name].double().unflatten(2, (4, -1)) for name in ("query", "key"))
    expected = torch.einsum("bthc,bthk->bhck", query, key) / 8**0.5
    torch.testing.assert_close(seen["scores"].double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(seen["weights"].sum(3), torch.ones(2, 4, 3))


def test_dropout_is_in_the_training_only():
    network = make_network(2, "plain conv", "uctransnet")
    x = make_input(network)
    with torch.inference_mode():
        assert not torch.equal(network(x)[0], network(x)[0])
        network.eval()
        assert torch.equal(network(x)[0], network(x)[0])


@pytest.mark.parametrize(
    "where", ["tokens.0.dropout", "layers.0.attention.attention_dropout", "layers.0.attention.dropout"]
)
def test_where_dropout_is(where):
    cct = without_dropout(ChannelTransformer(encoder_of(STRIDES["2d"]), (32, 32)))
    assert sum(isinstance(m, nn.Dropout) for m in cct.modules()) == 4 + 2 * 4
    skips = [torch.randn(1, c, 32 // 2**i, 32 // 2**i) for i, c in enumerate(CHANNELS)]
    with torch.inference_mode():
        before = cct(skips)
        cct.get_submodule(where).p = 0.1
        torch.manual_seed(0)
        assert not torch.equal(cct(skips)[0], before[0])


@pytest.mark.parametrize(("dimension", "shape"), [(2, "isotropic"), (3, "anisotropic")])
def test_onnxruntime_agrees_for_any_batch(dimension, shape, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from nnunet_xattnres.commands.export_onnx import _write_network

    network = make_network(dimension, "plain conv", "uctransnet", shape, deep_supervision=False).eval()
    size = size_of_input(dimension, plan(dimension, "plain conv", shape))
    _write_network(network, (2, *size), tmp_path / "network.onnx")
    session = runtime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        x = torch.randn(batch, 2, *size)
        with torch.inference_mode():
            expected = network(x)
        (found,) = session.run(["logits"], {"image": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4 * expected.abs().max().item())
