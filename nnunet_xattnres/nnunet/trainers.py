"""Trainers by name, as nnU-Net's commands find them."""

from contextlib import redirect_stdout
from io import StringIO

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_xattnres.common.errors import UserError


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """The trainer that ``-tr name`` takes.

    Raises:
        UserError: when nnU-Net finds none, or cannot import a module that it looks into.
    """
    try:
        with redirect_stdout(StringIO()):  # the finder tells of the folders that it searches
            return recursive_find_trainer_class_by_name(name)
    except Exception as error:
        if isinstance(error, RuntimeError) and "Could not find" in str(error):
            raise UserError(f"nnU-Net finds no trainer {name!r} here") from None
        raise UserError(f"nnU-Net's search for the trainer {name!r} fails: {type(error).__name__}: {error}") from error
