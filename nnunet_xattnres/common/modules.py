"""Networks as nnU-Net hands them out."""

from typing import Any


def uncompiled(network: Any) -> Any:
    """The module itself: nnU-Net's predictor compiles on every device when nnUNet_compile is set, training on CUDA.

    Hooks, exports and pickles need it.
    """
    return getattr(network, "_orig_mod", network)
