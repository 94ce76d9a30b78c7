"""A dataset.json of nnU-Net's: what is in it."""

from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json

_NEEDED = ("labels", "file_ending")


def read_dataset(path: Path) -> dict[str, Any]:
    """The content of a dataset.json.

    Raises:
        UserError: when it cannot be read, or lacks what masks are found and understood by.
    """
    content = read_json(path)
    missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(
            f"{path} has no {', '.join(missing)}: it is no dataset.json of nnU-Net's. Put that of the trained model "
            f"there, or that of the data set in nnUNet_raw"
        )
    return dict(content)
