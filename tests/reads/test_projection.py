"""A projection is called like any module: what acts on its weight takes effect, and what is none is refused by name."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from helpers.networks import make_input, make_network
from helpers.reads import needs_operators
from torch import nn
from torch.nn.utils import parametrize, prune

from nnunet_xattnres import HistoryRead
from nnunet_xattnres.reads.projection import Projection2d, Projection3d

METHOD = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
EXAMPLE = {}
(LORA,) = (block for block in METHOD.split("```") if "class LoRA" in block)
exec(LORA.removeprefix("python\n"), EXAMPLE)  # (C, r) times (r, C_k), that starts at nothing
LoRA, add_lora = EXAMPLE["LoRA"], EXAMPLE["add_lora"]


def make_read():
    torch.manual_seed(0)
    read = HistoryRead((4, 8, 8), 8, nn.Conv2d, direct=(1,))
    nn.init.normal_(read.pseudo_query)
    return read, [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)]


def read_with(read, pool, weight):
    """With another weight of source 0."""
    twin = HistoryRead((4, 8, 8), 8, nn.Conv2d, direct=(1,))
    twin.load_state_dict({
        "pseudo_query": read.pseudo_query,
        "key_scale": read.key_scale,
        "projections.0.weight": weight,
        "projections.2.weight": read.projections[2].weight,
    })  # fmt: skip
    return twin(pool, (4, 4))


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_it_is_the_convolution_that_it_was(conv_op):
    """For nnU-Net's initialisation, for a state dict and for the random numbers that it takes."""
    torch.manual_seed(0)
    plain, after = conv_op(3, 5, 1, bias=False), torch.rand(1)
    torch.manual_seed(0)
    projection = HistoryRead((3,), 5, conv_op).projections[0]
    assert torch.equal(torch.rand(1), after)
    assert isinstance(projection, conv_op) and type(projection) in (Projection2d, Projection3d)
    assert torch.equal(projection.weight, plain.weight) and list(projection.state_dict()) == ["weight"]
    assert torch.equal(projection(), plain.weight)


def test_pruning():
    read, pool = make_read()
    before = read(pool, (4, 4))
    prune.l1_unstructured(read.projections[0], "weight", amount=0.5)
    weight = read.projections[0].weight.detach().clone()
    assert (weight == 0).sum() == weight.numel() // 2
    found = read(pool, (4, 4))
    torch.testing.assert_close(found, read_with(read, pool, weight))
    assert not torch.allclose(found, before)
    found.square().sum().backward()
    assert read.projections[0].weight_orig.grad.any()
    with torch.no_grad():
        read.projections[0].weight_orig.mul_(2)  # a step of the optimizer: the weight is made anew at the next call
    torch.testing.assert_close(read(pool, (4, 4)), read_with(read, pool, 2 * weight))
    prune.remove(read.projections[0], "weight")
    torch.testing.assert_close(read(pool, (4, 4)), read_with(read, pool, 2 * weight))


@pytest.mark.parametrize("norm", ["weight_norm", "parametrizations.weight_norm", "spectral_norm", "orthogonal"])
def test_norms_of_the_weight(norm):
    read, pool = make_read()
    module = read.projections[0]
    if norm == "weight_norm":
        torch.nn.utils.weight_norm(module)
    else:
        getattr(torch.nn.utils.parametrizations, norm.rpartition(".")[2])(module)
    parameters = list(module.parameters())
    before = read(pool, (4, 4))
    before.square().sum().backward()
    assert all(p.grad is not None for p in parameters)
    with torch.no_grad():
        parameters[0].add_(torch.rand_like(parameters[0]))
    read.eval()
    found = read(pool, (4, 4))
    weight = module.weight.detach()
    torch.testing.assert_close(found, read_with(read, pool, weight))


def test_a_change_of_low_rank():
    read, pool = make_read()
    before = read(pool, (4, 4))
    add_lora(read)
    assert torch.equal(read(pool, (4, 4)), before)
    optimizer = torch.optim.SGD([p for p in read.projections.parameters() if p.requires_grad], lr=1.0)
    read(pool, (4, 4)).square().sum().backward()
    optimizer.step()
    change = read.projections[0].parametrizations.weight[0]
    assert change.up.any()
    found = read(pool, (4, 4))
    weight = read.projections[0].parametrizations.weight.original + (change.up @ change.down)[..., None, None]
    torch.testing.assert_close(found, read_with(read, pool, weight))
    twin = copy.deepcopy(read)
    assert torch.equal(twin(pool, (4, 4)), found)
    parametrize.remove_parametrizations(read.projections[0], "weight")  # the merged weight, under its old key
    assert torch.equal(read.projections[0].weight, weight) and type(read.projections[0]) is Projection2d


