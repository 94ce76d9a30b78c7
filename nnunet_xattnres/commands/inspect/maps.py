"""Where in the image a read takes what from: the weight of every source at every voxel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.commands.inspect.predictor import WatchedPredictor

Array = NDArray[np.float32]


class MapsWatcher:
    """Puts the weights of one read together for a whole image, as nnU-Net does with the logits of its patches."""

    def __init__(self, read: str) -> None:
        self.read = read
        self._done: Tensor | None = None
        self._folds = 0

    def start(self, image: Tensor) -> None:
        self._size = image.shape[1:]
        self._total, self._count = torch.empty(0), torch.zeros(self._size)

    def patch(self, place: tuple[Any, ...], importance: Tensor, logits: Tensor, weights: dict[str, Tensor]) -> None:
        a = weights[self.read].float()
        if a.shape[1:] != importance.shape:
            mode = {2: "bilinear", 3: "trilinear"}[importance.ndim]
            a = F.interpolate(a[None], size=tuple(importance.shape), mode=mode)[0]
        if not self._total.numel():
            self._total = torch.zeros(len(a), *self._size)
        self._total[_all_channels(place)] += (a * importance).cpu()
        self._count[place] += importance.cpu()

    def end(self) -> None:
        self._total /= self._count  # in place, here and below: it is as large as the image times the sources
        self._folds += 1
        self._done = self._total if self._done is None else self._done.lerp_(self._total, 1 / self._folds)
        self._total = torch.empty(0)

    def maps(self) -> Tensor:
        """The weights, (N, *size of the padded image), the mean over the folds."""
        assert self._done is not None, "no prediction has been watched"
        return self._done


def in_the_image(predictor: WatchedPredictor, maps: Tensor, image: Tensor, properties: dict[str, Any]) -> Array:
    """Bring maps of a preprocessed image, (N, *padded size), to the original one's voxels: (N, *shape as it was read).

    Outside of nnU-Net's crop, where the network has not looked, all sources get the same weight.
    """
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    padded = pad_nd_image(image, configuration.patch_size, "constant", {"value": 0}, True, None)[1]
    maps = maps[_all_channels(padded[1:])]
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][i] for i in plans.transpose_forward]
    before = configuration.spacing if len(configuration.spacing) == len(shape) else [spacing[0], *configuration.spacing]
    full = np.full((len(maps), *properties["shape_before_cropping"]), 1 / len(maps), dtype=np.float32)
    cropped = full[_all_channels(bounding_box_to_slice(properties["bbox_used_for_cropping"]))]
    for k in range(len(maps)):  # source by source: all of them at once would be a further copy
        resampled = configuration.resampling_fn_probabilities(maps[k : k + 1], shape, before, spacing)
        np.clip(np.asarray(resampled[0]), 0, None, out=cropped[k])
    cropped /= cropped.sum(axis=0)
    return full.transpose([0, *(i + 1 for i in plans.transpose_backward)])


def seen_of(predictor: WatchedPredictor, properties: dict[str, Any]) -> tuple[slice, slice, slice]:
    """The part of an image as it was read, (z, y, x), that nnU-Net's crop has left: what the network has looked at."""
    box = bounding_box_to_slice(properties["bbox_used_for_cropping"])
    z, y, x = (box[i] for i in predictor.plans_manager.transpose_backward)
    return z, y, x


def _all_channels(place: Sequence[Any]) -> tuple[Any, ...]:
    return (slice(None), *place)


def write_maps(maps: Array, sources: Sequence[str], properties: dict[str, Any], stem: Path) -> list[Path]:
    """Write one file for each source, ``stem_SOURCE``, with the geometry of the image.

    NIfTI in single precision; of a 2D image without a geometry (PNG and its like) a 16-bit PNG, in which 65535 is one.
    """
    files = []
    for source, values in zip(sources, maps, strict=True):
        path = stem.with_name(f"{stem.name}_{source}")
        if "sitk_stuff" in properties:
            files.append(_write_sitk(values, properties["sitk_stuff"], path))
        elif "nibabel_stuff" in properties:
            files.append(_write_nibabel(values, properties["nibabel_stuff"], path))
        elif len(values) == 1:
            from skimage.io import imsave

            files.append(path.with_name(f"{path.name}.png"))
            imsave(str(files[-1]), np.round(values[0] * 65535).astype(np.uint16), check_contrast=False)
        else:
            spacing = [float(s) for s in reversed(properties["spacing"])]
            files.append(_write_sitk(values, {"spacing": spacing}, path))
    return files


def _write_sitk(values: Array, geometry: dict[str, Any], path: Path) -> Path:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(values[0] if len(geometry["spacing"]) == 2 else values)
    image.SetSpacing(geometry["spacing"])
    if "origin" in geometry:
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
    if "original_orientation" in geometry:  # of SimpleITKIOWithReorient
        image = SimpleITK.DICOMOrient(image, geometry["original_orientation"])
    path = path.with_name(f"{path.name}.nii.gz")
    SimpleITK.WriteImage(image, str(path), True)
    return path


def _write_nibabel(values: Array, geometry: dict[str, Any], path: Path) -> Path:
    import nibabel
    from nibabel.orientations import io_orientation, ornt_transform

    original = geometry["original_affine"]
    affine = geometry.get("reoriented_affine", original)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine)
    back = ornt_transform(io_orientation(affine), io_orientation(original))
    path = path.with_name(f"{path.name}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.as_reoriented(back).dataobj), original), path)
    return path
