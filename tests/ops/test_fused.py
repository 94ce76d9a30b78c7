"""The Triton kernels against the specification in float64; without a GPU they run in Triton's interpreter."""

import os
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch

from nnunet_xattnres.ops import fused, operator, reference
from nnunet_xattnres.ops.chosen import Choice

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
read_fused = partial(operator.history_read, path="fused")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = {  # channels and spatial sizes of the sources, channels and size of the target, and the rest
    "2d": ([(3, (9, 5)), (4, (5, 7)), (6, (2, 4))], 4, (5, 7), {"batch": 2, "direct": (1,)}),
    "2d without a direct source": ([(3, (4, 6)), (2, (2, 3))], 5, (4, 6), {}),
    "2d, several direct": (
        [(3, (3, 5)), (3, (3, 5)), (4, (2, 2))],
        3,
        (3, 5),
        {"direct": (0, 1), "skip": 1, "below": 2},
    ),
    "2d, one axis shrinks, one grows": ([(3, (9, 2)), (2, (2, 9))], 3, (4, 5), {}),
    "2d, wide": ([(2, (1, 20)), (3, (2, 150))], 3, (2, 150), {"direct": (1,), "skip": 1}),
    "2d, high ratio": ([(2, (1, 1)), (2, (2, 2)), (3, (13, 11))], 3, (13, 11), {"direct": (2,)}),
    "2d, a direct map of another size": ([(3, (2, 3)), (3, (6, 6)), (2, (2, 2))], 3, (4, 5), {"direct": (0, 1)}),
    "2d, a direct map of as many positions": ([(3, (10, 2)), (2, (2, 2))], 3, (4, 5), {"direct": (0,), "below": 1}),
    "3d, direct maps of other sizes": (
        [(2, (2, 3, 2)), (2, (4, 3, 4)), (2, (5, 6, 7)), (2, (6, 2, 4))],
        2,
        (4, 3, 4),
        {"direct": (0, 1, 2, 3), "skip": 1},
    ),
    "3d, anisotropic": ([(2, (3, 4, 8)), (3, (3, 2, 4)), (5, (1, 1, 3))], 3, (3, 4, 8), {}),
    "3d, odd": (
        [(4, (2, 3, 5)), (17, (3, 3, 5)), (3, (2, 2, 3))],
        17,
        (3, 3, 5),
        {"direct": (1,), "skip": 1, "below": 3},
    ),
    "3d, finer maps": ([(2, (4, 5, 7)), (2, (3, 4, 5)), (3, (2, 3, 4))], 2, (2, 3, 4), {}),
    "3d, 128 channels, padded rows": (
        [(128, (2, 3, 20)), (5, (2, 2, 10)), (3, (1, 1, 7))],
        128,
        (2, 3, 20),
        {"direct": (0,), "skip": 0, "below": 2, "batch": 3},
    ),
    "2d, several blocks of padded rows": ([(64, (2, 40)), (5, (1, 20))], 64, (2, 40), {"direct": (0,)}),
    "2d, groups of coarse rows": (
        [(2, (16, 3)), (4, (33, 2)), (3, (37, 3)), (2, (24, 1))],
        3,
        (37, 3),
        {"direct": (2,), "skip": 2, "batch": 2},
    ),
    "2d, many rows of the same size": ([(2, (17, 3)), (3, (17, 3)), (4, (9, 2))], 3, (17, 3), {"direct": (1,)}),
    "3d, groups of coarse rows": ([(2, (2, 17, 2)), (3, (1, 9, 1))], 3, (3, 34, 2), {}),
    # the first is as wide as the padded rows of the read, and has no more positions than it
    "2d, as wide as a padded row": ([(4, (1, 16)), (6, (4, 2))], 2, (16, 5), {"direct": ()}),
    "one source": ([(3, (2, 3))], 2, (5, 7), {}),
    "one direct source": ([(3, (4, 5))], 3, (4, 5), {"direct": (0,), "skip": 0, "below": 1}),
}


