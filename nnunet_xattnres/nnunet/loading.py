"""Trained models, loaded by nnU-Net."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.failures import first_line
from nnunet_xattnres.nnunet.checkpoints import origin_of, read_checkpoint
from nnunet_xattnres.nnunet.trainers import find_trainer


def load_into(predictor: nnUNetPredictor, checkpoints: Sequence[Path]) -> None:
    """nnU-Net's own loading; before it, what of the files nnU-Net would answer with a traceback.

    Args:
        checkpoints: of some folds of one model, all of one name.

    Raises:
        UserError: when one of them cannot be read or is no checkpoint, its trainer is not found here, or the network
            of the plans beside it is another.
    """
    origin, *_ = [origin_of(read_checkpoint(file)) for file in checkpoints]  # nnU-Net builds what the first one says
    first, folder = checkpoints[0], checkpoints[0].parents[1]
    try:
        find_trainer(origin.trainer)
    except UserError as error:
        raise UserError(
            f"{first} is of {origin}: {error}. Install the package that has the trainer, or name the folder of its "
            "file in nnUNet_extTrainer."
        ) from error
    folds = tuple(file.parent.name.removeprefix("fold_") for file in checkpoints)
    try:
        predictor.initialize_from_trained_model_folder(str(folder), use_folds=folds, checkpoint_name=first.name)
    except UserError:
        raise
    # of plans, labels, weights, their network
    except (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"nnU-Net cannot load {first}, which is of {origin} ({type(error).__name__}: {first_line(error)}). "
            f"If plans.json and dataset.json in {folder} are not those of this training, put those there; if the "
            "package of the network is missing or old, install it."
        ) from error
