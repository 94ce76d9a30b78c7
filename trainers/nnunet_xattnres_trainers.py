"""Re-exports only: nnU-Net imports every file of this folder under its bare name and then forgets it."""

from nnunet_xattnres.nnunet_trainer import *  # noqa: F403
