"""XAttnRes, cross-stage attention residuals (arXiv 2604.03297), for nnU-Net v2.

Public names load lazily: importing this package imports neither torch nor nnunetv2, because
``autoregister`` is imported at the start of every interpreter of the environment.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # spelt out: importing typing would double the cost of an interpreter's start
if TYPE_CHECKING:
    from typing import Any

    from nnunet_xattnres.autoregister import register, trainers_dir
    from nnunet_xattnres.networks.unet import XAttnResResidualEncoderUNet, XAttnResUNet
    from nnunet_xattnres.ops import history_read
    from nnunet_xattnres.reads.history_read import HistoryRead

_MODULE_OF = {
    "HistoryRead": "reads.history_read",
    "XAttnResResidualEncoderUNet": "networks.unet",
    "XAttnResUNet": "networks.unet",
    "history_read": "ops",
    "register": "autoregister",
    "trainers_dir": "autoregister",
}

__all__ = [
    "HistoryRead",
    "XAttnResResidualEncoderUNet",
    "XAttnResUNet",
    "__version__",
    "history_read",
    "register",
    "trainers_dir",
]


def __getattr__(name: str) -> "Any":
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
