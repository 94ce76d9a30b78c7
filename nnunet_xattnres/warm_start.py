"""Where scripts have always found the warm start; it lives in ``commands.upgrade``."""

from nnunet_xattnres.commands.upgrade import (
    Upgraded,
    trainer_for,
    upgrade_checkpoint,
    write_upgraded,
    write_upgraded_folder,
)
from nnunet_xattnres.nnunet.model_folder import checkpoints_of, only_checkpoint

__all__ = [
    "Upgraded",
    "checkpoints_of",
    "only_checkpoint",
    "trainer_for",
    "upgrade_checkpoint",
    "write_upgraded",
    "write_upgraded_folder",
]
