"""Every trainer that nnU-Net finds: the families, and each of them for some lengths of training."""

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_xattnres.training import comparators, xattnres
from nnunet_xattnres.training.emcad import EMCAD_TRAINERS

FAMILIES: tuple[type[nnUNetTrainer], ...] = (
    xattnres.nnUNetTrainerXAttnRes,
    xattnres.nnUNetTrainerXAttnResReplace,
    xattnres.nnUNetTrainerXAttnResDecoderReads,
    xattnres.nnUNetTrainerXAttnResGated,
    xattnres.nnUNetTrainerNoSkip,
    comparators.nnUNetTrainerUNet3Plus,
    comparators.nnUNetTrainerUCTransNet,
    comparators.nnUNetTrainerXAttnResBlock,
    *EMCAD_TRAINERS,
)
NO_MIRRORING = (xattnres.nnUNetTrainerXAttnResNoMirroring, xattnres.nnUNetTrainerXAttnResReplaceNoMirroring)
EPOCHS = (5, 20, 50, 100, 250)


def _with_epochs(trainer: type[nnUNetTrainer], num_epochs: int) -> type[nnUNetTrainer]:
    """``trainer`` for a training of ``num_epochs``, as nnU-Net has nnUNetTrainer_5epochs beside nnUNetTrainer."""

    # nnU-Net reads the names of these parameters and takes them for the checkpoint's init_args
    def __init__(  # noqa: N807
        self: Any,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super(variant, self).__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = num_epochs
        # nnU-Net's 50 would leave a short training nothing for --c to go on from
        self.save_every = min(self.save_every, max(1, num_epochs // 10))

    name = f"{trainer.__name__}_{num_epochs}epochs"
    namespace = {"__init__": __init__, "__module__": __name__, "__doc__": trainer.__doc__}
    variant: type[nnUNetTrainer] = type(name, (trainer,), namespace)
    return variant


# by name, what the folder trainers/ re-exports
TRAINERS: dict[str, type[nnUNetTrainer]] = {
    trainer.__name__: trainer
    for trainer in (*FAMILIES, *NO_MIRRORING, *(_with_epochs(family, n) for family in FAMILIES for n in EPOCHS))
}
globals().update(TRAINERS)
__all__ = list(TRAINERS)
