"""Where nnU-Net keeps the files of a data set."""

from pathlib import Path

from nnunet_xattnres.errors import UserError


def preprocessed_folder(dataset: str) -> Path:
    """A data set's folder in nnUNet_preprocessed.

    Args:
        dataset: its number or its name, as nnU-Net's commands take it.

    Raises:
        UserError: when nnUNet_preprocessed is not set, or has no such data set.
    """
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    if not nnUNet_preprocessed.is_set():
        raise UserError("nnUNet_preprocessed is not set; set it to the folder with nnU-Net's preprocessed data")
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError) as error:  # none or several of that number, or no number
        raise UserError(str(error)) from None
    folder = Path(str(nnUNet_preprocessed)) / name
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; preprocess first: `nnUNetv2_plan_and_preprocess -d {dataset}`")
    return folder
