"""The tiled read against the reference: outputs, gradients, dtypes, layouts, and what torch asks of an operator."""

from functools import partial
from math import prod
from types import SimpleNamespace

import pytest
import torch
from helpers.reads import AUTOCAST_DTYPES, CASES, Case, assert_parity, make, outputs_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from nnunet_xattnres.ops import operator, reference, resize, sources
from nnunet_xattnres.ops import tiles as tiles_module
from nnunet_xattnres.ops.tiles import _TILE

read_tiled = partial(operator.history_read, path="tiled")
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=["one tile", "many tiles", "one tile as on a GPU", "many tiles as on a GPU"])
def tiles(request, monkeypatch):
    """With 2^7 numbers a tile, every case is cut along its rows and its middle axis."""
    if request.param.startswith("many tiles"):
        monkeypatch.setitem(_TILE, "cpu", 2**7)
    if request.param.endswith("as on a GPU"):
        monkeypatch.setattr(tiles_module, "_IN_CACHE", set())
        monkeypatch.setitem(resize._BAND, "cpu", 256)


@every_case
def test_float64(name, tiles):
    assert_parity(read_tiled, CASES[name], torch.float64, 1e-12, 1e-10)


@every_case
def test_float32(name, tiles):
    assert_parity(read_tiled, CASES[name], torch.float32, 1e-5)


@every_case
def test_the_weights(name, tiles):
    """Without gradients the tiles give the weights, too, and the same read as without them."""
    case = CASES[name]
    tensors, read = make(case)
    with torch.no_grad():
        expected, weights = read(partial(reference.history_read, return_weights=True), tensors)
        found, found_weights = read(partial(read_tiled, return_weights=True), tensors)
        assert torch.equal(found, read(read_tiled, tensors))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_weights, weights, rtol=1e-12, atol=1e-12)


@every_case
@pytest.mark.parametrize("dtype", AUTOCAST_DTYPES)
def test_low_precision_maps(name, dtype):
    """Maps in low precision, parameters in float32: what a network under autocast hands over."""
    case = CASES[name]
    tensors, read = make(case, torch.float32)
    low = {
        k: t if k in ("w", "g") or k[0] == "P" else t.detach().to(dtype).requires_grad_() for k, t in tensors.items()
    }
    wide = {k: t.detach().float().requires_grad_() for k, t in low.items()}
    found = outputs_and_gradients(read_tiled, low, read, autocast=dtype)
    expected = outputs_and_gradients(reference.history_read, wide, read)
    for k, value in expected.items():
        assert found[k].dtype == (dtype if k == "out" else low[k].dtype)
        error = (found[k].float() - value).abs().max()
        assert error <= 4 * torch.finfo(dtype).eps * max(1.0, value.abs().max()), f"{k}: {error}"


