"""Does a path compute what the reference computes? Outputs and all gradients of small random reads, on this device."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres import history_read
from nnunet_xattnres.common.failures import attempt, is_poisoned
from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.trial import TOLERANCES, error_of

_MOST_CHANNELS = 320  # of nnU-Net's 3D networks
_BELOW = 32  # as in a decoder: Triton compiles anew where 16 does not divide them


def prove(items: Sequence[dict[str, Any]], *, device: str) -> Iterator[dict[str, Any]]:
    """What became of each item, a path, a dtype, channels and a size: ``status`` ok, wrong or how it failed."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for item in items:
        result = attempt(_prove, item["path"], item["dtype"], item["channels"], tuple(item["size"]), device)
        yield result
        if is_poisoned(result):
            return


def _prove(path: str, dtype: str, channels: int, size: tuple[int, ...], device: str) -> dict[str, Any]:
    tensors = {name: t.to(device) for name, t in _read(channels, size, getattr(torch, dtype)).items()}
    found = _run(tensors, size, history_read, path=path)
    expected = _run({name: t.float() for name, t in tensors.items()}, size, reference.history_read)
    errors = {name: error_of(found[name], value) for name, value in expected.items()}
    worst = max(errors, key=lambda name: errors[name])
    tolerance = TOLERANCES[dtype]
    return {
        "status": "ok" if errors[worst] <= tolerance else "wrong",
        "error": errors["out"],
        "worst": worst,
        "worst_error": errors[worst],
        "tolerance": tolerance,
    }


def _read(channels: int, size: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """A decoder's read: a finer map, the skip, one of the same size, two coarser ones; parameters in float32."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    wide = [min(f * channels, max(_MOST_CHANNELS, channels)) for f in (2, 4)]
    sizes = [tuple(2 * n for n in size), size, size, *(tuple(-(-n // f) for n in size) for f in (2, 4))]
    sources = dict(enumerate(zip([max(1, channels // 2), channels, wide[0], *wide], sizes, strict=True)))
    tensors = {f"source {k}": normal(2, c, *s).to(dtype) for k, (c, s) in sources.items()}
    tensors |= {f"projection {k}": normal(channels, c) / c**0.5 for k, (c, _) in sources.items() if k != 1}
    tensors["query"] = 2 * normal(channels) / channels**0.5
    tensors["scale"] = torch.rand(channels, generator=generator) + 0.5
    tensors["below"] = normal(2, _BELOW, *size).to(dtype)
    return tensors


def _run(tensors: dict[str, Tensor], size: tuple[int, ...], read: Any, **options: Any) -> dict[str, Tensor]:
    """The output by the name ``out``, and the gradient of every tensor by its name."""
    t = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    pool = [t[f"source {k}"] for k in range(5)]
    projections = [t.get(f"projection {k}") for k in range(5)]
    out = read(pool, projections, t["query"], t["scale"], size, skip=1, below=t["below"], **options)
    d_out = torch.randn(prod(out.shape), generator=torch.Generator().manual_seed(1)).view(out.shape)
    gradients = torch.autograd.grad(out, list(t.values()), d_out.to(tensors["below"].dtype).to(out))
    return {"out": out.detach(), **dict(zip(t, gradients, strict=True))}
