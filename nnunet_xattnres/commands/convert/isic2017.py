"""ISIC 2017, part 1: training, validation and test set in folders of their own."""

import re
from functools import partial
from pathlib import Path

from nnunet_xattnres.commands.convert.data_set import Case, DataSet, Found
from nnunet_xattnres.commands.convert.frames import NO_IMAGE, NO_MASK
from nnunet_xattnres.commands.convert.pictures import CHANNEL_NAMES, read_pair
from nnunet_xattnres.commands.convert.sources import files_of, only_one
from nnunet_xattnres.nnunet.pool import Progress

IMAGE = re.compile(r"(ISIC_\d{7})\.jpe?g", re.IGNORECASE)
MASK = re.compile(r"(ISIC_\d{7})_segmentation\.png", re.IGNORECASE)
FOLDER = re.compile(r"ISIC-?2017_(training|validation|test)(?:_v\d)?_(?:data|part1_groundtruth)", re.IGNORECASE)
SUPERPIXELS = "superpixels"
OTHER = "other files: tables, and what is not of part 1"


def find(source: Path, size: int | None, progress: Progress) -> Found:
    """The pictures of a source that have a mask; the names of their folders say of which part they are."""
    found = Found([])
    images: dict[str, list[Path]] = {}
    masks: dict[str, list[Path]] = {}
    for path in files_of(source.absolute()):
        image, mask = IMAGE.fullmatch(path.name), MASK.fullmatch(path.name)
        match = image or mask
        if match is None or _part(path) is None:
            found.skip(SUPERPIXELS if path.stem.lower().endswith("_superpixels") else OTHER, path.name)
        else:
            (images if image else masks).setdefault(match[1].upper(), []).append(path)
    for name in sorted(images.keys() | masks.keys()):
        if name not in images or name not in masks:
            found.skip(NO_IMAGE if name in masks else NO_MASK, name)
            continue
        image_file, mask_file = only_one(images[name], found), only_one(masks[name], found)
        read = partial(read_pair, image_file, mask_file, size)
        found.cases.append(Case(name, read, (image_file, mask_file), part=str(_part(image_file))))
    return found


def _part(path: Path) -> str | None:
    """Of the innermost folder that says it."""
    matches = (FOLDER.fullmatch(folder.name) for folder in path.parents)
    return next((match[1].lower() for match in matches if match), None)


ISIC2017 = DataSet(
    title="ISIC 2017, part 1",
    number=953,
    folder="ISIC2017",
    channels=CHANNEL_NAMES,
    labels=("lesion",),
    file_ending=".png",
    terms="CC0.",
    cite="Codella et al., ISBI 2018",
    parts={"training": 2000, "validation": 150, "test": 600},
    splits=("official", "random"),
    expected=(
        "the folders ISIC-2017_Training_Data and ISIC-2017_Training_Part1_GroundTruth with ISIC_N.jpg and "
        "ISIC_N_segmentation.png, and those of Validation and Test_v2"
    ),
    find=find,
)
