"""Made-up anatomy: small 3D images with an organ (label 1) and its duct (label 2), for the demo and the tests.

Lengths are in half extents of the image, so a case looks alike at any size: every axis runs from -1 to 1.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]

STRUCTURES = {"organ": 1, "duct": 2}
CHANNEL = "MRI"
SPACING = (1.2, 1.0, 1.0)  # mm, for the axes of the arrays: slices first
MIN_SIZE = 16

_CONTROLS = 4  # control points of a smooth random field along each axis
_N_NODES = 4  # as bright as the organ, much smaller
_N_RODS = 3  # as bright as the duct, short and straight


def make_case(rng: np.random.Generator, shape: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One image and its labels, both of ``shape`` (slices, rows, columns).

    A body with a bright rim holds the organ, a deformed ellipsoid, and the duct, a bent tube that leaves it; round
    nodes and short rods of the same brightness lie around them. Both labels always occur.

    Raises:
        ValueError: when ``shape`` is not three sizes of at least 16.
    """
    if len(shape) != 3 or min(shape) < MIN_SIZE:
        raise ValueError(f"shape is {tuple(shape)}; expected three sizes of at least {MIN_SIZE}")
    space = _deformed_space(rng, shape)
    voxel = 2 / min(shape)
    organ, center, radii = _organ(rng, space)
    duct = _duct(rng, space, center, radii, voxel)
    organ &= ~duct

    radius = np.sqrt((space**2).sum(axis=0))  # the deformation shapes the body, too
    free = ~ndimage.binary_dilation(organ | duct, iterations=2) & (radius < 0.78)
    image = np.full(tuple(shape), 0.03)
    image[radius < 0.97] = rng.uniform(0.55, 0.85)  # the rim
    inside = radius < 0.86
    image[inside] = 0.36 + 0.05 * _smooth_field(rng, shape, 8)[inside]
    for part, level in _distractors(rng, space, voxel):
        image[part & free] = level
    image[organ] = rng.uniform(0.54, 0.66)
    image[duct] = rng.uniform(0.72, 0.84)

    image = ndimage.gaussian_filter(image, 0.5)  # voxels at a border hold both sides
    image *= np.exp(0.1 * _smooth_field(rng, shape, _CONTROLS))  # the coil's bias field
    image += rng.normal(scale=0.05, size=image.shape)
    labels = organ.astype(np.uint8) * STRUCTURES["organ"] + duct.astype(np.uint8) * STRUCTURES["duct"]
    return (1000 * image).astype(np.float32), labels


def write_dataset(raw: Path, name: str, n_train: int, n_test: int, shape: Sequence[int], seed: int) -> Path:
    """Write a dataset in nnU-Net's raw format, the held-out cases as imagesTs and labelsTs.

    Args:
        raw: the folder of nnUNet_raw.
        name: such as "Dataset900_Demo".
        n_train: how many cases for training.
        n_test: how many held-out cases.
        shape: (slices, rows, columns) of every image.
        seed: the same seed gives the same dataset.

    Returns:
        The dataset's folder, ``raw / name``.
    """
    rng = np.random.default_rng(seed)
    folder = raw / name
    for split, n_cases in (("Tr", n_train), ("Ts", n_test)):
        images, labels = folder / f"images{split}", folder / f"labels{split}"
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(exist_ok=True)
        for i in range(n_cases):
            case = f"{'case' if split == 'Tr' else 'heldout'}_{i:03d}"
            image, segmentation = make_case(rng, shape)
            _write(image, images / f"{case}_0000.nii.gz")
            _write(segmentation, labels / f"{case}.nii.gz")
    description = {
        "channel_names": {"0": CHANNEL},
        "labels": {"background": 0, **STRUCTURES},
        "numTraining": n_train,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return folder


def _write(array: NDArray[Any], path: Path) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(image, str(path), True)


def _smooth_field(rng: np.random.Generator, shape: Sequence[int], controls: int) -> Floats:
    """A smooth random field of ``shape``, of about unit variance."""
    coarse = rng.normal(size=(controls,) * 3)
    return ndimage.zoom(coarse, [n / controls for n in shape], order=3, mode="nearest", grid_mode=True)


def _deformed_space(rng: np.random.Generator, shape: Sequence[int]) -> Floats:
    """Where each voxel lies in an anatomy that is not deformed: (3, *shape)."""
    grid = np.meshgrid(*((np.arange(n) + 0.5) * 2 / n - 1 for n in shape), indexing="ij")
    return np.stack([axis + 0.07 * _smooth_field(rng, shape, _CONTROLS) for axis in grid])


def _organ(rng: np.random.Generator, space: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """The organ's voxels, its centre and its half axes."""
    center, radii = rng.uniform(-0.22, 0.22, 3), rng.uniform(0.3, 0.44, 3)
    distance = (((space - _column(center)) / _column(radii)) ** 2).sum(axis=0)
    return distance < 1, center, radii


def _duct(rng: np.random.Generator, space: Floats, center: Floats, radii: Floats, voxel: float) -> NDArray[np.bool_]:
    """The voxels of a tube that starts at the organ's surface, runs away from it and bends around it."""
    outward = -center + rng.normal(scale=0.25, size=3)  # there is room towards the middle
    outward /= np.linalg.norm(outward)
    around = np.cross(outward, rng.normal(size=3))
    around /= np.linalg.norm(around)
    start = center + 0.9 * radii * outward
    bend, end = center + 1.6 * radii * outward + 0.25 * around, center + 0.9 * radii * outward + 0.85 * around
    t = np.linspace(0, 1, 24)[:, None]
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    curve *= np.minimum(1, 0.72 / np.linalg.norm(curve, axis=1, keepdims=True))  # stay inside the body
    return _near(space, curve, max(rng.uniform(0.17, 0.21), voxel))


def _distractors(rng: np.random.Generator, space: Floats, voxel: float) -> list[tuple[NDArray[np.bool_], float]]:
    """Nodes and rods, each with its brightness."""
    parts = []
    for _ in range(_N_NODES):
        center = _somewhere(rng)
        parts.append((_near(space, center[None], max(rng.uniform(0.1, 0.16), voxel)), rng.uniform(0.54, 0.84)))
    for _ in range(_N_RODS):
        center, half = _somewhere(rng), rng.normal(size=3)
        half *= 0.13 / np.linalg.norm(half)
        rod = center + np.linspace(-1, 1, 7)[:, None] * half
        parts.append((_near(space, rod, max(rng.uniform(0.07, 0.1), voxel)), rng.uniform(0.54, 0.84)))
    return parts


def _somewhere(rng: np.random.Generator) -> Floats:
    direction = rng.normal(size=3)
    return direction / np.linalg.norm(direction) * rng.uniform(0.3, 0.72)


def _near(space: Floats, points: Floats, radius: float) -> NDArray[np.bool_]:
    """The voxels nearer than ``radius`` to one of ``points``, (N, 3)."""
    near = np.zeros(space.shape[1:], dtype=bool)
    for point in points:
        near |= ((space - _column(point)) ** 2).sum(axis=0) < radius**2
    return near


def _column(point: Floats) -> Floats:
    return point[:, None, None, None]
