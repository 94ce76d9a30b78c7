"""Where scripts have always found the read as a module; it lives in ``reads.history_read``."""

from nnunet_xattnres.reads.history_read import HistoryRead

__all__ = ["HistoryRead"]
