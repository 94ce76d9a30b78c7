"""Weights are recorded as they are, nothing stays on the network, and a knocked-out source is gone."""

import pytest
import torch
from helpers.networks import make_input, make_network

from nnunet_xattnres.ops import reference
from nnunet_xattnres.reads.history import source_names
from nnunet_xattnres.reads.recorder import knocked_out, recorded

MODES = ("add", "replace", "gated")


def hooks_of(network):
    return [h for m in network.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


def reads_by_the_reference(network, x):
    """The pools, the sizes, and the weights of every read, from the inputs that a hook sees."""
    seen = {}

    def look(name):
        def hook(read, args, options):
            pool, size = args
            projections = [None if k in read.direct else p.weight.flatten(1) for k, p in enumerate(read.projections)]
            arguments = [h.double() for h in pool], [None if p is None else p.double() for p in projections]
            query, scale = read.pseudo_query.double(), read.key_scale.double()
            seen[name] = reference.history_read(*arguments, query, scale, size, return_weights=True)[1]

        return hook

    hooks = [r.register_forward_pre_hook(look(name), with_kwargs=True) for name, r in network.reads.items()]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dimension", "encoder"), [(3, "plain conv"), (2, "residual")])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_weights_of_every_read_and_the_same_outputs(mode, dimension, encoder, gradients):
    network = make_network(dimension, encoder, mode)
    x, found = make_input(network), {}
    expected = reads_by_the_reference(network, x)
    with torch.set_grad_enabled(gradients):
        before = network(x)
        with recorded(network, found.__setitem__):
            outputs = network(x)
    # while gradients are recorded, weights come from another path of the operator; in prediction, from the same one
    torch.testing.assert_close(outputs, before, rtol=1e-4 if gradients else 0, atol=1e-5 if gradients else 0)
    assert list(found) == list(network.reads) == list(source_names(network))
    for name, weights in found.items():
        assert weights.shape[1] == len(source_names(network)[name])
        torch.testing.assert_close(weights.double(), expected[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))
    assert not hooks_of(network)


def test_hooks_come_off_when_something_fails():
    network = make_network(2, "plain conv", "add")
    with pytest.raises(ZeroDivisionError), recorded(network, lambda *_: 1 / 0):
        network(make_input(network))
    with pytest.raises(KeyError), knocked_out(network, "d9", 0):
        pass
    assert not hooks_of(network)


def test_names_of_sources():
    network = make_network(2, "plain conv", "add", n_stages=4)
    assert source_names(network) == {
        "e3": ["e1", "e2"],
        "e4": ["e1", "e2", "e3"],
        "d1": ["e1", "e2", "e3", "e4"],
        "d2": ["e1", "e2", "e3", "e4", "d1"],
        "d3": ["e1", "e2", "e3", "e4", "d1", "d2"],
    }
    assert source_names(make_network(2, "plain conv", "none")) == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", [0, 1, 3])
def test_a_source_that_is_knocked_out_weighs_nothing_and_the_skip_stays(mode, source):
    """Scores of minus infinity in the reference are another way to leave a source out."""
    network = make_network(2, "plain conv", mode).double()
    x = make_input(network).double()
    read = network.reads["d1"]
    with torch.no_grad():
        pool = []
        hook = read.register_forward_pre_hook(lambda _m, args, _o: pool.extend([args]), with_kwargs=True)
        before = network(x)
        hook.remove()
        (maps, size), outputs = pool[0], {}
        handle = read.register_forward_hook(lambda _m, _a, out: outputs.update(out=out))
        with knocked_out(network, "d1", source):
            after = network(x)
        handle.remove()
        projections = [None if k in read.direct else p.weight.flatten(1) for k, p in enumerate(read.projections)]
        values = [h if p is None else torch.einsum("ck,bk...->bc...", p, h) for h, p in zip(maps, projections)]
        values = [v if v.shape[2:] == size else resize(v, size) for v in values]
        scores = torch.stack([score(v, read) for v in values])
        scores[source] = -torch.inf
        expected = (scores.softmax(0).unsqueeze(2) * torch.stack(values)).sum(0)
        if read.gate is not None:
            expected = expected * read.gate.view(-1, 1, 1)
        if mode != "replace":
            expected = expected + maps[2]
    torch.testing.assert_close(outputs["out"][:, -read.target_channels :], expected)
    assert not torch.equal(before[0], after[0])
    torch.testing.assert_close(network(x), before)
    assert not hooks_of(network)


def resize(v, size):
    mode = "bilinear" if all(a <= b for a, b in zip(v.shape[2:], size)) else "area"
    return torch.nn.functional.interpolate(v, size=size, mode=mode)


def score(v, read):
    normed = v / (v.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return torch.einsum("c,bc...->b...", read.pseudo_query * read.key_scale, normed)
