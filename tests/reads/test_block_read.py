"""The two reads of the block-level XAttnRes against the equations, position by position, and at their borders."""

import math

import pytest
import torch
from torch import nn

from nnunet_xattnres.reads.block_read import DKVMR, EPS, ISAR

SIZES = {2: (3, 4), 3: (2, 3, 2)}
every_dimension = pytest.mark.parametrize("dimension", SIZES)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def maps_of(n, channels, dimension, batch=2):
    return [normal(batch, channels, *SIZES[dimension], seed=10 + k) for k in range(n)]


def read_of_one_position(query, keys, values, scale):
    """a_n = softmax of <q, K_n / sqrt(mean K_n^2 + eps) * g> / sqrt(D), and sum of a_n V_n, for vectors."""
    scores = []
    for key in keys:
        root = torch.sqrt((key**2).sum() / len(key) + EPS)
        scores.append(torch.dot(query, key / root * scale) / math.sqrt(len(key)))
    exponentials = [torch.exp(s) for s in scores]
    weights = [e / sum(exponentials) for e in exponentials]
    return sum(a * v for a, v in zip(weights, values)), torch.stack(weights)


def at_each_position(function, *groups):
    """``function`` of the vectors of each position of groups of maps; its results as maps."""
    first = groups[0][0]
    flat = [[x.movedim(1, -1).reshape(-1, x.shape[1]) for x in group] for group in groups]
    results = [function(*([x[p] for x in group] for group in flat)) for p in range(len(flat[0][0]))]
    batch, *spatial = first.shape[0], *first.shape[2:]
    return [torch.stack(r).unflatten(0, (batch, *spatial)).movedim(-1, 1) for r in zip(*results)]


def assert_same(found, expected, inputs):
    """Outputs and the gradients of a fixed random function of them."""
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    d_out = [normal(*x.shape, seed=99).detach() for x in found]
    gradients = [torch.autograd.grad(out, inputs, d_out, retain_graph=True) for out in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def make_isar(channels, n):
    read = ISAR(channels, n).double()
    with torch.no_grad():
        read.query.copy_(normal(channels, channels, seed=1))
        read.key_scale.copy_(normal(channels, seed=2))
    return read


def make_dkvmr(channels, n, dimension):
    """Its fusion is the plain convolution."""
    torch.manual_seed(3)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimension]
    read = DKVMR(channels, n, conv, conv(2 * channels, channels, 1)).double()
    if n > 1:
        nn.init.normal_(read.key_scale)
    return read


@every_dimension
@pytest.mark.parametrize("n", [2, 4])
def test_isar_is_its_equations(dimension, n):
    read, memory = make_isar(3, n), maps_of(n, 3, dimension)

    def at_a_position(vs):
        return read_of_one_position(read.query @ vs[-1], vs, vs, read.key_scale)

    found = read(memory, return_weights=True)
    assert_same(found, at_each_position(at_a_position, memory), [*memory, read.query, read.key_scale])
    assert torch.equal(read(memory), found[0])


@every_dimension
@pytest.mark.parametrize(("n", "channels"), [(2, 3), (3, 18)])
def test_dkvmr_is_its_equations(dimension, n, channels):
    read, blocks = make_dkvmr(channels, n, dimension), maps_of(n, channels, dimension)
    below = normal(2, channels, *SIZES[dimension], seed=5)
    d = {3: 8, 18: 9}[channels]  # max(8, C / 2)
    key_value, query, fusion = (m.weight.flatten(1) for m in (read.key_value, read.query, read.fusion))
    assert key_value.shape == (d + channels, channels) and query.shape == (d, channels)

    def at_a_position(bs, ups):
        keys, values = [key_value[:d] @ b for b in bs], [key_value[d:] @ b for b in bs]
        f, weights = read_of_one_position(query @ ups[0], keys, values, read.key_scale)
        return fusion @ torch.cat((ups[0], f)) + read.fusion.bias, weights

    found = read(blocks, below, return_weights=True)
    parameters = [p for name, p in read.named_parameters() if name != "fusion.bias"]
    assert_same(found, at_each_position(at_a_position, blocks, [below]), [*blocks, below, *parameters])
    assert torch.equal(read(blocks, below), found[0])


@every_dimension
def test_a_query_of_zero_is_the_mean_of_the_memory(dimension):
    read, memory = ISAR(4, 3).double(), maps_of(3, 4, dimension)
    out, weights = read(memory, return_weights=True)
    torch.testing.assert_close(out, sum(memory) / 3)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))


def test_a_memory_of_one_map_twice_is_exactly_the_identity():
    """The authors' code with two blocks: whatever the query is, it has no influence and no gradient."""
    read, x = make_isar(4, 2).float(), torch.randn(2, 4, 5, 5)
    out = read([x, x])
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert read.query.grad.abs().max() < 1e-5 < make_gradient_of_a_query()


def make_gradient_of_a_query():
    """The largest entry of the gradient of a query that has something to choose, in the same setting."""
    read = make_isar(4, 2).float()
    read([torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5)]).square().sum().backward()
    return read.query.grad.abs().max()


