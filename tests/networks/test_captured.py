"""Networks traced, exported and transformed: what comes out is what the network computes, at other sizes, too."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers.networks import make_input, make_network
from torch.autograd import forward_ad

every_case = pytest.mark.parametrize(("dimension", "mode"), list(product([2, 3], ["add", "replace"])))
BLOCKED = """
import sys
sys.modules["nnunet_xattnres"] = sys.modules["dynamic_network_architectures"] = None  # importing it fails
import torch
try:
    import nnunet_xattnres
except ImportError:
    traced = torch.jit.load(sys.argv[1])
    torch.save(traced(torch.load(sys.argv[2])), sys.argv[3])
"""


def make(dimension, mode):
    """A network of three stages of one block, its input, and one of another batch and size."""
    small = {"n_stages": 3, "features_per_stage": [2, 4, 4], "strides": [1, 2, 2], "kernel_sizes": 3}
    blocks = {"n_conv_per_stage": 1, "n_conv_per_stage_decoder": 1}
    network = make_network(dimension, "plain conv", mode, deep_supervision=False, **small, **blocks).eval()
    return network, make_input(network), torch.randn(3, 2, *(12, 16, 20)[:dimension])


@pytest.mark.filterwarnings("ignore")
@every_case
def test_traced(dimension, mode, tmp_path):
    network, x, other = make(dimension, mode)
    traced = torch.jit.trace(network, x)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), network(x))
        torch.testing.assert_close(traced(other), network(other))
    wrong = torch.randn(1, 2, *[18] * dimension)
    with pytest.raises(RuntimeError):
        traced(wrong)
    files = [tmp_path / name for name in ("traced.pt", "image.pt", "logits.pt")]
    traced.save(files[0])
    torch.save(other, files[1])
    subprocess.run([sys.executable, "-c", BLOCKED, *map(str, files)], check=True, cwd=Path(tmp_path))
    torch.testing.assert_close(torch.load(files[2]), network(other))


@pytest.mark.filterwarnings("ignore")
@every_case
def test_the_older_exporter_to_onnx(dimension, mode, tmp_path):
    runtime, file = pytest.importorskip("onnx.reference"), str(tmp_path / "network.onnx")
    network, x, _ = make(dimension, mode)
    options = {"dynamo": False} if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 5) else {}
    torch.onnx.export(network, (x,), file, input_names=["image"], opset_version=17, **options)
    (found,) = runtime.ReferenceEvaluator(file).run(None, {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch.export shows itself since torch 2.7")
@pytest.mark.parametrize(("dimension", "mode"), [(2, "add"), (3, "replace")])  # each takes ten seconds
def test_exported_with_any_batch_and_size(dimension, mode):
    network, x, other = make(dimension, mode)
    sizes = {0: torch.export.Dim("batch")}
    sizes |= {axis: 4 * torch.export.Dim(f"size{axis}", max=64) for axis in range(2, 2 + dimension)}
    program = torch.export.export(network, (x,), dynamic_shapes={"x": sizes})
    assert not any("xattnres" in str(node.target) for node in program.graph.nodes)
    exported = program.module()
    torch.testing.assert_close(exported(x), network(x))
    torch.testing.assert_close(exported(other), network(other))


@pytest.mark.filterwarnings("ignore")
@every_case
def test_transforms_and_second_derivatives(dimension, mode):
    """Each against the reference, which is plain torch; the path of the network is the rule's."""
    network, x, _ = make(dimension, mode)
    network, x = network.double(), x.double()
    parameters = dict(network.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(network, parameters, (x,)).square().mean()

    def penalty():
        network.zero_grad()
        image = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(image).square().mean(), image, create_graph=True)
        gradient.square().sum().backward()
        return [p.grad for p in parameters.values() if p.grad is not None]

    def dual():
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(network(forward_ad.make_dual(x, x))).tangent

    def run():
        return {
            "jvp": torch.func.jvp(network, (x,), (x,))[1],
            "dual": dual(),
            "gradient of each sample": torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x[:, None]),
            "penalty": penalty(),
        }

    found = run()
    assert all(found[name].abs().max() > 0 for name in ("jvp", "dual"))
    network.use_path("reference")
    torch.testing.assert_close(found, run())


@pytest.mark.filterwarnings("ignore")
def test_compiling_keeps_the_operators_forward_and_backward():
    """What is looked for must not be found under torch.compile: the reference there would cost time and memory."""
    if not hasattr(torch.library, "custom_op"):
        pytest.skip("before torch 2.4 there are no operators")
    from torch._dynamo.backends.common import aot_autograd

    network, x, _ = make(2, "add")
    seen = set()

    def look(graph, _):
        seen.update(str(node.target).partition(".default")[0] for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(network, backend=aot_autograd(fw_compiler=look, bw_compiler=look), fullgraph=True)
    compiled(x).mean().backward()
    names = ("history_read", "history_read_backward", "resize", "resize_backward")
    assert seen >= {f"nnunet_xattnres.{name}" for name in names}
    torch._dynamo.reset()
