"""CT volumes with labels, from NIfTI, from slices in npz files and from h5 files."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.commands.convert.data_set import Pair
from nnunet_xattnres.commands.convert.organs import Axes
from nnunet_xattnres.commands.convert.sources import reading
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.installing import install_extra

GRID = 512  # pixels of a CT slice along each axis; arrays may have been resized
HU_LOW, HU_HIGH = -125.0, 275.0  # what the arrays were clipped to before they were mapped to 0 ... 1

Lookup = NDArray[np.uint8]  # (14,): our label for each of the source's


def as_labels(array: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Labels that were stored as floats, say.

    Raises:
        UserError: when they are no whole numbers from 0 to 255.
    """
    labels = np.asarray(array)
    whole = labels.astype(np.uint8)
    if not np.array_equal(whole, labels):
        raise UserError(f"{path}: the labels are no whole numbers from 0 on: {labels.min()} to {labels.max()}")
    return whole


@dataclass(frozen=True)
class ArrayVolume:
    """Arrays without a header: ``image`` from 0 to 1 and ``label``, slices first."""

    files: Sequence[Path]  # one h5 file, or a npz for each slice
    spacing: tuple[float, float]  # in plane, of slices of GRID x GRID, and between slices; mm
    n_slices: int

    def labels(self) -> NDArray[np.uint8]:
        return as_labels(self._read("label"), self.files[0])

    def pair(self, lookup: Lookup, axes: Axes) -> Pair:
        """Both in the patient's axes, and the image in HU again."""
        image, labels = self._read("image"), self.labels()
        if image.shape != labels.shape:
            raise UserError(f"{self.files[0]}: the image is {image.shape}, its labels are {labels.shape}")
        if image.min() < -1e-4 or image.max() > 1 + 1e-4:
            raise UserError(f"{self.files[0]}: the image goes from {image.min():g} to {image.max():g}, not from 0 to 1")
        hounsfield = (image * (HU_HIGH - HU_LOW) + HU_LOW).astype(np.float32)
        turned = [axes.to_patient(array) for array in (hounsfield, lookup[labels])]
        (columns, rows, _), (in_plane, between) = turned[0].shape, self.spacing
        pixel = [in_plane * GRID / n for n in (columns, rows)]
        affine = np.diag([-pixel[0], -pixel[1], between, 1.0])  # NIfTI's axes run right, anterior and up
        resized = () if columns == rows == GRID else (f"slices that were resized to {columns} x {rows}: their spacing",)
        content = [_compressed(nibabel.Nifti1Image(array, affine)) for array in turned]
        return Pair(content[0], content[1], mended=resized)

    def _read(self, key: str) -> NDArray[Any]:
        array = self._read_h5(key) if self.files[0].suffix == ".h5" else self._read_slices(key)
        if array.ndim != 3 or len(array) != self.n_slices:
            raise UserError(f"{self.files[0]}: {key} is {array.shape}; this case has {self.n_slices} slices")
        return array

    def _read_slices(self, key: str) -> NDArray[Any]:
        slices = []
        for path in self.files:
            with reading(path), np.load(path) as content:
                slices.append(content[key])
        if len({one.shape for one in slices}) > 1:
            raise UserError(f"{self.files[0].parent}: the slices of {self.files[0].stem} differ in size")
        return np.stack(slices)

    def _read_h5(self, key: str) -> NDArray[Any]:
        if find_spec("h5py") is None:
            raise UserError(f"h5py is not installed: {install_extra('convert')}")
        import h5py

        with reading(self.files[0]), h5py.File(self.files[0], "r") as file:
            return np.asarray(file[key])


@dataclass(frozen=True)
class NiftiVolume:
    """An image and its labels with headers."""

    image: Path
    label: Path

    @property
    def files(self) -> Sequence[Path]:
        return self.image, self.label

    @cached_property
    def _label(self) -> Any:
        with reading(self.label):
            return nibabel.load(self.label)

    def labels(self) -> NDArray[np.uint8]:
        """In the patient's axes, as the header says: left, posterior, up."""
        turned = _to_patient(nibabel.Nifti1Image(self._voxels(), self._label.affine))
        return np.asarray(turned.dataobj)

    def pair(self, lookup: Lookup, axes: Axes) -> Pair:
        """The image as it is, and the labels with its header.

        Raises:
            UserError: when the labels are not on the image's grid.
        """
        with reading(self.image):
            image = nibabel.load(self.image)
            np.asanyarray(image.dataobj)  # all of it is there
            content = self.image.read_bytes()
        voxels = self._voxels()
        if image.shape != voxels.shape:
            raise UserError(
                f"{self.image} is {image.shape}, {self.label} is {voxels.shape}: they are no pair; fetch both again"
            )
        if not np.allclose(image.affine, self._label.affine, atol=0.01):
            raise UserError(
                f"{self.label} lies elsewhere than {self.image}: their headers differ. Fetch both again, or, if you "
                "know that their voxels are the same ones, give the labels the image's header"
            )
        label = nibabel.Nifti1Image(lookup[voxels], image.affine, image.header)
        label.set_data_dtype(np.uint8)
        label.header.set_slope_inter(1, 0)
        return Pair(content if self.image.suffix == ".gz" else gzip.compress(content, 4, mtime=0), _compressed(label))

    def _voxels(self) -> NDArray[np.uint8]:
        with reading(self.label):
            return as_labels(np.asanyarray(self._label.dataobj), self.label)


Volume = ArrayVolume | NiftiVolume
UPRIGHT = Axes((0, 1, 2), (1, 1, 1))  # left, posterior, up


def _to_patient(image: Any) -> Any:
    """With axes that run left, posterior and up."""
    wanted = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted))


def _compressed(image: Any) -> bytes:
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 4, mtime=0)
