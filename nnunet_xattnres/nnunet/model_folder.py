"""The folder of a trained model: TRAINER__PLANS__CONFIGURATION in nnUNet_results."""

from pathlib import Path

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.order import by_number

NEEDED = ("plans.json", "dataset.json")


def checkpoints_of(model_folder: Path, name: str = "checkpoint_*.pth") -> list[Path]:
    """The checkpoints of all folds of a trained model.

    Args:
        name: of the files, or a pattern of names.

    Raises:
        UserError: when it is no such folder, or has no such checkpoint.
    """
    files = sorted(model_folder.glob(f"fold_*/{name}"), key=lambda file: by_number(str(file)))
    if not files or not all((model_folder / needed).is_file() for needed in NEEDED):
        expected = "checkpoint_final.pth" if "*" in name else name
        raise UserError(
            f"{model_folder} is no folder of a trained model: that has plans.json, dataset.json and "
            f"fold_0/{expected}, and is called TRAINER__PLANS__CONFIGURATION in nnUNet_results"
        )
    return files


def only_checkpoint(
    model_folder: Path, way_out: str, fold: str | None = None, name: str = "checkpoint_final.pth"
) -> Path:
    """The checkpoint ``name`` of the fold, or of the only fold that has one.

    Raises:
        UserError: when there is none or several, with ``way_out``; when it is no folder of a trained model.
    """
    found = [file for file in checkpoints_of(model_folder, "*.pth") if file.name == name]
    chosen = [file for file in found if fold in (None, file.parent.name.removeprefix("fold_"))]
    if len(chosen) != 1:
        there = ", ".join(str(file.relative_to(model_folder)) for file in found) or f"no {name}"
        raise UserError(f"{model_folder} has {there}: {way_out}")
    return chosen[0]
