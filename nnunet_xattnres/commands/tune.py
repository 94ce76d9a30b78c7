"""Try the paths of a network's reads on this GPU ahead of a training, which then starts at once."""

from collections.abc import Callable

import torch

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.networks.registry import is_ours
from nnunet_xattnres.nnunet.folders import preprocessed_folder
from nnunet_xattnres.nnunet.plans import read_plans, resolved
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
) -> list[Found]:
    """Choose the paths for training with the plan's batch, and for prediction with one image, and remember them.

    Args:
        dataset: its number or name.
        configuration, plans: by name.
        trainer: likewise; None for nnUNetTrainerXAttnRes, or where the plans have reads nnUNetTrainer.
        device: a GPU.
        log: takes one line a read.

    Raises:
        UserError: when the data set, the plans, the configuration or the trainer is not there, or a path is forced.
    """
    if forced_path() is not None:
        raise UserError("NNUNET_XATTNRES_PATH forces a path: unset it, or there is nothing to choose")
    folder = preprocessed_folder(dataset)
    content = read_plans(folder / f"{plans}.json")
    if configuration not in content["configurations"]:
        raise UserError(f"the plans have no {configuration!r}; they have {', '.join(content['configurations'])}")
    if trainer is None:
        network_class = resolved(content, configuration).get("architecture", {}).get("network_class_name", "")
        trainer = "nnUNetTrainer" if is_ours(network_class) else "nnUNetTrainerXAttnRes"
    planned = PlannedNetwork.of(content, read_json(folder / "dataset.json"), configuration)
    image = planned.n_inputs, *planned.configuration.patch_size
    shapes = shapes_to_choose(planned.build(find_trainer(trainer)), planned.configuration.batch_size, image, device)
    return choose_paths(shapes, device, log)
