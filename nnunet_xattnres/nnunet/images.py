"""Images as nnU-Net wants them: their files, and what of them a picture shows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nnunet_xattnres.common.errors import UserError


def images_in(folder: Path, ending: str) -> dict[str, list[str]]:
    """The files of every case of a folder, one for each channel: CASE_0000.nii.gz, CASE_0001.nii.gz.

    Hidden files are none: macOS puts ._CASE_0000.nii.gz beside what it copies to other disks.
    """
    cases: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if found := re.fullmatch(rf"([^.].*)_\d{{4}}{re.escape(ending)}", file.name):
            cases.setdefault(found[1], []).append(str(file))
    return cases


def read_image(reader: Any, files: Sequence[str]) -> tuple[NDArray[Any], dict[str, Any]]:
    """An image, (channels, z, y, x), and nnU-Net's properties of it.

    Args:
        reader: one of nnU-Net's.
        files: of a case, one for each channel.

    Raises:
        UserError: when they cannot be read.
    """
    try:
        image, properties = reader.read_images(files)
    except Exception as error:  # each of the libraries behind it has its own
        raise UserError(f"{', '.join(files)} cannot be read: {type(error).__name__}: {error}") from None
    return image, properties


def masks_in(folder: Path, ending: str) -> dict[str, Path]:
    """The mask of every case of a folder, without hidden files."""
    return {file.name.removesuffix(ending): file for file in sorted(folder.glob(f"[!.]*{ending}"))}


def shown_channels(reader: type, image: NDArray[Any]) -> NDArray[Any]:
    """The colours of a photograph, of all else the first channel.

    Args:
        reader: the class that has read it.
        image: (channels, z, y, x).
    """
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO

    photograph = issubclass(reader, NaturalImage2DIO)
    return image if photograph and len(image) == 3 else image[:1]


def window_of(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> tuple[float, float] | None:
    """To what nnU-Net clips a CT; None for other images.

    Args:
        plans: the content of a plans file.
        configuration: one of its configurations, with what it inherits.
    """
    if configuration["normalization_schemes"][0] != "CTNormalization":
        return None
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    intensities = PlansManager(plans).foreground_intensity_properties_per_channel["0"]  # old plans name it otherwise
    return intensities["percentile_00_5"], intensities["percentile_99_5"]