def test_hooks():
    read, pool = make_read()
    seen = []
    read.projections[0].register_forward_pre_hook(lambda module, args: seen.append(args))
    read.projections[0].register_forward_hook(lambda module, args, weight: 2 * weight)
    found = read(pool, (4, 4))
    assert seen == [()]
    torch.testing.assert_close(found, read_with(read, pool, 2 * read.projections[0].weight))


class Wrapper(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self):
        return self.base() / 2


def test_a_wrapper_that_gives_a_weight():
    read, pool = make_read()
    weight = read.projections[0].weight
    read.projections[0] = Wrapper(read.projections[0])
    torch.testing.assert_close(read(pool, (4, 4)), read_with(read, pool, weight / 2))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(2, 8, 1), "is a Conv2d, which computes a map; expected"),
        (nn.Sequential(nn.Conv2d(2, 8, 1)), "is a Sequential, which computes a map; expected"),
        (Wrapper(lambda: torch.ones(8, 2, 1, 1)), r"gave the shape \(8, 2, 1, 1\); expected"),
        (Wrapper(lambda: torch.ones(2, 8)), r"gave the shape \(2, 8\); expected"),
    ],
)
def test_what_is_no_projection_is_named(module, message):
    network = make_network(2, "plain conv", "add", n_stages=3, features_per_stage=[2, 4, 8], strides=[1, 2, 2],
                           kernel_sizes=3, n_conv_per_stage=1, n_conv_per_stage_decoder=1)  # fmt: skip
    network.reads["d1"].projections[0] = module
    expected = f"the read d1: the projection of source 0 {message}.*returns its weight, \\(4, 2\\)"
    with pytest.raises(ValueError, match=expected):
        network(make_input(network))


def test_nothing_at_all_is_named_for_a_read_alone():
    read, pool = make_read()
    read.projections[2].register_forward_hook(lambda *_: "weight")
    with pytest.raises(ValueError, match=r"the projection of source 2 gave a str; expected .*weight, \(8, 8\)"):
        read(pool, (4, 4))


@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_a_read_that_was_pickled_with_convolutions(conv_op):
    read = HistoryRead((4, 8), 8, conv_op, direct=(1,))
    size = (4,) * (2 if conv_op is nn.Conv2d else 3)
    pool = [torch.randn(1, 4, *size), torch.randn(1, 8, *size)]
    expected = read(pool, size)
    plain = conv_op(4, 8, 1, bias=False)
    plain.load_state_dict(read.projections[0].state_dict())
    read.projections[0] = plain
    file = io.BytesIO()
    torch.save(read, file)
    file.seek(0)
    for old in (pickle.loads(pickle.dumps(read)), copy.deepcopy(read), torch.load(file, weights_only=False)):
        assert torch.equal(old(pool, size), expected)
        assert torch.equal(pickle.loads(pickle.dumps(old))(pool, size), expected)


def test_an_axis_alone_is_refused():
    with pytest.raises(ValueError, match="conv_op is Conv1d: a read needs maps of 2 or 3 spatial axes"):
        HistoryRead((4, 8), 8, nn.Conv1d)


@needs_operators
def test_a_parametrised_projection_compiles_to_one_graph():
    read, pool = make_read()
    parametrize.register_parametrization(read.projections[0], "weight", LoRA(read.projections[0].weight))
    nn.init.normal_(read.projections[0].parametrizations.weight[0].up)
    torch._dynamo.reset()
    compiled = torch.compile(read, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(pool, (4, 4)), read(pool, (4, 4)))
    torch._dynamo.reset()


def test_every_parameter_of_a_parametrised_network_gets_a_gradient():
    network = make_network(2, "plain conv", "replace")
    for module in list(network.modules()):
        if isinstance(module, Projection2d):
            parametrize.register_parametrization(module, "weight", LoRA(module.weight))
    sum(o.square().mean() for o in network(make_input(network))).backward()
    assert all(p.grad is not None for p in network.parameters())
