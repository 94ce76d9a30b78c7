"""Try the paths of a network's reads on this GPU ahead of a training, which then starts at once."""

from collections.abc import Callable

import torch

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.networks.registry import is_ours
from nnunet_xattnres.nnunet.folders import preprocessed_folder
from nnunet_xattnres.nnunet.plans import network_class_of, read_plans
from nnunet_xattnres.nnunet.trainers import find_trainer
from nnunet_xattnres.ops.choice import forced_path
from nnunet_xattnres.ops.tuning import Found, choose_paths
from nnunet_xattnres.reads.shapes import shapes_to_choose
from nnunet_xattnres.training.build import PlannedNetwork


def tune(
    dataset: str,
    configuration: str,
    plans: str,
    trainer: str | None,
    device: torch.device,
    log: Callable[[str], object],
    n_gpus: int = 1,
) -> list[Found]:
    """Choose the paths for training with the plan's batch, and for prediction with one image, and remember them.

    Args:
        dataset: its number or name.
        configuration, plans: by name.
        trainer: likewise; None for nnUNetTrainerXAttnRes, or where the plans have reads nnUNetTrainer.
        device: a GPU.
        log: takes one line a read.
        n_gpus: of a training, which share the batch; ``device`` stands for each of them.

    Raises:
        UserError: when the data set, the plans, the configuration or the trainer is not there, a path is forced, or
            there are more GPUs than samples in the batch.
    """
    if forced_path() is not None:
        raise UserError("NNUNET_XATTNRES_PATH forces a path: unset it, or there is nothing to choose")
    folder = preprocessed_folder(dataset)
    content = read_plans(folder / f"{plans}.json")
    network_class = network_class_of(content, configuration)
    if trainer is None:
        trainer = "nnUNetTrainer" if is_ours(network_class) else "nnUNetTrainerXAttnRes"
    planned = PlannedNetwork.of(content, read_json(folder / "dataset.json"), configuration)
    image = planned.n_inputs, *planned.configuration.patch_size
    network = planned.build(find_trainer(trainer))
    batches = _shares(planned.configuration.batch_size, n_gpus)
    shapes = [shape for batch in batches for shape in shapes_to_choose(network, batch, image, device)]
    return choose_paths(shapes, device, log)


def _shares(batch: int, n_gpus: int) -> list[int]:
    """The batches that the GPUs of a training have: nnU-Net gives some one sample more where it must."""
    if n_gpus > batch:
        raise UserError(f"-num_gpus {n_gpus}: the plans have a batch of {batch}, and each GPU needs a sample")
    return sorted({batch // n_gpus, -(-batch // n_gpus)}, reverse=True)