def test_a_stage_of_one_block_has_no_query_and_its_value_is_the_read():
    read, (block,), below = make_dkvmr(4, 1, 2), maps_of(1, 4, 2), normal(2, 4, *SIZES[2], seed=5)
    assert {name for name, _ in read.named_parameters()} == {"key_value.weight", "fusion.weight", "fusion.bias"}
    out, weights = read([block], below, return_weights=True)
    torch.testing.assert_close(out, read.fusion(torch.cat((below, read.key_value(block)), 1)))
    assert torch.equal(weights, torch.ones(2, 1, *SIZES[2], dtype=torch.float64))


def test_scores_and_softmax_are_float32_inside_autocast():
    """Scores that half precision could not hold apart: the weights are those of float32 all the same."""
    isar, dtype = ISAR(4, 2), torch.bfloat16
    nn.init.eye_(isar.query)
    # exact in bfloat16, and so is q; their scores differ by less than bfloat16's step at their size
    x = torch.full((1, 4, 2, 2), 64.0)
    other = torch.tensor([64.0, 64.0, 64.0, 60.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2).contiguous()
    expected = isar([other, x], return_weights=True)[1]
    scores = torch.stack([64 * 4 / 2 * x.new_ones(()), 32 * other[0, :, 0, 0].sum() / other.square().mean().sqrt()])
    assert torch.equal(scores.to(dtype)[0], scores.to(dtype)[1]) and scores[0] - scores[1] > 0.04
    with torch.autocast("cpu", dtype=dtype):
        out, weights = isar([other.to(dtype), x.to(dtype)], return_weights=True)
    assert out.dtype is dtype and weights.dtype is torch.float32
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-6)

    dkvmr = make_dkvmr(4, 2, 2).float()
    with torch.autocast("cpu", dtype=dtype):
        fused, weights = dkvmr([other, x], x, return_weights=True)
    assert fused.dtype is dtype and weights.dtype is torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 2, 2), rtol=1e-6, atol=1e-6)  # bfloat16 is off by 1e-3


@pytest.mark.parametrize("without", [0, 1, 2])
def test_a_source_that_is_left_out_is_gone(without):
    isar, memory = make_isar(4, 3), maps_of(3, 4, 2)
    dkvmr, below = make_dkvmr(4, 3, 2), normal(2, 4, *SIZES[2], seed=5)
    kept = [n for n in range(3) if n != without]
    for found, weights in (isar(memory, return_weights=True), dkvmr(memory, below, return_weights=True)):
        assert found.shape == memory[0].shape and weights.shape[1] == 3
    _, all_weights = isar(memory, return_weights=True)
    out, weights = isar(memory, return_weights=True, without=without)
    expected = all_weights[:, kept] / all_weights[:, kept].sum(1, keepdim=True)
    torch.testing.assert_close(weights[:, kept], expected)
    assert weights.shape == all_weights.shape and not weights[:, without].any()
    torch.testing.assert_close(out, sum(a.unsqueeze(1) * v for a, v in zip(weights.unbind(1), memory)))
    _, weights = dkvmr(memory, below, return_weights=True, without=without)
    assert weights.shape[1] == 3 and not weights[:, without].any() and weights[:, kept].all()
    other = [x + 1 if n == without else x for n, x in enumerate(memory)]
    assert torch.equal(dkvmr(memory, below, without=without), dkvmr(other, below, without=without))


def test_what_a_read_was_not_built_for_is_refused():
    with pytest.raises(ValueError, match="n_sources is 1; a memory that is read holds 2 maps or more"):
        ISAR(4, 1)
    with pytest.raises(ValueError, match="n_sources is 0; an encoder stage has 1 block or more"):
        DKVMR(4, 0, nn.Conv2d, nn.Identity())
    isar, dkvmr = ISAR(4, 2), make_dkvmr(4, 2, 2).float()
    x = torch.zeros(2, 4, 5, 5)
    for memory, message in (
        ([x], "memory: 1 maps, this read was built for 2"),
        ([x, x[:, :3]], r"memory: map 1 has shape \(2, 3, 5, 5\); expected 4 channels"),
        ([x, x[:1]], r"map 1 has shape \(1, 4, 5, 5\).*the first has \(2, 4, 5, 5\)"),  # it would be broadcast
        ([x, x[..., :1]], r"map 1 has shape \(2, 4, 5, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            isar(memory)
        with pytest.raises(ValueError, match="blocks and the map below"):
            dkvmr(memory, x)
    with pytest.raises(ValueError, match=r"map 2 has shape \(2, 4, 1, 1\)"):
        dkvmr([x, x], x[..., :1, :1])
    with pytest.raises(ValueError, match="without is 2, but there are the sources 0 to 1"):
        isar([x, x], without=2)
    with pytest.raises(ValueError, match="source 0 cannot be left out: it is the only one"):
        make_dkvmr(4, 1, 2).float()([x], x, without=0)
    with pytest.raises(ValueError, match="source 1 cannot be left out: it is the only one"):
        isar([x, x], without=1)
