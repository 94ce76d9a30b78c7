"""What fails is written down, and the rest goes on."""

from collections.abc import Callable
from typing import Any

import torch

_LONGEST = 300
_POISON = ("CUDA error", "AcceleratorError", "Triton Error [CUDA]")
_NO_MEMORY = ("out of memory", "_STATUS_ALLOC_FAILED")  # CUDA's and Triton's; cuBLAS's and cuDNN's


def attempt(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What the function returns; where it raises, ``status`` and ``why``, and nothing of it is kept alive."""
    try:
        return function(*arguments)
    except Exception as error:
        if is_out_of_memory(error):
            return {"status": "out of memory", "why": first_line(error)}
        return {"status": "failed", "why": f"{type(error).__name__}: {first_line(error)}"}


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU's memory did not suffice: not only torch's allocator says so, and each in its own words."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in first_line(error) for sign in _NO_MEMORY)


def is_poisoned(result: dict[str, Any]) -> bool:
    """Whether nothing on CUDA works any more in this process: after an illegal access, for example."""
    return result["status"] == "failed" and any(sign in result["why"] for sign in _POISON)


def is_device_lost(error: Exception) -> bool:
    """The same of an error."""
    return any(sign in f"{type(error).__name__}: {error}" for sign in _POISON)


def first_line(error: Exception) -> str:
    """Of its text, and not too long for a table."""
    return next(iter(str(error).strip().splitlines()), "")[:_LONGEST]
