"""The operator under a read; it knows torch and nothing of networks."""

from nnunet_xattnres.ops.reference import history_read

__all__ = ["history_read"]
