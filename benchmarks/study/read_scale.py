"""How large a read is beside the skip: one of the two could drown the other."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from benchmarks.study.description import Study, Training
from benchmarks.study.folders import Folders
from benchmarks.study.scheduled import TRAINERS
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.nnunet.checkpoints import read_checkpoint
from nnunet_xattnres.reads.history import reads_of, with_history
from nnunet_xattnres.training.build import PlannedNetwork

N_CASES = 4


def read_scale(study: Study, folders: Folders, training: Training) -> dict[str, float]:
    """The root mean square of every read over that of the map whose place it takes or shares.

    That map is the skip in the decoder and the output of the stage before in the encoder. Over the central patches of
    some validation cases; a gated read is taken after its gate. Empty for a network without reads of a history.
    """
    network, patch_size = _network(study, folders, training)
    if with_history(network) is None or not reads_of(network):
        return {}
    return scale_of(network, _images(study, folders, training, patch_size))


def scale_of(network: Any, images: Iterable[Tensor]) -> dict[str, float]:
    """The same, of a network on images, each (B, channels, *spatial)."""
    squares: dict[str, list[tuple[float, float]]] = {name: [] for name in reads_of(network)}
    names = [stage.name for stage in network.history_stages]
    n_encoder = (len(names) + 1) // 2  # of EMCAD's decoder there is a stage more, beside the deepest
    hooks = []
    for name, read in reads_of(network).items():
        stage = names.index(name)
        beside = stage - 1 if stage < n_encoder else len(names) - 1 - stage  # the stage before, or the skip
        hooks.append(read.register_forward_pre_hook(_measure(squares[name], beside), with_kwargs=True))
    with torch.inference_mode():
        for image in images:
            network(image)
    for hook in hooks:
        hook.remove()
    return {
        name: round((sum(r for r, _ in found) / sum(b for _, b in found)) ** 0.5, 4) for name, found in squares.items()
    }


def _measure(squares: list[tuple[float, float]], beside: int) -> Callable[..., None]:
    def hook(read: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        pool, size = args
        alone = read.forward(pool, size)  # without the skip; forward calls no hook
        squares.append((_mean_square(alone), _mean_square(pool[beside])))

    return hook


def _mean_square(x: Tensor) -> float:
    return float(x.double().square().mean())


def _network(study: Study, folders: Folders, training: Training) -> tuple[nn.Module, list[int]]:
    model = folders.model(study, training)
    plans, dataset = read_json(model / "plans.json"), read_json(model / "dataset.json")
    planned = PlannedNetwork.of(plans, dataset, study.configuration)
    network = planned.build(TRAINERS[training.trainer], deep_supervision=False)
    network.load_state_dict(read_checkpoint(folders.fold(study, training) / "checkpoint_final.pth")["network_weights"])
    return network.eval(), list(planned.configuration.patch_size)


def _images(study: Study, folders: Folders, training: Training, patch_size: list[int]) -> list[Tensor]:
    """The central patch of each case, (1, channels, *patch_size)."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    plans = read_json(folders.model(study, training) / "plans.json")
    folder = folders.preprocessed(study) / plans["configurations"][study.configuration]["data_identifier"]
    cases = read_json(folders.preprocessed(study) / "splits_final.json")[training.fold]["val"][:N_CASES]
    dataset = infer_dataset_class(str(folder))(str(folder), cases)
    images = []
    for case in cases:
        data, *_ = dataset.load_case(case)
        data = torch.from_numpy(data[:]).float()
        data = data if len(patch_size) == 3 else data[:, data.shape[1] // 2]
        data = pad_nd_image(data, patch_size)
        starts = [(n - p) // 2 for n, p in zip(data.shape[1:], patch_size, strict=True)]
        images.append(data[(slice(None), *(slice(s, s + p) for s, p in zip(starts, patch_size, strict=True)))][None])
    return images
