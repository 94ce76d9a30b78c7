"""nnU-Net's own prediction with something that looks on at every patch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.modules import uncompiled
from nnunet_xattnres.nnunet.images import images_in, read_image
from nnunet_xattnres.nnunet.loading import load_into
from nnunet_xattnres.nnunet.model_folder import checkpoints_of
from nnunet_xattnres.reads.history import reads_of, with_history
from nnunet_xattnres.reads.recorder import recorded


class Watcher(Protocol):
    """What is told of a prediction."""

    def start(self, image: Tensor) -> None:
        """A sliding window begins over ``image``, (channels, *size); one that has begun and not ended is void."""

    def patch(self, place: tuple[Any, ...], importance: Tensor, logits: Tensor, weights: dict[str, Tensor]) -> None:
        """A patch: where in the image it is, nnU-Net's Gaussian, (*patch), its logits, and the weights of the reads."""

    def end(self) -> None:
        """The sliding window has ended."""


class WatchedPredictor(nnUNetPredictor):
    """Predicts as nnU-Net does, and tells its watchers; of mirrored patches, of the unmirrored pass.

    The two methods that are extended are not public in nnU-Net; tests/test_upstream_contracts.py has them.
    """

    watchers: tuple[Watcher, ...] = ()

    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: Sequence[tuple[Any, ...]], do_on_device: bool = True
    ) -> Tensor:
        self._places = iter(slicers)
        for watcher in self.watchers:
            watcher.start(data)
        logits = super()._internal_predict_sliding_window_return_logits(data, slicers, do_on_device)
        for watcher in self.watchers:
            watcher.end()
        return logits

    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        place = next(self._places)
        if not self.watchers:
            return super()._internal_maybe_mirror_and_predict(x)
        weights: dict[str, Tensor] = {}

        def keep_the_first(name: str, a: Tensor) -> None:
            if name not in weights:
                weights[name] = _of_the_patch(a[0], x.shape[2:], self.network)

        with recorded(self.network, keep_the_first):
            logits = super()._internal_maybe_mirror_and_predict(x)
        patch = tuple(self.configuration_manager.patch_size)
        importance = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=x.device)
        for watcher in self.watchers:
            watcher.patch(place[1:], importance.float(), logits[0], weights)
        return logits


def _of_the_patch(weights: Tensor, size: Sequence[int], network: Any) -> Tensor:
    """The weights of a read, (N, *its size), as they are, or (N, *size) if the network pads its input inside."""
    padded = getattr(with_history(network), "padded", tuple)(size)
    if padded == tuple(size):
        return weights
    mode, inside = {2: "bilinear", 3: "trilinear"}[len(size)], (slice(None), *map(slice, size))
    return F.interpolate(weights.float()[None], padded, mode=mode)[0][inside]


@contextmanager
def watched(predictor: WatchedPredictor, *watchers: Watcher) -> Iterator[None]:
    """Tell the watchers of every prediction while the block runs."""
    predictor.watchers = watchers
    try:
        yield
    finally:
        predictor.watchers = ()


def load_model(
    folder: Path, folds: Sequence[str], checkpoint: str, device: torch.device, mirroring: bool
) -> tuple[WatchedPredictor, list[Path]]:
    """A trained model that has reads, and its checkpoints.

    Args:
        folder: TRAINER__PLANS__CONFIGURATION in nnUNet_results.
        folds: if none is named, all that are trained; ``all`` only where it is the only one.

    Raises:
        UserError: when files are missing or cannot be loaded, or the network has no reads.
    """
    every = checkpoints_of(folder, "*.pth")
    there = [file for file in every if file.name == checkpoint]
    if not there:
        names = ", ".join(str(file.relative_to(folder)) for file in every)
        raise UserError(
            f"no fold of {folder} has the checkpoint {checkpoint}; there is {names}: take one with -chk NAME"
        )
    chosen = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    chosen = chosen or [file for file in there if file.parent.name != "fold_all"] or there
    missing = [file for file in chosen if not file.is_file()]
    if missing:
        names = ", ".join(str(file.relative_to(folder)) for file in there)
        raise UserError(f"{missing[0]} does not exist; there is {names}")
    predictor = WatchedPredictor(
        use_mirroring=mirroring, device=device, allow_tqdm=False, perform_everything_on_device=device.type == "cuda"
    )
    load_into(predictor, chosen)
    predictor.network = uncompiled(predictor.network)
    if not reads_of(predictor.network):
        why = getattr(predictor.network, "unseen", "")
        raise UserError(
            f"{folder} is a model of {predictor.trainer_name}, whose network has no reads: nothing is to be seen. "
            f"{why and why + ' '}Name a model of nnUNetTrainerXAttnRes..., or of plans with reads."
        )
    if predictor.configuration_manager.previous_stage_name is not None:
        raise UserError(
            f"{folder} is the second stage of a cascade, which inspect cannot feed; inspect its first stage"
        )
    return predictor, chosen


def cases_of(predictor: WatchedPredictor, images: Path) -> dict[str, list[str]]:
    """The files of every case: of a folder as nnU-Net wants it, or of a single case, by one of its files.

    Raises:
        UserError: when there is no image, a file is a link to nothing or cannot be read, or a case has another number
            of channels than the model takes.
    """
    ending = predictor.dataset_json["file_ending"]
    if not images.exists():
        raise UserError(f"{images} does not exist")
    folder = images if images.is_dir() else images.parent
    cases = images_in(folder, ending)
    if not images.is_dir():
        cases = {case: files for case, files in cases.items() if str(images) in files}
    if not cases:
        raise UserError(f"{images} holds no image CASE_0000{ending}, as the model was trained on")
    gone = next((file for files in cases.values() for file in files if not Path(file).is_file()), None)
    if gone is not None:
        raise UserError(f"{gone} is a link to a file that does not exist")
    reader = predictor.plans_manager.image_reader_writer_class()
    colours = isinstance(reader, NaturalImage2DIO)
    for files in cases.values():
        if colours or len(files) != _channels_of(predictor):  # one file may have several
            _refuse_other_channels(predictor, files, len(read_image(reader, files)[0]))
    return cases


def _channels_of(predictor: WatchedPredictor) -> int:
    return determine_num_input_channels(
        predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    )


def _refuse_other_channels(predictor: WatchedPredictor, files: Sequence[str], found: int) -> None:
    if found != (expected := _channels_of(predictor)):
        raise UserError(f"{', '.join(files)}: {found} channel(s), but the model takes {expected}")


def preprocess(predictor: WatchedPredictor, files: Sequence[str]) -> tuple[Tensor, dict[str, Any]]:
    """A case as nnU-Net's preprocessing gives it, (channels, *size), and what is needed to go back.

    Raises:
        UserError: when the files have another number of channels than the model takes.
    """
    plans, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(list(files), None, plans, configuration, dataset)
    _refuse_other_channels(predictor, files, len(data))
    return torch.from_numpy(data), properties


def mask_of(predictor: WatchedPredictor, logits: Tensor, properties: dict[str, Any]) -> NDArray[Any]:
    """The mask that nnUNetv2_predict would write."""
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, predictor.plans_manager, predictor.configuration_manager, predictor.label_manager, properties
    )