class Read:
    """One read with all its inputs, away from their starting values; the parameters are float32 or wider."""

    def __init__(self, sources, channels, size, options, dtype=torch.float32, device=DEVICE):
        torch.manual_seed(0)
        self.size, self.skip = size, options.get("skip")
        batch, direct, below = (
            options.get(key, default) for key, default in (("batch", 1), ("direct", ()), ("below", 0))
        )
        tensors = [torch.randn(batch, c, *s).to(dtype) for c, s in sources]
        parameters = [torch.randn(channels, c) for k, (c, _) in enumerate(sources) if k not in direct]
        parameters += [torch.randn(channels), torch.rand(channels) + 0.5]
        tensors += [p.to(torch.promote_types(dtype, torch.float32)) for p in parameters]
        tensors += [torch.randn(batch, below, *size).to(dtype)] if below else []
        self.tensors = [t.to(device).requires_grad_() for t in tensors]
        self.direct = [k in direct for k in range(len(sources))]

    def arguments(self, tensors):
        """The positional and keyword arguments of ``history_read``."""
        rest = iter(tensors)
        pool = [next(rest) for _ in self.direct]
        projections = [None if direct else next(rest) for direct in self.direct]
        query, scale = next(rest), next(rest)
        return (pool, projections, query, scale, self.size), {"skip": self.skip, "below": next(rest, None)}

    def run(self, read, tensors):
        """The result, then the gradient of every tensor."""
        args, kwargs = self.arguments(tensors)
        out = read(*args, **kwargs)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(self.tensors[0].dtype)
        return [out.detach(), *torch.autograd.grad(out, tensors, grad.to(out))]

    def fused(self):
        return self.run(read_fused, self.tensors)

    def expected(self):
        return self.run(reference.history_read, [t.detach().double().requires_grad_() for t in self.tensors])


def assert_equals_the_reference(read, tolerance):
    """``tolerance`` is relative to the largest number of each tensor; returns what the kernels computed."""
    results = read.fused()
    for found, expected in zip(results, read.expected(), strict=True):
        atol = tolerance * max(expected.abs().max().item(), 1e-3)  # some gradients are zero
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=atol)
    return results


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case):
    assert_equals_the_reference(Read(*CASES[case]), 1e-5)


def test_without_eps_nothing_behind_a_row_counts():
    pool, query = [torch.randn(1, 3, 4, 5, device=DEVICE, requires_grad=True)], torch.randn(3, device=DEVICE)
    projections, scale = [torch.randn(3, 3, device=DEVICE)], torch.ones(3, device=DEVICE)
    pool += [torch.randn(1, 3, 2, 3, device=DEVICE)]
    query.requires_grad_()

    def gradients(read):
        out = read(pool, [None, *projections], query, scale, (4, 5), eps=0.0)
        return torch.autograd.grad(out.square().sum(), [pool[0], query])

    for found, expected in zip(gradients(read_fused), gradients(reference.history_read), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["2d, several direct", "2d, one axis shrinks, one grows", "3d, odd"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2), (torch.float64, 1e-9)])
def test_dtypes(case, dtype, tolerance):
    read = Read(*CASES[case], dtype=dtype)
    assert assert_equals_the_reference(read, tolerance)[0].dtype == dtype


def test_maps_of_several_dtypes_under_autocast():
    read = Read(*CASES["2d, several direct"])
    read.tensors[0] = read.tensors[0].detach().half().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = read.fused()
    assert [t.dtype for t in found[1:]] == [t.dtype for t in read.tensors]
    for result, expected in zip(found, read.expected(), strict=True):
        precision = 1e-5 if result.dtype == torch.float32 else 1e-3
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=precision * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing_of_float32_maps(dtype):
    read = Read(*CASES["2d, several direct"])
    expected = read.fused()
    with torch.autocast(DEVICE, dtype=dtype):
        found = read.fused()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_inputs_that_are_not_contiguous():
    read = Read(*CASES["2d, several direct"])
    read.tensors = [
        t.detach().to(memory_format=torch.channels_last).requires_grad_() if t.ndim == 4 else t for t in read.tensors
    ]
    assert_equals_the_reference(read, 1e-5)


PAIRS = [(a, b) for a in operator.FORWARD for b in operator.BACKWARD]
if DEVICE == "cpu":  # small tiles are the others there
    PAIRS = [pair for pair in PAIRS if "fused" in pair and "tiled-small" not in pair]
ODD = [  # 2D and 3D, odd sizes, anisotropic, without a direct source, batches of 1 to 3
    "2d",
    "2d, several direct",
    "2d without a direct source",
    "2d, one axis shrinks, one grows",
    "3d, anisotropic",
    "3d, odd",
    "3d, 128 channels, padded rows",
    "3d, finer maps",
]


