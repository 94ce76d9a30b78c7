"""What is no read: every path refuses it with the same words, before it computes anything."""

import re

import pytest
import torch

from nnunet_xattnres import ops
from nnunet_xattnres.ops import arguments, operator, reference, resize

PATHS = {"reference": reference, "operator": operator, "ops": ops}
every_path = pytest.mark.parametrize("path", PATHS)


def good():
    """A read with everything: its arguments by name."""
    return {
        "pool": [torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2)],
        "projections": [torch.randn(4, 3), None, torch.randn(4, 6)],
        "pseudo_query": torch.randn(4),
        "key_scale": torch.randn(4),
        "size": (4, 4),
        "skip": 1,
        "below": torch.randn(2, 5, 4, 4),
    }


def change(**changes):
    return lambda read: read.update({name: make(read[name]) for name, make in changes.items()})


def at(k, make):
    """The list with another item k."""
    return lambda items: [make(x) if i == k else x for i, x in enumerate(items)]


def shaped(*shape):
    return lambda _: torch.randn(*shape)


def value(x):
    return lambda _: x


def one_axis(read):
    read["pool"] = [h[..., 0] for h in read["pool"]]
    read |= {"size": (4,), "skip": None, "below": None}


BAD = {
    "an empty pool": (change(pool=value([]), projections=value([])), "the pool is empty: a read needs at least one"),
    "one axis": (one_axis, "size is (4,); expected 2 or 3 spatial axes"),
    "four axes": (change(size=value((4, 4, 4, 4))), "size is (4, 4, 4, 4); expected 2 or 3 spatial axes"),
    "a size of zero": (change(size=value((4, 0))), "size is (4, 0); every axis needs at least one position"),
    "a negative size": (change(size=value((-1, 4))), "size is (-1, 4); every axis needs at least one position"),
    "too few projections": (change(projections=lambda p: p[:2]), "there are 2 projections for 3 maps: give one for"),
    "too many projections": (change(projections=lambda p: [*p, None]), "there are 4 projections for 3 maps: give one"),
    "a map of three axes": (
        change(pool=at(2, shaped(2, 6, 2, 2, 2))),
        "source 2 has shape (2, 6, 2, 2, 2); for the size (4, 4) expected (batch, channels, and 2 spatial axes)",
    ),
    "a map without positions": (
        change(pool=at(0, shaped(2, 3, 0, 8))),
        "source 0 has shape (2, 3, 0, 8); it needs at least one channel and one position",
    ),
    "batch 1 beside 2": (
        change(pool=at(2, shaped(1, 6, 2, 2))),
        "source 2 has shape (1, 6, 2, 2), a batch of 1, but source 0 has a batch of 2: all maps must be of the same",
    ),
    "batch 2 beside 1": (
        change(pool=at(0, shaped(1, 3, 8, 8))),
        "source 1 has shape (2, 4, 4, 4), a batch of 2, but source 0 has a batch of 1",
    ),
    "integers": (
        change(pool=at(1, shaped(2, 4, 4, 4)), below=lambda x: x.long()),
        "below is of torch.int64; expected a floating dtype, as float() gives",
    ),
    "a map of integers": (change(pool=at(2, lambda h: h.int())), "source 2 is of torch.int32; expected a floating"),
    "a complex query": (change(pseudo_query=lambda w: w.cfloat()), "pseudo_query is of torch.complex64; expected a"),
    "a scale of integers": (change(key_scale=lambda g: g.int()), "key_scale is of torch.int32; expected a floating"),
    "a projection of integers": (
        change(projections=at(0, lambda p: p.int())),
        "the projection of source 0 is of torch.int32; expected a floating dtype",
    ),
    "a map elsewhere": (
        change(pool=at(1, lambda h: h.to("meta"))),
        "source 1 is on meta, but source 0 is on cpu: move them to one device",
    ),
    "a projection elsewhere": (
        change(projections=at(2, lambda p: p.to("meta"))),
        "the projection of source 2 is on meta, but source 0 is on cpu",
    ),
    "a query elsewhere": (change(pseudo_query=lambda w: w.to("meta")), "pseudo_query is on meta, but source 0 is on"),
    "a scale elsewhere": (change(key_scale=lambda g: g.to("meta")), "key_scale is on meta, but source 0 is on cpu"),
    "below elsewhere": (change(below=lambda x: x.to("meta")), "below is on meta, but source 0 is on cpu"),
    "a query of two axes": (
        change(pseudo_query=shaped(1, 4), key_scale=shaped(1, 4)),
        "pseudo_query has shape (1, 4); expected (C), one for each channel",
    ),
    "a query of no number": (
        change(pseudo_query=shaped(0), key_scale=shaped(0)),
        "pseudo_query has shape (0,); expected (C), one for each channel",
    ),
    "a query that is a number": (change(pseudo_query=value(torch.tensor(1.0))), "pseudo_query has shape (); expected"),
    "a scale that would be broadcast": (
        change(key_scale=shaped(1)),
        "key_scale has shape (1,); expected (4,), as pseudo_query",
    ),
    "a projection of other channels": (
        change(projections=at(0, shaped(4, 2))),
        "the projection of source 0 has shape (4, 2); expected (4, 3), the channels of the read and of the source",
    ),
    "a projection to other channels": (
        change(projections=at(2, shaped(5, 6))),
        "the projection of source 2 has shape (5, 6); expected (4, 6)",
    ),
    "the weight of a convolution": (
        change(projections=at(0, shaped(4, 3, 1, 1))),
        "the projection of source 0 has shape (4, 3, 1, 1); expected (4, 3), the channels of the read and of the "
        "source (of a 1x1 convolution: weight.flatten(1))",
    ),
    "other channels, no projection": (
        change(projections=at(2, value(None))),
        "source 2 has no projection, but 6 channels; the read has 4: it needs a projection (4, 6)",
    ),
    "a skip that is not there": (change(skip=value(3)), "skip is 3, but the pool has the sources 0 to 2"),
    "a negative skip": (change(skip=value(-2)), "skip is -2, but the pool has the sources 0 to 2"),
    "a skip that needs a projection": (
        change(projections=at(1, shaped(4, 4))),
        "source 1 cannot be the skip: it has a projection; only a map that is read as it is can be added",
    ),
    "a skip of another size": (
        change(pool=at(1, shaped(2, 4, 2, 4))),
        "source 1 cannot be the skip: it has the spatial size (2, 4) instead of (4, 4); resize it before, or add it",
    ),
    "below for a batch of one": (
        change(below=shaped(1, 5, 4, 4)),
        "below has shape (1, 5, 4, 4); expected a batch of 2, any channels and the spatial size (4, 4): it is not "
        "broadcast, expand() it",
    ),
    "below of one position": (change(below=shaped(2, 5, 1, 4)), "below has shape (2, 5, 1, 4); expected a batch of 2"),
    "below that is a number": (change(below=value(torch.tensor(1.0))), "below has shape (); expected a batch of 2"),
    "below without a batch": (change(below=shaped(5, 4, 4)), "below has shape (5, 4, 4); expected a batch of 2, any"),
}


