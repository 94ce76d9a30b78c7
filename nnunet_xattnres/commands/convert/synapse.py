"""Synapse multi-organ CT: BTCV's NIfTI, or the arrays of TransUNet, of EMCAD and of others, told apart by content."""

import re
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_xattnres.commands.convert.data_set import Case, DataSet, Found
from nnunet_xattnres.commands.convert.organs import ORGANS, Order, label_order, measure, measure_axes, order_of
from nnunet_xattnres.commands.convert.sources import files_of, only_one
from nnunet_xattnres.commands.convert.volumes import UPRIGHT, ArrayVolume, Lookup, NiftiVolume, Volume
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.pool import Progress

# In-plane spacing, slice spacing (mm) and slices of the 30 cases; arrays have lost the first two.
# fmt: off
GEOMETRY = {
    1: (.668, 3, 147), 2: (.721, 3, 139), 3: (.898, 3, 198), 4: (.594, 3, 140), 5: (.906, 3, 117),
    6: (.701, 3, 131), 7: (.748, 3, 163), 8: (.729, 3, 148), 9: (.977, 2.5, 149), 10: (.781, 3, 148),
    21: (.684, 3, 143), 22: (.768, 5, 89), 23: (.707, 5, 96), 24: (.686, 3, 124), 25: (.832, 5, 85),
    26: (.779, 5, 131), 27: (.775, 5, 88), 28: (.797, 5, 89), 29: (.875, 3, 100), 30: (.742, 3, 153),
    31: (.838, 3, 93), 32: (.740, 3, 144), 33: (.814, 5, 104), 34: (.672, 5, 98), 35: (.920, 5, 94),
    36: (.746, 3, 184), 37: (.703, 5, 99), 38: (.977, 5, 100), 39: (.976, 5, 90), 40: (.742, 3, 195),
}
# fmt: on
TEST = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)

NAMES = {
    "NIfTI image": re.compile(r"img(\d{4})\.nii(?:\.gz)?"),
    "NIfTI label": re.compile(r"label(\d{4})\.nii(?:\.gz)?"),
    "npz": re.compile(r"case(\d{4})_slice(\d{3})\.npz"),
    "h5": re.compile(r"case(\d{4})\.npy\.h5"),
}
OTHER = "other files"
NO_LABEL, NO_IMAGE = "volumes without labels, such as BTCV's own test set", "labels without a volume"

Files = dict[str, dict[int, dict[str, list[Path]]]]  # kind -> case -> file name -> where


def find(source: Path, size: int | None, progress: Progress) -> Found:
    """The cases of a source, with the order of labels and the axes that were measured on them.

    Raises:
        UserError: for --size, for volumes that are not whole, and when what was measured fits nothing.
    """
    if size is not None:
        raise UserError("--size is for pictures; nnU-Net resamples CT itself, by its spacing")
    found = Found([])
    files = _files(source, found)
    kinds = {"NIfTI": _nifti(files, found), "npz": _slices(files, found), "h5": _h5(files, found)}
    kinds = {kind: volumes for kind, volumes in kinds.items() if volumes}
    twice = [n for n in GEOMETRY if sum(n in volumes for volumes in kinds.values()) > 1]
    if twice or ("NIfTI" in kinds and len(kinds) > 1):
        raise UserError(f"{source} holds several distributions: {', '.join(kinds)}; name the folder of one")
    for kind, volumes in kinds.items():
        _add(found, kind, volumes, progress)
    if len({value for key, value in found.measured.items() if key.startswith("labels")}) > 1:
        raise UserError(f"{source} holds several distributions: {found.measured}; name the folder of one")
    return found


def _files(source: Path, found: Found) -> Files:
    files: Files = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for path in files_of(source):
        kind, match = next(((k, m) for k, p in NAMES.items() if (m := p.fullmatch(path.name))), (OTHER, None))
        if match is None:
            found.skip(OTHER, path.name)
        elif int(match[1]) not in GEOMETRY:
            found.skip(NO_LABEL if kind == "NIfTI image" else "not of the 30 cases with labels", path.name)
        else:
            files[kind][int(match[1])][path.name].append(path)
    return files


