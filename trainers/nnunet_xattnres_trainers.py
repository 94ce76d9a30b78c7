"""Re-exports only: nnU-Net imports every file of this folder under its bare name and then forgets it.

Nothing where the package is not installed: nnUNet_extTrainer is handed on to programs of other environments.
"""

try:
    from nnunet_xattnres.training.epochs import *  # noqa: F403
except ModuleNotFoundError as error:
    if error.name != "nnunet_xattnres":
        raise
