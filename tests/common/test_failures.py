"""What a failure is called decides what is done: tried again another day, or in another process, or never again."""

import pytest
import torch

from nnunet_xattnres.common.failures import attempt, is_poisoned

ILLEGAL = "an illegal memory access was encountered"


def result_of(error):
    def fail():
        raise error

    return attempt(fail)


@pytest.mark.parametrize("message", [f"CUDA error: {ILLEGAL}\nCompile with ...", f"Triton Error [CUDA]: {ILLEGAL}"])
def test_after_an_illegal_access_nothing_works_any_more(message):
    found = result_of(RuntimeError(message))
    assert found["status"] == "failed" and found["why"].endswith(ILLEGAL) and is_poisoned(found)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("tried to allocate 80 GiB"),
        RuntimeError("CUDA error: out of memory\nCompile with ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_too_little_memory_is_called_so_whoever_says_it(error):
    found = result_of(error)
    assert found["status"] == "out of memory" and not is_poisoned(found)


def test_what_else_fails_costs_one_item():
    found = result_of(ValueError("no kernel image\nand more"))
    assert found == {"status": "failed", "why": "ValueError: no kernel image"} and not is_poisoned(found)
