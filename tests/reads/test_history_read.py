"""The read as a module: parameters, start, contracts with nnU-Net's initialisation, errors."""

import copy
import re

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from helpers.networks import make_network
from helpers.reads import AUTOCAST_DTYPES, needs_operators
from torch import nn

from nnunet_xattnres import HistoryRead
from nnunet_xattnres.ops.reference import history_read


def make_pool():
    torch.manual_seed(0)
    return [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)]


def make_module():
    torch.manual_seed(1)
    return HistoryRead((4, 8, 8), 8, nn.Conv2d, direct=(1,))


def test_parameters():
    read = make_module()
    shapes = {name: tuple(p.shape) for name, p in read.named_parameters()}
    assert shapes == {
        "pseudo_query": (8,),
        "key_scale": (8,),
        "projections.0.weight": (8, 4, 1, 1),
        "projections.2.weight": (8, 8, 1, 1),
    }
    assert isinstance(read.projections[1], nn.Identity)


def test_forward_is_the_reference_with_its_parameters():
    read, pool = make_module(), make_pool()
    nn.init.normal_(read.pseudo_query)
    projections = [read.projections[0].weight.flatten(1), None, read.projections[2].weight.flatten(1)]
    expected = history_read(pool, projections, read.pseudo_query, read.key_scale, (4, 4), return_weights=True)
    result, weights = read(pool, (4, 4), return_weights=True)
    torch.testing.assert_close(result, expected[0])
    torch.testing.assert_close(weights, expected[1])
    torch.testing.assert_close(read(pool, (4, 4)), result)  # the fast path


@pytest.mark.parametrize("without", [0, 1, 2])
def test_the_weight_of_a_source_that_is_left_out_is_zero(without):
    """And stays at its place: the names of the sources are those of the whole pool."""
    read, pool = make_module(), make_pool()
    nn.init.normal_(read.pseudo_query)
    whole, weights = (read(pool, (4, 4), return_weights=True, without=k)[1].detach() for k in (None, without))
    kept = [k for k in range(3) if k != without]
    torch.testing.assert_close(weights[:, kept], whole[:, kept] / whole[:, kept].sum(1, keepdim=True))
    assert weights.shape == whole.shape and not weights[:, without].any()


@needs_operators  # the reference projects in autocast's precision
@pytest.mark.parametrize("dtype", AUTOCAST_DTYPES)
@pytest.mark.parametrize("gated", [False, True])
def test_autocast_changes_nothing_of_float32_maps(gated, dtype):
    """Neither the read nor the weights nor the gate: float32 stays float32."""
    torch.manual_seed(2)
    read, pool = HistoryRead((4, 8, 8), 8, nn.Conv2d, direct=(1,), gated=gated), make_pool()
    for p in read.parameters():
        nn.init.normal_(p)
    with torch.no_grad():
        expected = read(pool, (4, 4), skip=1, below=pool[1], return_weights=True)
        with torch.autocast("cpu", dtype=dtype):
            found = read(pool, (4, 4), skip=1, below=pool[1], return_weights=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_start_is_the_mean_and_survives_nnunets_initialisation():
    read, pool = make_module(), make_pool()
    before = read.projections[0].weight.clone()
    read.apply(PlainConvUNet.initialize)
    assert not torch.equal(read.projections[0].weight, before), "initialize did not reach the convolutions"
    assert not read.pseudo_query.any() and torch.equal(read.key_scale, torch.ones(8))
    _, weights = read(pool, (4, 4), return_weights=True)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))


def test_a_deepcopy_after_a_backward_computes_the_same_and_shares_nothing():
    read, pool = make_module(), make_pool()
    nn.init.normal_(read.pseudo_query)
    read(pool, (4, 4)).square().sum().backward()
    twin = copy.deepcopy(read)
    twin.zero_grad()
    twin(pool, (4, 4)).square().sum().backward()
    for p, q in zip(read.parameters(), twin.parameters(), strict=True):
        assert p is not q and torch.equal(p, q) and torch.equal(p.grad, q.grad)
    with torch.no_grad():
        twin.pseudo_query.add_(1)
    assert not torch.equal(twin(pool, (4, 4)), read(pool, (4, 4)))


