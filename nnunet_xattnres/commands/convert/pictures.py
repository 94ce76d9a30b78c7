"""Pairs of a colour picture and a mask of one object, from the formats that they are distributed in."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nnunet_xattnres.commands.convert.data_set import Pair, SkippedCaseError
from nnunet_xattnres.commands.convert.sources import reading
from nnunet_xattnres.common.errors import UserError

Bytes = NDArray[np.uint8]

GREY_TAG = "colour pictures that are tagged as grey"
ALPHA = "pictures or masks with an alpha channel"
CHANNELS = "masks with several equal channels"
GREYS = "masks with grey values, cut at 127"
WHITE = "masks that are white all over; if the object is in their transparency, save that as the mask"
SIZES = "picture and mask differ in size"

CHANNEL_NAMES = ("R", "G", "B")

_WANTED = "expected are 8 bits, RGB or for a mask grey: fetch it again, or save it so in a program for pictures"


def read_pair(image: Path, mask: Path, size: int | None, expected: tuple[int, int] | None = None) -> Pair:
    """A picture and its mask as PNG.

    Args:
        image, mask: the files.
        size: squeeze both to ``size`` x ``size``; None leaves them.
        expected: (width, height) of every picture of the data set; None where they differ.

    Raises:
        UserError: when a file cannot be read or holds something else.
        SkippedCaseError: when the two differ in size, or nothing is around the object.
    """
    picture, mended = read_colour(image)
    foreground, mended_mask = read_mask(mask)
    width, height = picture.shape[1], picture.shape[0]
    if expected is not None and (width, height) != expected:
        raise UserError(
            f"{image} is {width} x {height}; the pictures of this data set are {expected[0]} x {expected[1]}"
        )
    if foreground.shape != picture.shape[:2]:
        raise SkippedCaseError(SIZES)
    colours, labels = Image.fromarray(picture), Image.fromarray(foreground.astype(np.uint8))
    if size is not None:
        colours = colours.resize((size, size), Image.Resampling.BILINEAR)  # over all pixels that it covers
        labels = labels.resize((size, size), Image.Resampling.NEAREST)
        if labels.getextrema() == (0, 0):
            raise UserError(f"{mask}: nothing of the object is left at {size} x {size}; choose a larger --size")
    fingerprint = hashlib.sha256(picture.tobytes()).hexdigest()[:16]
    return Pair(_png(colours), _png(labels), tuple(dict.fromkeys(mended + mended_mask)), fingerprint)


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def read_colour(path: Path) -> tuple[Bytes, list[str]]:
    """A picture, (rows, columns, 3), and what was mended.

    Raises:
        UserError: when it has no three colours of 8 bits.
    """
    pixels, mended = _read(path)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise UserError(f"{path} is no colour picture of 8 bits: {pixels.shape}, {pixels.dtype}; {_WANTED}")
    return pixels[..., :3], [*mended, ALPHA] if pixels.shape[2] == 4 else mended


def read_mask(path: Path) -> tuple[NDArray[np.bool_], list[str]]:
    """A mask, (rows, columns), and what was mended.

    Raises:
        UserError: when it is no mask of black and white.
        SkippedCaseError: when nothing is around the object.
    """
    pixels, _ = _read(path)
    mended = []
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
        mended.append(ALPHA)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        mended += [CHANNELS] * (pixels.shape[2] > 1)
        pixels = pixels[..., 0]
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise UserError(f"{path} is no mask of black and white with 8 bits: {pixels.shape}, {pixels.dtype}; {_WANTED}")
    foreground = pixels > 127  # the black border of a camera is not 0
    if not foreground.any():
        raise UserError(
            f"{path} has no pixel above 127, {pixels.max()} at the most; a mask here has 255 on the object: write that "
            f"(a mask of 0 and 1 times 255), or take out picture and mask if there is no object"
        )
    if foreground.all():
        raise SkippedCaseError(WHITE)
    if not np.isin(pixels, (0, 255)).all():
        mended.append(GREYS)
    return foreground, mended


def _read(path: Path) -> tuple[NDArray[Any], list[str]]:
    with reading(path):
        if path.suffix.lower() in (".tif", ".tiff"):
            return _read_tiff(path)
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "P", "PA"):
                raise UserError(f"{path} has colours of the kind {image.mode}; {_WANTED}")
            colours = "RGBA" if image.has_transparency_data else "RGB"
            return np.asarray(image.convert(colours) if image.mode in ("P", "PA") else image), []


def _read_tiff(path: Path) -> tuple[NDArray[Any], list[str]]:
    """The pixels, three channels even of a file that is tagged as grey: Pillow and SimpleITK believe the tag."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            kind = getattr(page.photometric, "name", page.photometric)
            raise UserError(f"{path} has colours of the kind {kind}; {_WANTED}")
        pixels = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        is_tagged_grey = page.photometric == tifffile.PHOTOMETRIC.MINISBLACK and pixels.ndim == 3
    return pixels, [GREY_TAG] if is_tagged_grey else []
