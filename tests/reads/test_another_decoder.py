"""The example of docs/method.md: a decoder that is none of ours gets the reads, and all that comes with them."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.ops.reference import history_read as reference
from nnunet_xattnres.reads.history import Stage, reads_of, source_names
from nnunet_xattnres.reads.recorder import knocked_out, recorded
from nnunet_xattnres.reads.shapes import read_shapes
from nnunet_xattnres.training.routing_log import log_routing

PAGE = Path(__file__).parents[2] / "docs" / "method.md"


class Network(nn.Module):
    """An encoder of three stages, and the decoder of the page somewhere inside."""

    def __init__(self, make_decoder):
        super().__init__()
        widths, strides = (4, 6, 8), (1, 2, 4)
        self.encoder = nn.ModuleList(
            nn.Conv2d(c_in, c, 3, stride=1 if i == 0 else 2, padding=1)
            for i, (c_in, c) in enumerate(zip((1, *widths), widths))
        )
        stages = [Stage(f"e{i}", c, (s, s)) for i, (c, s) in enumerate(zip(widths, strides), start=1)]
        self.body = nn.Sequential(make_decoder(stages))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        maps = []
        for stage in self.encoder:
            x = F.relu(stage(x))
            maps.append(x)
        return self.head(self.body(maps))


@pytest.fixture
def network():
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
        if "HistoryRead" in block
    ]
    names = {}
    exec(code, names)
    torch.manual_seed(0)
    network = Network(names["SmallDecoder"])
    for read in reads_of(network).values():
        nn.init.normal_(read.pseudo_query)
    return network


def test_every_stage_reads_all_earlier_ones_and_every_parameter_learns(network):
    assert source_names(network) == {"d1": ["e1", "e2", "e3"], "d2": ["e1", "e2", "e3", "d1"]}
    assert [sorted(read.direct) for read in reads_of(network).values()] == [[1], [0]]
    network(torch.randn(2, 1, 16, 16)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_stage_by_hand(network):
    decoder = network.body[0].double()
    maps = [torch.randn(2, c, n, n).double() for c, n in ((4, 16), (6, 8), (8, 4))]
    pool = list(maps)
    for name, skip in (("d1", maps[1]), ("d2", maps[0])):
        read = decoder.reads[name]
        weights = [None if k in read.direct else p.weight.flatten(1) for k, p in enumerate(read.projections)]
        r = reference(pool, weights, read.pseudo_query, read.key_scale, skip.shape[2:])
        up = decoder.ups[name](pool[-1]).repeat_interleave(2, 2).repeat_interleave(2, 3)
        pool.append(decoder.blocks[name](up + skip + r))
    torch.testing.assert_close(decoder(maps), pool[-1], rtol=1e-10, atol=1e-10)


def test_what_comes_with_it(network, tmp_path):
    x, seen = torch.randn(2, 1, 16, 16), {}
    with recorded(network, seen.__setitem__):
        before = network.eval()(x)
    assert {name: tuple(a.shape) for name, a in seen.items()} == {"d1": (2, 3, 8, 8), "d2": (2, 4, 16, 16)}
    with knocked_out(network, "d2", 1):
        assert not torch.equal(network(x), before)
    log_routing(network, x, 0, tmp_path)
    assert (tmp_path / "xattnres_routing.csv").read_text().count("\n0,") == 7
    if hasattr(torch.library, "custom_op"):
        assert [shape.size for shape in read_shapes(network, (2, 1, 16, 16), torch.device("cpu"))] == [(8, 8), (16, 16)]