def _nifti(files: Files, found: Found) -> dict[int, Volume]:
    images, labels = files["NIfTI image"], files["NIfTI label"]
    volumes: dict[int, Volume] = {}
    for number in sorted(images.keys() | labels.keys()):
        if number in images and number in labels:
            one = (
                only_one([p for paths in named[number].values() for p in paths], found) for named in (images, labels)
            )
            volumes[number] = NiftiVolume(*one)
        else:
            found.skip(NO_LABEL if number in images else NO_IMAGE, f"{number:04d}")
    return volumes


def _slices(files: Files, found: Found) -> dict[int, Volume]:
    volumes: dict[int, Volume] = {}
    for number, slices in sorted(files["npz"].items()):
        *spacing, n_slices = GEOMETRY[number]
        names = [f"case{number:04d}_slice{i:03d}.npz" for i in range(int(n_slices))]
        missing = [name for name in names if name not in slices]
        if missing or len(slices) > len(names):
            lacks = (
                f"{len(missing)} of them, {missing[0]} first, are not there" if missing else f"{len(slices)} are there"
            )
            raise UserError(f"case{number:04d} has {len(names)} slices, and {lacks}")
        paths = [only_one(slices[name], found) for name in names]
        volumes[number] = ArrayVolume(paths, (spacing[0], spacing[1]), len(names))
    return volumes


def _h5(files: Files, found: Found) -> dict[int, Volume]:
    volumes: dict[int, Volume] = {}
    for number, named in sorted(files["h5"].items()):
        in_plane, between, n_slices = GEOMETRY[number]
        (paths,) = named.values()
        volumes[number] = ArrayVolume([only_one(paths, found)], (in_plane, between), int(n_slices))
    return volumes


def _add(found: Found, kind: str, volumes: dict[int, Volume], progress: Progress) -> None:
    """Measure the volumes of one kind of file, and add them as cases."""
    measured, one_is_done = [], progress(f"measuring {kind}", len(volumes))
    for number in sorted(volumes):
        measured.append(measure(f"case{number:04d}", volumes[number].labels()))
        one_is_done()
    name = label_order(measured)
    order = order_of(name)
    axes = measure_axes(measured, order, slice_axis=2 if kind == "NIfTI" else 0)
    if kind == "NIfTI" and axes != UPRIGHT:
        raise UserError(f"the headers are wrong: the axes run {axes} by the organs, and left, posterior, up by them")
    found.measured |= {f"labels of {kind}": f"{name} numbers", f"axes of {kind}": f"run {axes}"}
    for number, volume in volumes.items():
        part = "test" if number in TEST else "training"
        read = partial(volume.pair, _lookup(order), axes)
        found.cases.append(Case(f"case{number:04d}", read, volume.files, part=part))


def _lookup(order: Order) -> Lookup:
    lookup = np.zeros(256, np.uint8)
    for label, organ in enumerate(ORGANS, start=1):
        lookup[order[organ]] = label
    return lookup


SYNAPSE = DataSet(
    title="Synapse multi-organ CT",
    number=950,
    folder="SynapseCT",
    channels=("CT",),
    labels=ORGANS,
    file_ending=".nii.gz",
    terms="BTCV asks for a registration at Synapse (syn3193805); CC BY 4.0 according to a later collection.",
    cite="Landman et al., MICCAI 2015 challenge: Multi-Atlas Labeling Beyond the Cranial Vault",
    parts={"training": 18, "test": 12},
    splits=("official", "random"),
    expected=(
        "BTCV's imgN.nii.gz and labelN.nii.gz, or caseN_sliceM.npz and caseN.npy.h5 as TransUNet, EMCAD and others "
        "distribute them"
    ),
    find=find,
)
