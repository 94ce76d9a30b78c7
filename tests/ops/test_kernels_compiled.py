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

from benchmarks.cost.kernels import KERNELS, Variant, problems, rows_of, variants

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
