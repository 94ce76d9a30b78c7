"""What fails is written down, and the rest goes on."""

from collections.abc import Callable
from typing import Any

import torch

_LONGEST = 300


def attempt(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What the function returns; where it raises, ``status`` and ``why``, and nothing of it is kept alive."""
    try:
        return function(*arguments)
    except torch.cuda.OutOfMemoryError as error:
        return {"status": "out of memory", "why": first_line(error)}
    except Exception as error:
        return {"status": "failed", "why": f"{type(error).__name__}: {first_line(error)}"}


def is_poisoned(result: dict[str, Any]) -> bool:
    """Whether nothing on CUDA works any more in this process: after an illegal access, for example."""
    return result["status"] == "failed" and any(sign in result["why"] for sign in ("CUDA error", "AcceleratorError"))


def first_line(error: Exception) -> str:
    """Of its text, and not too long for a table."""
    return next(iter(str(error).strip().splitlines()), "")[:_LONGEST]
