"""Reads of every kind for the tests: pools of many topologies, and the comparison with the reference."""

from dataclasses import dataclass

import pytest
import torch

from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.choice import CUSTOM_OPS

needs_operators = pytest.mark.skipif(not CUSTOM_OPS, reason="the operators need torch 2.4")
# those that this torch's autocast takes on a CPU: bfloat16 alone at first
AUTOCAST_DTYPES = [dtype for dtype in (torch.float16, torch.bfloat16) if torch.autocast("cpu", dtype=dtype)._enabled]


@dataclass
class Case:
    """Channels and spatial sizes of the sources, channels and size of the target.

    A source that is not exactly of the target's channels and size has a projection, but for those in ``unprojected``.
    """

    sources: list
    channels: int
    size: tuple
    batch: int = 2
    skip: int | None = None
    below: int = 0
    unprojected: tuple = ()


CASES = {
    "2d, finer and coarser": Case([(3, (8, 12)), (4, (4, 6)), (6, (2, 3))], 4, (4, 6), skip=1, below=4),
    "2d, four levels of a decoder": Case([(4, (16, 24)), (8, (8, 12)), (8, (4, 6)), (6, (2, 3))], 4, (16, 24), skip=0),
    "2d, odd sizes, none direct": Case([(2, (7, 5)), (3, (3, 4)), (2, (1, 1))], 3, (5, 3), below=2),
    "2d, a row longer than a band": Case([(2, (3, 150)), (3, (6, 70))], 2, (3, 150), skip=0),
    "3d, anisotropic": Case([(2, (4, 8, 8)), (3, (4, 4, 4)), (5, (2, 2, 2))], 3, (4, 4, 4), skip=1, below=3),
    "3d, odd and not integer": Case([(3, (5, 7, 9)), (4, (3, 3, 4)), (2, (2, 5, 3))], 3, (5, 7, 9), skip=0),
    "3d, an axis finer and one coarser": Case([(2, (3, 5, 20)), (3, (9, 2, 3)), (3, (5, 6, 7))], 3, (5, 6, 7)),
    "3d, two direct sources": Case([(3, (4, 6, 4)), (5, (2, 3, 2)), (3, (4, 6, 4))], 3, (4, 6, 4), skip=2),
    "same size, other channels": Case([(2, (4, 4)), (5, (4, 4))], 3, (4, 4)),
    "one sample": Case([(2, (4, 4, 4)), (3, (2, 2, 2))], 2, (4, 4, 4), batch=1, skip=0, below=2),
    "one source": Case([(2, (4, 4))], 3, (8, 8)),
    "2d, no projection at any size": Case(
        [(3, (2, 3)), (3, (9, 8)), (3, (4, 5)), (3, (10, 2)), (2, (2, 2))], 3, (4, 5), skip=2, unprojected=(0, 1, 3)
    ),
    "3d, no projection at any size": Case(
        [(2, (2, 3, 2)), (2, (5, 6, 7)), (2, (6, 2, 4))], 2, (4, 3, 4), below=1, unprojected=(0, 1, 2)
    ),
    "one position": Case([(2, (1, 1)), (3, (2, 2))], 3, (1, 1)),
}


def make(case, dtype=torch.float64, seed=0):
    """The tensors of a read that need a gradient by name, and a function that reads with a path and such tensors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    tensors = {f"h{k}": normal(case.batch, c, *size) for k, (c, size) in enumerate(case.sources)}
    for k, (c, size) in enumerate(case.sources):
        if (c, size) != (case.channels, case.size) and k not in case.unprojected:
            tensors[f"P{k}"] = normal(case.channels, c)
    tensors |= {"w": normal(case.channels), "g": normal(case.channels)}
    if case.below:
        tensors["below"] = normal(case.batch, case.below, *case.size)

    def read(history_read, tensors):
        pool = [tensors[f"h{k}"] for k in range(len(case.sources))]
        projections = [tensors.get(f"P{k}") for k in range(len(case.sources))]
        options = {"skip": case.skip, "below": tensors.get("below")}
        return history_read(pool, projections, tensors["w"], tensors["g"], case.size, **options)

    return tensors, read


def outputs_and_gradients(history_read, tensors, read, autocast=None):
    """What a path returns, and the gradients of a fixed random function of it, by name."""
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        out = read(history_read, tensors)
    d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    gradients = torch.autograd.grad(out, list(tensors.values()), d_out)
    return {"out": out.detach(), **dict(zip(tensors, gradients))}


def assert_parity(history_read, case, dtype, tolerance, gradient_tolerance=None, *, change=lambda t: t):
    """A path against the reference in float64; ``change`` is applied to every map before.

    Each tensor is compared on the scale of its own largest entry, and of 1 where that is smaller: a zero gradient, too,
    has an error.
    """
    tensors, read = make(case, dtype)
    wide = {name: t.detach().double().requires_grad_() for name, t in tensors.items()}
    expected = outputs_and_gradients(reference.history_read, wide, read)
    maps = {name: change(t.detach()).requires_grad_() for name, t in tensors.items()}
    found = outputs_and_gradients(history_read, maps, read)
    for name, value in expected.items():
        assert found[name].isfinite().all(), name
        allowed = tolerance if name == "out" or gradient_tolerance is None else gradient_tolerance
        error = (found[name].double() - value).abs().max()
        assert error <= allowed * max(1.0, value.abs().max()), f"{name}: {error:.1e} on {value.abs().max():.1e}"
