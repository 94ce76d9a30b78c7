"""Where nnU-Net keeps the files of a data set."""

import re
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import UserError


def preprocessed_folder(dataset: str) -> Path:
    """A data set's folder in nnUNet_preprocessed.

    Args:
        dataset: its number or its name, as nnU-Net's commands take it.

    Raises:
        UserError: when nnUNet_preprocessed is not set, or has no such data set.
    """
    from nnunetv2.paths import nnUNet_preprocessed

    way_out = "preprocess first: `nnUNetv2_plan_and_preprocess -d {number}`"
    return _folder_of(dataset, nnUNet_preprocessed, "nnUNet_preprocessed", way_out)


def results_folder(dataset: str) -> Path:
    """A data set's folder in nnUNet_results.

    Args:
        dataset: its number or its name, as nnU-Net's commands take it.

    Raises:
        UserError: when nnUNet_results is not set, or has no such data set.
    """
    from nnunetv2.paths import nnUNet_results

    return _folder_of(dataset, nnUNet_results, "nnUNet_results", "train first: `nnUNetv2_train`")


def raw_folder(dataset: str) -> Path:
    """A data set's folder in nnUNet_raw.

    Args:
        dataset: its number or its name, as nnU-Net's commands take it.

    Raises:
        UserError: when nnUNet_raw is not set, or has no such data set.
    """
    from nnunetv2.paths import nnUNet_raw

    return _folder_of(dataset, nnUNet_raw, "nnUNet_raw", "set nnUNet_raw to the folder that holds the data set")


def _folder_of(dataset: str, root: Any, variable: str, way_out: str) -> Path:
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    if not root.is_set():
        raise UserError(f"{variable} is not set; set it to the folder that nnU-Net works with")
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError) as error:  # none or several of that number, or no number
        raise UserError(str(error)) from None
    folder = Path(str(root)) / name
    if not folder.is_dir():
        number = re.match(r"Dataset0*(\d+)_", name)  # the only thing that nnUNetv2_plan_and_preprocess takes
        raise UserError(f"{folder} does not exist; {way_out.format(number=number[1] if number else 'NUMBER')}")
    return folder
