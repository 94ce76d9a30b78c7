"""Networks of every kind and any legal topology: they build, compute, learn, save, and read what the reference reads.

100 examples by default; for a release, 2,000: `HYPOTHESIS_PROFILE=release pytest tests/networks/test_topologies.py`.
"""

import io
import os
from unittest.mock import patch

import torch
from helpers.networks import KINDS, make_input, make_network, strides_of, without_dropout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nnunet_xattnres.ops import reference
from nnunet_xattnres.reads.history_read import HistoryRead

OPTIONS = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("default", max_examples=100, derandomize=True, **OPTIONS)
settings.register_profile("release", max_examples=2000, **OPTIONS)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@st.composite
def topologies(draw):
    """The arguments of a network: what nnU-Net's planner may emit, and what a person may write into plans by hand."""
    dimension, n_stages = draw(st.integers(2, 3)), draw(st.integers(2, 8))
    residual = draw(st.booleans())
    # few positions in all, whatever the depth: at most 2^6 in each stage's stride along all axes together
    strides, budget = [[1] * dimension], 6
    for _ in range(n_stages - 1):
        stride = []
        for _ in range(dimension):
            s = draw(st.sampled_from([1, 2, 2, 3] if budget >= 2 else [1, 2] if budget else [1]))
            budget -= {1: 0, 2: 1, 3: 2}[s]
            stride.append(s)
        strides.append(stride)
    blocks = "n_blocks_per_stage" if residual else "n_conv_per_stage"
    per_stage = st.lists(st.integers(1, 2), min_size=n_stages, max_size=n_stages)
    kind = draw(st.sampled_from(list(KINDS)))
    chosen = {"encoder_reads": draw(st.booleans())} if hasattr(KINDS[kind].config, "encoder_reads") else {}
    return {
        "dimension": dimension,
        "encoder": "residual" if residual else "plain conv",
        "kind": kind,
        "input_channels": draw(st.integers(1, 3)),
        "n_stages": n_stages,
        "features_per_stage": draw(st.lists(st.integers(1, 6), min_size=n_stages, max_size=n_stages)),
        "conv_op": [nn.Conv2d, nn.Conv3d][dimension - 2],
        "kernel_sizes": [[draw(st.sampled_from([1, 3])) for _ in range(dimension)] for _ in range(n_stages)],
        "strides": strides,
        blocks: draw(per_stage),
        "num_classes": draw(st.integers(1, 3)),
        "n_conv_per_stage_decoder": draw(per_stage)[1:],
        "conv_bias": draw(st.booleans()),
        "norm_op": [nn.InstanceNorm2d, nn.InstanceNorm3d][dimension - 2],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": draw(st.booleans()),
        **chosen,
    }


def build(topology):
    return without_dropout(make_network(**topology)).double()


def by_the_reference(read, pool, size, skip=None, below=None):
    """What a ``HistoryRead`` must return, from its parameters and the mechanism's formulas."""
    projections = [None if k in read.direct else p.weight.flatten(1) for k, p in enumerate(read.projections)]
    out = reference.history_read(pool, projections, read.pseudo_query, read.key_scale, size)
    if read.gate is not None:
        out = read.gate.view(-1, *[1] * len(size)) * out
    out = out if skip is None else out + pool[skip]
    return out if below is None else torch.cat((below, out), dim=1)


@given(topologies(), st.integers(1, 3))
def test_any_topology(topology, batch):
    network = build(topology)
    x = make_input(network, batch, topology["input_channels"]).double()

    reads, forward = [], HistoryRead.forward

    def checked(self, pool, size, **options):
        found = forward(self, pool, size, **options)
        torch.testing.assert_close(found, by_the_reference(self, pool, size, **options), rtol=1e-10, atol=1e-10)
        reads.append(self)
        return found

    with patch.object(HistoryRead, "forward", checked):
        outputs = network(x)
    of_history = [read for read in getattr(network, "reads", {}).values() if isinstance(read, HistoryRead)]
    assert reads == of_history

    if not topology["deep_supervision"]:
        outputs = [outputs]
    expected = [[n // d for n, d in zip(x.shape[2:], divisors)] for divisors in strides_of(network)[:-1]]
    shapes = [list(o.shape) for o in outputs]
    assert shapes == [[batch, topology["num_classes"], *s] for s in expected[: len(outputs)]]
    assert len(outputs) == (len(expected) if topology["deep_supervision"] else 1)

    sum(o.square().mean() for o in outputs).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), f"{name}: {p.grad}"

    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    twin = build({**topology, "deep_supervision": not topology["deep_supervision"]})
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    twin.load_state_dict(torch.load(buffer), strict=True)
    twin.decoder.deep_supervision = topology["deep_supervision"]
    with torch.inference_mode():
        again = twin(x) if topology["deep_supervision"] else [twin(x)]
    for a, b in zip(outputs, again):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
