"""Re-exports only: nnU-Net imports every file of this folder under its bare name and then forgets it."""

from nnunet_xattnres.training.epochs import *  # noqa: F403
