"""The trainers of the U-Nets with reads. Each is nnU-Net's own with another network."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)

from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.training.build import architecture
from nnunet_xattnres.training.routing_log import RoutingLogTrainer


class nnUNetTrainerXAttnRes(RoutingLogTrainer):
    """Skip + read, in encoder and decoder: the paper's "XAttnRes + skip"."""

    build_network_architecture = architecture(ReadConfig("add"))


class nnUNetTrainerXAttnResReplace(RoutingLogTrainer):
    """The read replaces the skip: the paper's "XAttnRes"."""

    build_network_architecture = architecture(ReadConfig("replace"))


class nnUNetTrainerXAttnResDecoderReads(RoutingLogTrainer):
    """Skip + read in the decoder; the encoder is nnU-Net's, as the paper does with EMCAD."""

    build_network_architecture = architecture(ReadConfig("add", encoder_reads=False))


class nnUNetTrainerXAttnResGated(RoutingLogTrainer):
    """Skip + gated read: starts as nnU-Net's own network, for a warm start from one (ours)."""

    build_network_architecture = architecture(ReadConfig("add", read_gate="zero"))


class nnUNetTrainerNoSkip(RoutingLogTrainer):
    """No skip and no read: the paper's ablation "No Skip"."""

    build_network_architecture = architecture(ReadConfig("none"))


class nnUNetTrainerXAttnResNoMirroring(nnUNetTrainerXAttnRes, nnUNetTrainerNoMirroring):
    """For images where left and right differ."""


class nnUNetTrainerXAttnResReplaceNoMirroring(nnUNetTrainerXAttnResReplace, nnUNetTrainerNoMirroring):
    """For images where left and right differ."""
