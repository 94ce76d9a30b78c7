"""What a gallery shows: models with a mask and the Dice of every case, the images and the true masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.numbers import mean_of
from nnunet_xattnres.nnunet.classes import Classes
from nnunet_xattnres.nnunet.find import cases_of_folds
from nnunet_xattnres.nnunet.results import Dice


@dataclass(frozen=True)
class Model:
    """A column of the gallery.

    Attributes:
        name: what stands above it.
        folder: where its masks come from.
        files: the mask of every case.
        dice: of every case, by the labels' keys in a summary.json; NaN where neither mask has the label.
    """

    name: str
    folder: Path
    files: Mapping[str, Path]
    dice: Dice

    def mean(self, case: str) -> float:
        """The mean Dice over the labels of a case that have one."""
        return mean_of(list(self.dice[case].values()))

    def only(self, cases: Sequence[str]) -> "Model":
        """The same model with these cases."""
        files = {case: self.files[case] for case in cases}
        return replace(self, files=files, dice={case: self.dice[case] for case in cases})


@dataclass(frozen=True)
class Material:
    """Models, and what they are shown against.

    Attributes:
        models: all with the same cases.
        images: the files of every case, one for each channel.
        truth: the true mask of every case.
        dataset: the content of dataset.json.
        reader: nnU-Net's, of images and masks.
        window: what of a CT becomes black and white; None for other images.
        folds: of the validation; none for folders of masks.
        notes: what a reader must know of them, in words.
    """

    models: Sequence[Model]
    images: Mapping[str, list[str]]
    truth: Mapping[str, Path]
    dataset: Mapping[str, Any]
    reader: Any
    window: tuple[float, float] | None
    folds: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def classes(self) -> Classes:
        return Classes.of(self.dataset["labels"])

    @property
    def cases(self) -> list[str]:
        return sorted(self.models[0].dice)

    @property
    def scope(self) -> str:
        """How many cases of which folds."""
        return cases_of_folds(len(self.cases), self.folds)


def refuse_unknown(cases: Sequence[str], there: set[str], where: str) -> None:
    """Refuse cases that there are not.

    Raises:
        UserError: with some of those that there are.
    """
    unknown = [case for case in cases if case not in there]
    if unknown or not there:
        names = ", ".join([*sorted(there)[:5], *(["..."] if len(there) > 5 else [])])
        what = f"--cases {unknown[0]}: there is no such mask in {where}" if unknown else f"{where}: there is no mask"
        raise UserError(f"{what}" + (f"; there are {names}" if there else ""))


def refuse_other_shape(file: Path, mask: NDArray[Any], other: Path | str, expected: tuple[int, ...]) -> None:
    """Refuse a mask of another shape than ``expected``, that of ``other``.

    Raises:
        UserError: when the shapes differ.
    """
    if mask.shape != expected[-3:]:
        raise UserError(
            f"{file} has the shape {mask.shape}, {other} has {expected[-3:]}: they are not of the same image, or "
            f"one was resampled; name the folder that fits"
        )