@every_path
@pytest.mark.parametrize("case", BAD)
def test_no_read(case, path):
    spoil, message = BAD[case]
    read = good()
    spoil(read)
    with pytest.raises(ValueError, match=re.escape(message)):
        PATHS[path].history_read(**read)


@every_path
def test_what_is_spoilt_above_is_a_read(path):
    assert PATHS[path].history_read(**good()).shape == (2, 9, 4, 4)


@every_path
def test_one_check_a_read(path, monkeypatch):
    calls = []
    for module in (reference, operator):
        monkeypatch.setattr(module, "check_read", lambda *_, **options: calls.append(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        PATHS[path].history_read(**good())
    assert len(calls) == 1


@pytest.mark.parametrize("module", [reference, resize, ops])
@pytest.mark.parametrize(
    ("x", "sizes", "message"),
    [
        (torch.randn(2, 3, 8), [(4,)], "x has shape (2, 3, 8); expected (batch, channels, and 2 or 3 spatial axes)"),
        (torch.randn(2, 3, 8, 8), [(4, 4), (4, 4, 4)], "x has shape (2, 3, 8, 8); for the size (4, 4, 4) expected"),
        (torch.randn(2, 3, 8, 8), [(4,)], "size is (4,); expected 2 or 3 spatial axes"),
        (torch.randn(2, 3, 8, 8), [(4, 0)], "size is (4, 0); every axis needs at least one position"),
        (torch.randn(2, 3, 8, 0), [], "x has shape (2, 3, 8, 0); it needs at least one channel and one position"),
        (torch.ones(2, 3, 8, 8, dtype=torch.uint8), [(4, 4)], "x is of torch.uint8; expected a floating dtype"),
    ],
)
def test_no_resize(module, x, sizes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        module.resize_to_each(x, sizes)


@every_path
def test_a_bad_read_is_refused_while_it_is_traced(path):
    """fullgraph: the error comes as torch's, with ours in it; a good one leaves no trace (test_a_batch_of_any_size)."""
    read = good()
    BAD["batch 1 beside 2"][0](read)
    compiled = torch.compile(PATHS[path].history_read, fullgraph=True, backend="eager")
    compiled(**good())
    # an older torch may name the class alone
    words = BAD["batch 1 beside 2"][1] if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14) else "ValueError"
    with pytest.raises(Exception, match=re.escape(words)):
        compiled(**read)


def read_of_one_input(x):
    """A decoder's read, of which all maps come from one tensor."""
    half, quarter = x[..., ::2, ::2], x[..., ::4, ::4]
    w = torch.ones(x.shape[1])
    p = torch.eye(x.shape[1])
    return operator.history_read([x, half, quarter], [None, p, None], w, w, x.shape[2:], skip=0, below=x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_batch_of_any_size(backend):
    """Neither the check nor an operator ties a graph to a batch: mark_dynamic raises if one does."""
    torch._dynamo.reset()
    compiled = torch.compile(read_of_one_input, fullgraph=True, backend=backend)
    for batch in (2, 3, 5):
        x = torch.randn(batch, 4, 8, 8)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(compiled(x), read_of_one_input(x))


def test_the_check_leaves_nothing_in_a_graph():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def check(read):
        arguments.check_read(**read)
        return read["below"] + 1

    torch.compile(check, fullgraph=True, backend=backend)(good())
    assert [node.op for node in graphs[0].graph.nodes] == ["placeholder", "call_function", "output"]