@every_case
@pytest.mark.parametrize("dtype", AUTOCAST_DTYPES)
def test_autocast_changes_nothing_of_float32_maps(name, dtype):
    """Not a bit: norm, scores and softmax are in float32, and here the alignment is, too."""
    tensors, read = make(CASES[name], torch.float32)
    with_weights = partial(read_tiled, return_weights=True)
    with torch.no_grad():
        expected = read(with_weights, tensors)
        with torch.autocast("cpu", dtype=dtype):
            found = read(with_weights, tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    expected = outputs_and_gradients(read_tiled, tensors, read)
    found = outputs_and_gradients(read_tiled, tensors, read, autocast=dtype)
    assert all(torch.equal(found[k], expected[k]) for k in expected)


NONE_IS_RESIZED_FIRST = [  # a finer map is, and one without a projection: to the precision of the maps
    name
    for name, case in CASES.items()
    if not case.unprojected and all(prod(size) <= prod(case.size) for _, size in case.sources)
]


@pytest.mark.parametrize("name", NONE_IS_RESIZED_FIRST)
@pytest.mark.parametrize("dtype", AUTOCAST_DTYPES)
def test_weights_of_low_precision_maps_under_autocast(name, dtype):
    """Those of the same maps in float64, as near as float32 comes: 3e-7 was the largest error when this was written."""
    tensors, read = make(CASES[name], torch.float32)
    low = {k: t.detach().to(dtype) if k[0] == "h" or k == "below" else t for k, t in tensors.items()}
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        _, found = read(partial(read_tiled, return_weights=True), low)
    _, expected = read(partial(reference.history_read, return_weights=True), {k: t.double() for k, t in low.items()})
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


def test_large_values_in_float16_do_not_overflow():
    pool = [torch.full((1, 4, 2, 2), 300.0, dtype=torch.float16), torch.ones(1, 4, 2, 2, dtype=torch.float16)]
    read = read_tiled(pool, [None, None], torch.ones(4), torch.ones(4), (2, 2))
    torch.testing.assert_close(read, torch.full_like(read, 150.5))


@every_case
def test_channels_last(name):
    def channels_last(t):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return t.contiguous(memory_format=formats[t.ndim]) if t.ndim in formats else t

    assert_parity(read_tiled, CASES[name], torch.float64, 1e-12, 1e-10, change=channels_last)


@every_case
def test_views(name):
    """Maps whose last axis is not contiguous: every second position of a larger map."""
    assert_parity(
        read_tiled,
        CASES[name],
        torch.float64,
        1e-12,
        1e-10,
        change=lambda t: torch.stack((t, t), dim=-1)[..., 0] if t.ndim > 3 else t,
    )


@st.composite
def topologies(draw):
    """A U-Net-like pool: any sizes, any ratio up or down, any channels, two or three axes."""
    n_axes = draw(st.integers(2, 3))
    sizes = st.tuples(*[st.integers(1, 7)] * n_axes)
    size, channels = draw(sizes), draw(st.integers(1, 5))
    sources = draw(st.lists(st.tuples(st.integers(1, 5), sizes), min_size=0, max_size=5))
    skip = draw(st.one_of(st.none(), st.integers(0, len(sources))))
    sources.insert(skip or 0, (channels, size))
    below = draw(st.integers(0, 3))
    unprojected = tuple(k for k, (c, _) in enumerate(sources) if c == channels and draw(st.booleans()))
    batch = draw(st.integers(1, 3))
    return Case(sources, channels, size, batch=batch, skip=skip, below=below, unprojected=unprojected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(topologies(), st.sampled_from([2**5, 2**8, 2**18]))
def test_any_topology(case, numbers):
    before = _TILE["cpu"]
    try:
        _TILE["cpu"] = numbers
        assert_parity(read_tiled, case, torch.float64, 1e-12, 1e-10)
    finally:
        _TILE["cpu"] = before


@pytest.mark.parametrize(
    "case",
    [
        Case([(2, (3, 4)), (3, (2, 2)), (1, (5, 3))], 2, (3, 4), batch=1, skip=0, below=1),
        Case([(2, (3, 2, 2)), (1, (2, 3, 1)), (2, (2, 1, 2))], 2, (3, 2, 2), batch=1),
    ],
)
def test_gradcheck(case, monkeypatch):
    monkeypatch.setitem(_TILE, "cpu", 2**4)
    tensors, read = make(case)
    inputs = tuple(tensors.values())
    assert torch.autograd.gradcheck(lambda *values: read(read_tiled, dict(zip(tensors, values))), inputs)


@pytest.mark.parametrize("name", ["2d, finer and coarser", "3d, odd and not integer", "one source"])
def test_opcheck(name):
    case = CASES[name]
    tensors, _ = make(case, torch.float32)
    pool = [tensors[f"h{k}"] for k in range(len(case.sources))]
    projections = [tensors[f"P{k}"] for k in range(len(pool)) if f"P{k}" in tensors]
    direct = [k for k in range(len(pool)) if f"P{k}" not in tensors]
    query, below = tensors["w"].detach().requires_grad_(), tensors.get("below")
    rest = direct, list(case.size), case.skip, 1e-6, None
    torch.library.opcheck(torch.ops.nnunet_xattnres.history_read.default, (pool, projections, query, below, *rest))
    with torch.no_grad():
        out, log_sum = torch.ops.nnunet_xattnres.history_read(pool, projections, query, below, *rest)
        detached = [h.detach() for h in pool], [p.detach() for p in projections], query.detach()
        arguments = torch.randn_like(out), log_sum, *detached, direct, case.skip, 1e-6, None
    torch.library.opcheck(torch.ops.nnunet_xattnres.history_read_backward.default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ["2d, finer and coarser", "3d, anisotropic"])
def test_compiles_as_one_graph(name, backend):
    tensors, read = make(CASES[name], torch.float32)
    expected = outputs_and_gradients(read_tiled, tensors, read)
    compiled = torch.compile(lambda t: read(read_tiled, t), fullgraph=True, backend=backend)
    found = outputs_and_gradients(None, tensors, lambda _, t: compiled(t))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@every_case
def test_same_bits_twice_and_deterministic(name):
    tensors, read = make(CASES[name], torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (outputs_and_gradients(read_tiled, tensors, read) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_inference_mode_then_training():
    """What is cached under inference_mode must not be refused, nor change anything, in a backward afterwards."""
    case = Case([(3, (11, 13)), (4, (5, 6))], 3, (11, 13), skip=0)  # sizes that no other test uses
    tensors, read = make(case, torch.float32)
    with torch.inference_mode():
        before = read(read_tiled, tensors)
    found = outputs_and_gradients(read_tiled, tensors, read)
    torch.testing.assert_close(found["out"], before)
    assert_parity(read_tiled, case, torch.float32, 1e-5)


def test_activation_checkpointing():
    tensors, read = make(CASES["3d, anisotropic"], torch.float32)
    expected = outputs_and_gradients(read_tiled, tensors, read)
    found = outputs_and_gradients(
        None, tensors, lambda _, t: checkpoint(lambda: read(read_tiled, t), use_reentrant=False)
    )
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_the_inputs_are_kept_and_one_map():
    tensors, read = make(CASES["2d, four levels of a decoder"], torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        read(read_tiled, tensors)
    inputs, case = sum(t.numel() for t in tensors.values()), CASES["2d, four levels of a decoder"]
    log_sum = case.batch * prod(case.size)
    assert inputs + log_sum <= sum(kept) <= 2 * inputs + log_sum  # of a finer map also what it is resized to


def test_only_some_inputs_need_a_gradient():
    tensors, read = make(CASES["3d, anisotropic"])
    full = outputs_and_gradients(read_tiled, tensors, read)
    for name in tensors:
        some = {k: t.detach().requires_grad_(k == name) for k, t in tensors.items()}
        out = read(read_tiled, some)
        d_out = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(out, [some[name]], d_out)
        torch.testing.assert_close(gradient, full[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_source_is_widened_in_parts(dtype, monkeypatch):
    """Only some rows of a map in low precision stand there in float32 at a time; the result is the same."""
    pool = [torch.randn(2, 4, 8, 6, 5).to(dtype), torch.randn(2, 6, 4, 3, 5).to(dtype)]
    tensors = [t.requires_grad_() for t in (*pool, torch.randn(3, 4), torch.randn(3, 6))]

    def run():
        out = read_tiled(tensors[:2], tensors[2:], torch.ones(3), torch.ones(3), (8, 6, 5))
        return [out, *torch.autograd.grad(out, tensors, torch.ones_like(out))]

    expected, widest = run(), []
    wide = sources.ProjectedSource._wide
    monkeypatch.setattr(sources.ProjectedSource, "_wide", lambda *a: (widest.append(wide(*a)), widest[-1])[1])
    monkeypatch.setattr(sources, "_PART", 2 * 4 * 6 * 5 * 2)  # two rows of the first map
    for a, b in zip(run(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert max(t.numel() for t in widest) == (480 if dtype == torch.bfloat16 else 1920)


def test_a_small_gpu_gets_small_tiles(monkeypatch):
    for gib, expected in ((8, [2**24, 2**22, 2**22]), (16, [2**24, 2**24, 2**22]), (80, [2**24, 2**24, 2**24])):
        properties = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, p=properties: p)
        assert [tiles_module.numbers_of_a_tile(torch.device("cuda"), n) for n in (2, 10, 30)] == expected
    assert tiles_module.numbers_of_a_tile(torch.device("cpu"), 10) == _TILE["cpu"]
