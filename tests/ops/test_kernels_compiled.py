"""The Triton kernels compiled for GPUs that are not here: registers, spills, widths of loads.

The default run takes a sample in which each GPU, dtype, number of channels and width occurs; ``-m compile_all`` takes
everything that benchmarks/results/kernels.json has.
"""

import os
import sys
from importlib.util import find_spec

import pytest

if find_spec("triton") is None or sys.platform != "linux":
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton interprets in this process", allow_module_level=True)

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.cost.kernels import KERNELS, Variant, problems, recorded_calls, rows_of, specialised, variants
from benchmarks.gpu.plans import CONFIGURATIONS
from nnunet_xattnres.ops import FUSED_CHANNELS, fused, operator
from nnunet_xattnres.ops.trial import _Run
from nnunet_xattnres.reads.shapes import read_shapes

SAMPLE = [
    Variant(90, "fp16", 32, 128),
    Variant(90, "fp16", 64, 40),
    Variant(90, "bf16", 64, 56),
    Variant(90, "fp32", 128, 20),
    Variant(90, "fp16", 32, 40, axes=2, direct=False),
    Variant(80, "fp16", 128, 40),
    Variant(86, "fp16", 64, 128),
    Variant(89, "fp16", 32, 40),
    Variant(120, "fp16", 32, 128),
]


def check(variant):
    rows = rows_of(variant)
    assert {row.kernel for row in rows} == set(KERNELS)
    found = {row.kernel: problems(row) for row in rows}
    assert not any(found.values()), found


@pytest.mark.parametrize("variant", SAMPLE, ids=str)
def test_a_sample(variant):
    check(variant)


@pytest.mark.compile_all
@pytest.mark.parametrize("variant", variants(), ids=str)
def test_everything(variant, request):
    if "compile_all" not in request.config.option.markexpr:
        pytest.skip("minutes: only with -m compile_all")
    check(variant)


def test_each_value_occurs_in_the_sample():
    for name in ("target", "dtype", "channels", "width", "axes", "direct"):
        assert {getattr(v, name) for v in SAMPLE} == {getattr(v, name) for v in variants()}
    assert set(SAMPLE) <= set(variants())


def binaries(shape):
    """All that the kernels of a read and of its backward are compiled for; nothing is computed."""
    fused._table.cache_clear()
    with FakeTensorMode(), recorded_calls() as calls:
        run = _Run(operator.PATHS["fused"], shape, torch.device("cpu"))
        run.forward()
        run.backward()
    fused._table.cache_clear()
    found = set()
    for kernel, values in calls:
        for name, value in values.items():
            if isinstance(value, torch.Tensor):  # without data it has no address; all real ones are aligned
                values[name] = torch.empty(0, dtype=value.dtype)
        found.add(f"{kernel.__name__} {specialised(kernel, values)}")
    return found


@pytest.mark.parametrize("configuration", [c for c in CONFIGURATIONS if c.blocks is None], ids=lambda c: c.name)
def test_what_proves_itself_on_a_small_read_is_what_trains(configuration, monkeypatch):
    def resized(x, axis, size, adjoint=False, out=None):
        return x.new_empty(*x.shape[:axis], size, *x.shape[axis + 1 :]) if out is None else out

    monkeypatch.setattr(fused, "resize_axis", resized)
    with torch.device("meta"):
        network = configuration.build("add")
    shapes = read_shapes(network, (configuration.batch, 1, *configuration.patch), torch.device("cpu"))
    shapes = [shape for shape in shapes if shape.channels <= FUSED_CHANNELS]
    assert shapes
    for shape in shapes:
        assert binaries(shape) <= binaries(shape.small()), f"{shape}, proved at {shape.small().size}"
