"""Frames of videos with numbers as names: the polyp data sets."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from nnunet_xattnres.commands.convert.data_set import Case, Found
from nnunet_xattnres.commands.convert.pictures import read_pair
from nnunet_xattnres.commands.convert.sources import files_of, only_one
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.pool import Progress

OTHER = "files that are neither picture nor mask"
OTHER_FORMAT = "the same frame in another format"
NO_MASK, NO_IMAGE = "pictures without a mask", "masks without a picture"

Numbered = dict[int, list[Path]]


@dataclass(frozen=True)
class Frames:
    """How the frames of a data set are named, and which belong together.

    ``image`` and ``mask`` match "folder/name" in lower case; their group is the number.
    """

    prefix: str  # of the names of cases
    image: str
    mask: str
    size: tuple[int, int]  # width, height
    sequences: str  # first and last frame of each: 1-38 39-60 ...
    left_out: Mapping[int, str]  # frame -> reason

    @cached_property
    def sequence_of(self) -> dict[int, str]:
        """The sequence of every frame that the data set has."""
        found: dict[int, str] = {}
        for sequence in self.sequences.split():
            first, last = map(int, sequence.split("-"))
            found |= dict.fromkeys(range(first, last + 1), sequence)
        return found

    def find(self, source: Path, size: int | None, progress: Progress) -> Found:
        """The frames of a source that have a mask."""
        found = Found([])
        images, masks = self._files(source, found)
        for number in sorted(images.keys() | masks.keys()):
            if number not in self.sequence_of:
                culprit = (images.get(number) or masks[number])[0]
                raise UserError(
                    f"{culprit}: this data set has the frames 1 to {max(self.sequence_of)}, and no {number}"
                )
            if number not in images or number not in masks:
                found.skip(NO_IMAGE if number in masks else NO_MASK, str(number))
            elif number in self.left_out:
                found.skip(self.left_out[number], str(number))
            else:
                image, mask = (only_one(_originals(paths[number], found), found) for paths in (images, masks))
                read = partial(read_pair, image, mask, size, self.size)
                name, sequence = f"{self.prefix}_{number:03d}", self.sequence_of[number]
                found.cases.append(Case(name, read, (image, mask), sequence=sequence))
        return found

    def _files(self, source: Path, found: Found) -> tuple[Numbered, Numbered]:
        images: Numbered = {}
        masks: Numbered = {}
        for path in files_of(source):
            name = f"{path.parent.name}/{path.name}".lower()
            is_mask = re.fullmatch(self.mask, name)
            match = is_mask or re.fullmatch(self.image, name)
            if match is None:
                found.skip(OTHER, path.name)
            else:
                (masks if is_mask else images).setdefault(int(match[1]), []).append(path)
        return images, masks


def _originals(paths: list[Path], found: Found) -> list[Path]:
    """The TIFFs if there are some: other formats were made from them."""
    tiffs = [path for path in paths if path.suffix.lower() in (".tif", ".tiff")]
    for path in paths if tiffs else ():
        if path not in tiffs:
            found.skip(OTHER_FORMAT, path.name)
    return tiffs or paths
