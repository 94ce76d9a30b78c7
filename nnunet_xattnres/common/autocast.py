"""Autocast on the devices that have it."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: str) -> AbstractContextManager[None]:
    """Everything in the dtype that it has, on a device of this type.

    Not every torch has autocast for MPS, and none has it for tensors without data: ``torch.autocast`` refuses both.
    """
    return torch.autocast(device, enabled=False) if device in ("cpu", "cuda") else nullcontext()