def test_every_parameter_gets_a_gradient():
    read, pool = make_module(), make_pool()
    nn.init.normal_(read.pseudo_query)
    read(pool, (4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in read.parameters())


def test_a_pool_of_one_is_the_identity_without_parameters():
    read = HistoryRead((8,), 8, nn.Conv3d, direct=(0,))
    h = torch.randn(1, 8, 2, 3, 4)
    result, weights = read([h], (2, 3, 4), return_weights=True)
    assert torch.equal(result, h) and torch.equal(weights, torch.ones(1, 1, 2, 3, 4))
    assert not list(read.parameters())


def test_a_pool_of_one_that_needs_aligning_learns_its_projection_only():
    read = HistoryRead((4,), 8, nn.Conv2d)
    read([torch.randn(1, 4, 4, 4)], (8, 8)).sum().backward()
    assert [name for name, _ in read.named_parameters()] == ["projections.0.weight"]
    assert read.projections[0].weight.grad.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HistoryRead((), 8, nn.Conv2d), "at least one source"),
        (lambda: HistoryRead((4, 8), 8, nn.Conv2d, direct=(0,)), "source 0 cannot be direct: it has 4 channels"),
        (lambda: HistoryRead((4, 8), 8, nn.Conv2d, direct=(2,)), "direct names source 2, but there are 2"),
    ],
)
def test_impossible_reads_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pool: pool[:2], "the pool has 2 maps, this read was built for 3"),
        (lambda pool: [pool[1], *pool[1:]], r"source 0 has shape \(2, 8, 4, 4\); expected \(batch, 4"),
        (lambda pool: [pool[0][..., None], *pool[1:]], "expected .batch, 4, and 2 spatial axes"),
        (lambda pool: [pool[0], pool[1][..., :2], pool[2]], r"source 1 is direct but has the spatial size \(4, 2\)"),
    ],
)
def test_a_pool_that_does_not_fit_is_named(spoil, message):
    with pytest.raises(ValueError, match=message):
        make_module()(spoil(make_pool()), (4, 4))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("without", [None, 0])
@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda pool: [*pool[:2], pool[2][:1]], {}, "source 2 has shape (1, 8, 2, 2), a batch of 1, but source 0 has"),
        (lambda pool: [pool[0][:1], *pool[1:]], {}, "source 1 has shape (2, 8, 4, 4), a batch of 2, but source 0 has"),
        (lambda pool: [*pool[:2], pool[2].int()], {}, "source 2 is of torch.int32"),
        (lambda pool: [*pool[:2], pool[2].to("meta")], {}, "source 2 is on meta, but source 0 is on cpu"),
        (list, {"skip": 3}, "skip is 3, but the pool has the sources 0 to 2"),
        (list, {"skip": -2}, "skip is -2, but the pool has the sources 0 to 2"),
        (list, {"skip": 2}, "source 2 cannot be the skip: it is not direct; this read's direct sources are [1]"),
        (list, {"below": torch.randn(1, 3, 4, 4)}, "below has shape (1, 3, 4, 4); expected a batch of 2"),
        (list, {"below": torch.randn(2, 3, 1, 4)}, "below has shape (2, 3, 1, 4); expected a batch of 2"),
        (list, {"below": torch.ones(2, 3, 4, 4, dtype=torch.int32)}, "below is of torch.int32"),
        (list, {"without": 3}, "without is 3, but the pool has the sources 0 to 2"),
        (list, {"without": -1}, "without is -1, but the pool has the sources 0 to 2"),
    ],
)
def test_what_does_not_fit_the_pool_is_named(spoil, options, message, without, gated):
    """By its place in the whole pool, whether or not a source is left out and whatever is put around the read."""
    read = HistoryRead((4, 8, 8), 8, nn.Conv2d, direct=(1,), gated=gated)
    with pytest.raises(ValueError, match=re.escape(message)):
        read(spoil(make_pool()), (4, 4), **{"without": without, **options})


@pytest.mark.parametrize(
    ("pool", "options", "message"),
    [
        (make_pool()[:2], {}, "the pool has 2 maps"),
        ([*make_pool()[:2], make_pool()[0]], {}, "source 2 has shape"),
        ([make_pool()[0], make_pool()[2], make_pool()[2]], {}, "source 1 is direct but"),
        (make_pool(), {"skip": 3}, "skip is 3"),
        (make_pool(), {"skip": 0}, "source 0 cannot be the skip"),
        (make_pool(), {"without": 3}, "without is 3"),
    ],
)
def test_a_read_with_a_name_begins_its_errors_with_it(pool, options, message):
    read = make_module()
    read.name = "d2"
    with pytest.raises(ValueError, match=f"^the read d2: {message}"):
        read(pool, (4, 4), **options)


@pytest.mark.parametrize(("encoder", "kind"), [("plain conv", "add"), ("own", "emcad_xattnres")])
def test_the_reads_of_a_network_have_the_names_of_their_stages(encoder, kind):
    reads = make_network(2, encoder, kind).reads
    assert len(reads) and all(read.name == name for name, read in reads.items())


def test_the_only_source_cannot_be_left_out():
    with pytest.raises(ValueError, match="source 0 cannot be left out: it is the only one"):
        HistoryRead((4,), 8, nn.Conv2d)([torch.randn(1, 4, 4, 4)], (8, 8), without=0)
