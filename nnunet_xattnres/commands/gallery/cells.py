"""One case of a gallery as it was read, and the slice of it that the picture shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.commands.gallery.choice import Chosen
from nnunet_xattnres.commands.gallery.material import Material, refuse_other_shape
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.images import read_image, shown_channels
from nnunet_xattnres.nnunet.masks import read_mask
from nnunet_xattnres.pages.slices import fullest, limits_of


@dataclass(frozen=True)
class Volume:
    """A case; all arrays (z, y, x), channels in front.

    Attributes:
        window: what of the image becomes black and white.
        truth: with one value for each class, as the predictions.
        predictions: by the names of the models.
        z: the slice that shows at first.
    """

    chosen: Chosen
    image: NDArray[Any]
    spacing: Sequence[float]
    window: tuple[float, float]
    truth: NDArray[Any]
    predictions: Mapping[str, NDArray[Any]]
    z: int


@dataclass(frozen=True)
class Row:
    """What the picture shows of a case.

    Attributes:
        n_slices: of the case; ``z`` is the one that is shown.
        picture: (y, x, 3), between 0 and 1.
        aspect: height over width of a pixel.
        truth: (y, x).
        predictions: (y, x) and the mean Dice of the whole case, by the names of the models.
    """

    chosen: Chosen
    z: int
    n_slices: int
    picture: NDArray[np.float32]
    aspect: float
    truth: NDArray[Any]
    predictions: Mapping[str, tuple[NDArray[Any], float]]


def read_case(material: Material, chosen: Chosen, z: int | None) -> Volume:
    """Read the image and the masks of a case.

    Args:
        z: the slice to show; None for the one with the most foreground.

    Raises:
        UserError: when a file is missing or cannot be read, shapes differ, or there is no such slice.
    """
    case = chosen.case
    if case not in material.images:
        ending = material.dataset["file_ending"]
        raise UserError(f"there is no image {case}_0000{ending}: name the folder that holds it with --images")
    if case not in material.truth:
        raise UserError(f"there is no true mask of {case}: name the folder that holds it with --labels")
    files, reader, classes = material.images[case], material.reader, material.classes
    image, properties = read_image(reader, files)
    truth = classes.merged(read_mask(reader, material.truth[case])[0])
    masks = {model.name: classes.merged(read_mask(reader, model.files[case])[0]) for model in material.models}
    refuse_other_shape(material.truth[case], truth, files[0], image.shape)
    for model in material.models:
        refuse_other_shape(model.files[case], masks[model.name], files[0], image.shape)
    if z is not None and not 0 <= z < len(truth):
        raise UserError(f"--slice {z}: {case} has the slices 0 to {len(truth) - 1}")
    image = np.nan_to_num(np.asarray(shown_channels(type(reader), image), dtype=np.float32))
    window = material.window or limits_of(image)
    shown = fullest([truth, *masks.values()], classes.ignored) if z is None else z
    return Volume(chosen, image, properties["spacing"], window, truth, masks, shown)


def row_of(volume: Volume, dice: Mapping[str, float]) -> Row:
    """The slice of a case that the picture shows; ``dice`` by the names of the models."""
    low, high = volume.window
    channels = np.clip((volume.image[:, volume.z] - low) / max(high - low, 1e-12), 0, 1)
    return Row(
        chosen=volume.chosen,
        z=volume.z,
        n_slices=len(volume.truth),
        picture=np.repeat(channels, 3 // len(channels), axis=0).transpose(1, 2, 0),
        aspect=volume.spacing[1] / volume.spacing[2],
        truth=volume.truth[volume.z].copy(),
        predictions={name: (mask[volume.z].copy(), dice[name]) for name, mask in volume.predictions.items()},
    )