@pytest.mark.parametrize(("forward", "backward"), PAIRS)
@pytest.mark.parametrize("case", ODD)
def test_any_backward_fits_any_forward(case, forward, backward, monkeypatch):
    """They share what is saved: as the operator takes them where no path is forced."""
    monkeypatch.setattr(operator, "_choice", lambda *_: Choice(forward, backward))
    read = Read(*CASES[case])
    for t in read.tensors:
        if t.ndim == 1:  # scores of about one: the larger they are, the further apart are two paths' roundings of L
            t.data /= t.numel() ** 0.25
    found = read.run(operator.history_read, read.tensors)
    for result, expected in zip(found, read.expected(), strict=True):
        atol = 2e-5 * max(expected.abs().max().item(), 1e-3)  # as in benchmarks/gpu/proofs.py
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("case", ODD)
def test_every_forward_saves_the_same(case, monkeypatch):
    """L, the log-sum-exp of the scores, which a backward may start from."""
    args, options = Read(*CASES[case]).arguments([t.detach() for t in Read(*CASES[case]).tensors])
    saved = []
    for path in operator.FORWARD:
        pool, projections, query, scale, size = args
        pool = [operator.resized_first(h, p, size) for h, p in zip(pool, projections, strict=True)]
        given, direct = [p for p in projections if p is not None], [k for k, p in enumerate(projections) if p is None]
        operands = pool, given, query * scale, options["below"], direct, list(size), options["skip"], 1e-6, None
        monkeypatch.setattr(operator, "_choice", lambda *_, path=path: Choice(path, "fused"))
        saved.append(torch.ops.nnunet_xattnres.history_read(*operands)[1])
    for other in saved[1:]:
        torch.testing.assert_close(other, saved[0], rtol=1e-5, atol=1e-5)


def test_the_same_bits_twice():
    read = Read(*CASES["2d, several direct"])
    for first, second in zip(read.fused(), read.fused(), strict=True):
        assert torch.equal(first, second)


def test_without_triton():
    code = "import sys; sys.modules['triton'] = None; from nnunet_xattnres.ops import fused; print(fused.available())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
    assert fused.available()


SMALL = ([(2, (2, 3)), (2, (2, 3)), (3, (1, 2))], 2, (2, 3), {"direct": (0, 1), "skip": 0, "below": 1})


@pytest.mark.parametrize("direct", [0, 2])
def test_opcheck(direct):
    *maps, p, w, g, below = Read(*SMALL).tensors
    projections = [*(torch.randn(2, 2, device=DEVICE, requires_grad=True) for _ in maps[direct:2]), p]
    rest = list(range(direct)), [2, 3], 0 if direct else None, 1e-6, "fused"
    args = maps, projections, w * g, below, *rest
    torch.library.opcheck(torch.ops.nnunet_xattnres.history_read.default, [*args])
    out, log_sum = torch.ops.nnunet_xattnres.history_read(*args)
    args = torch.randn_like(out), log_sum, maps, projections, w * g, rest[0], *rest[2:]
    args = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, args)
    torch.library.opcheck(torch.ops.nnunet_xattnres.history_read_backward.default, [*args])


def test_compiles_as_one_graph():
    read = Read(*SMALL)
    compiled = torch.compile(read_fused, fullgraph=True, backend="aot_eager")
    for found, expected in zip(read.run(compiled, read.tensors), read.fused(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [32, 96, 320])
def test_patches_as_in_training(dtype, channels):
    sources = [(16, (40, 64, 48)), (channels, (20, 32, 24)), (64, (10, 16, 12)), (320, (5, 8, 6)), (320, (5, 4, 3))]
    read = Read(sources, channels, (20, 32, 24), {"batch": 2, "direct": (1,), "skip": 1, "below": 8}, dtype=dtype)
    first = read.fused()
    assert_equals_the_reference(read, 5e-5 if dtype == torch.float32 else 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(first, read.fused(), strict=True))


if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    # Triton reads the variable when it is imported, and torch may have imported it: a fresh process runs this file.
    for name in [name for name in globals() if name.startswith("test_")]:
        del globals()[name]

    @pytest.mark.skipif(
        tuple(map(int, version("triton").split(".")[:2])) < (3, 3), reason="the interpreter of Triton 3.0 fails"
    )
    def test_in_the_interpreter():
        command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", __file__]
        result = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
