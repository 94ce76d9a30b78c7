"""What looks at a computation that has no rule for this package's operators; there the reference computes (ours)."""

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad


def captured() -> bool:
    """Whether the computation is being captured, or what ``transformed`` says.

    By torch.export, by torch.jit.trace and with them by both exporters to ONNX: their results must not need this
    package. torch.compile is none of these: it keeps the operators.
    """
    exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return (exporting is not None and exporting()) or torch.jit.is_tracing() or transformed()  # type: ignore[attr-defined]


def transformed() -> bool:
    """Whether tensors may be those of a transform of torch.func, or carry the tangents of forward-mode AD."""
    return functorch.maybe_current_level() is not None or forward_ad._current_level >= 0


def transformed_gradient(grad: Tensor) -> bool:
    """Whether a backward runs under a transform: torch.func's, or that of ``is_grads_batched`` of torch.autograd."""
    return transformed() or functorch.is_legacy_batchedtensor(grad)
