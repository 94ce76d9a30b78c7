"""Plans under further names, for trainings that repeat: behind `nnunet-xattnres repeat`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import ExistsError, UserError
from nnunet_xattnres.common.files import write_json
from nnunet_xattnres.nnunet.plans import REPEAT, read_plans


def write_repeats(folder: Path, source: str, number: int, force: bool = False) -> list[Path]:
    """Write copies of plans under new names, ``source_rep1`` and on: trainings on them get folders of their own.

    Args:
        folder: a data set's folder in nnUNet_preprocessed.
        source: the name of the plans.
        number: how many copies.
        force: replace files of another content.

    Raises:
        UserError: when the plans are missing, are a copy themselves or have a name that nnU-Net misreads, or a file of
            another content has a copy's name.
    """
    plans = read_plans(folder / f"{source}.json")
    if REPEAT.search(source):
        raise UserError(f"{source!r} is a repeat already; name the plans that it was made from")
    if "__" in f"_{source}_":
        raise UserError(
            f"{source!r}: nnU-Net takes the names of its folders apart at __; copy the plans to a name without"
        )
    copies = {
        folder / f"{source}_rep{i}.json": {**plans, "plans_name": f"{source}_rep{i}"} for i in range(1, number + 1)
    }
    for path, copy in copies.items():
        if path.exists() and not force:
            _refuse_another(path, copy, source)
    for path, copy in copies.items():
        try:
            write_json(copy, path, indent=4, overwrite=force)
        except ExistsError:
            _refuse_another(path, copy, source)
    return list(copies)


def _refuse_another(path: Path, copy: Mapping[str, Any], source: str) -> None:
    if read_plans(path) != copy:
        raise UserError(
            f"{path} exists and is no copy of {source}. Trainings on it would be no repeats: move it away, or "
            f"replace it with --force."
        )
