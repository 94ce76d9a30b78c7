"""Which path a read takes, and why; and how one is forced."""

import os
from typing import Literal, get_args

import torch

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.ops.capture import captured

CUSTOM_OPS = hasattr(torch.library, "custom_op")  # since torch 2.4

if CUSTOM_OPS:
    from nnunet_xattnres.ops import fused

FUSED_CHANNELS = 128  # there a position's channels fit into registers

Path = Literal["fused", "tiled", "tiled-small", "reference"]
PATHS: tuple[Path, ...] = get_args(Path)
VARIABLE = "NNUNET_XATTNRES_PATH"
_FROM_ENVIRONMENT = os.environ.get(VARIABLE) or None  # looked up once: torch.compile would trace it
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's, which computes on the CPU


class PathError(UserError, ValueError):
    """A path that does not exist, or that cannot compute here."""


def forced_path(path: str | None = None) -> Path | None:
    """The path that is forced: ``path``, else the one that NNUNET_XATTNRES_PATH names; None where the rule decides.

    Raises:
        PathError: for an unknown one.
    """
    found, culprit = (_FROM_ENVIRONMENT, VARIABLE) if path is None else (path, "the path")
    if found is not None and found not in PATHS:
        raise PathError(f"{culprit} is {found!r}; it must be one of {', '.join(map(repr, PATHS))}")
    return found


def read_path(
    device: torch.device, channels: int | None = None, return_weights: bool = False, *, path: str | None = None
) -> Path:
    """The path of a read on a device, as far as it stands before the read runs.

    The forced one, if there is one. Otherwise the reference where the weights are asked for while gradients are
    recorded, and wherever there is only plain torch; the tiles everywhere else, unless on CUDA the operator finds when
    it runs that another path was chosen on this GPU (``ops.tuning``). Forced or not, what ``capture.captured`` names
    takes the reference; weights come from the tiles, or while gradients are recorded from the reference.

    Args:
        device: of the tensors.
        channels: C, of the read. It plays no part any more, and may be left out.
        return_weights: whether the weights are asked for.
        path: forces one of ``PATHS``, before NNUNET_XATTNRES_PATH does.

    Raises:
        PathError: for a forced path that does not exist or cannot compute on the device.
    """
    if only_plain_torch(device, path=path) or (return_weights and torch.is_grad_enabled()):
        return "reference"
    forced = forced_path(path) or "tiled"
    return "tiled" if return_weights and forced == "fused" else forced


def only_plain_torch(device: torch.device, *, path: str | None = None) -> bool:
    """Whether this package's operators are not used on a device.

    So it is where the reference is forced, and in all that ``capture.captured`` names, whatever is forced. If no other
    path is forced, it is so on MPS, too, where nobody has run them yet, and where torch is older than 2.4.
    """
    forced = forced_path(path)
    if forced is None:
        return not CUSTOM_OPS or device.type == "mps" or captured()
    if forced == "reference" or captured():
        return True
    _check_possible(forced, device)
    return False


def _check_possible(forced: Path, device: torch.device) -> None:
    lacking = None
    if not CUSTOM_OPS:
        lacking = f"torch {torch.__version__} is older than 2.4"
    elif forced == "fused" and not fused.available():
        lacking = "this torch is for ROCm" if torch.version.hip else "Triton cannot be imported"
    elif forced == "fused" and device.type != ("cpu" if _INTERPRETED else "cuda"):
        lacking = f"its kernels need CUDA, but the tensors are on {device.type}"
    if lacking is not None:
        others = "'reference'" if not CUSTOM_OPS else "'tiled' or 'reference'"
        raise PathError(
            f"the path {forced!r} is forced, but {lacking}: force {others}, "
            f"or none (use_path(None), and {VARIABLE} unset)"
        )
