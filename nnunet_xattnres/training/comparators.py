"""The trainers of the other ways from the encoder to the decoder. Each is nnU-Net's own with another network."""

from nnunet_xattnres.networks.configs import UCTransNetConfig, UNet3PlusConfig
from nnunet_xattnres.training.base import GuardedTrainer
from nnunet_xattnres.training.build import architecture


class nnUNetTrainerUNet3Plus(GuardedTrainer):
    """UNet 3+: every decoder stage sees every scale. The width of its reductions is chosen by their cost (the log)."""

    build_network_architecture = architecture(UNet3PlusConfig())


class nnUNetTrainerUCTransNet(GuardedTrainer):
    """UCTransNet: the four finest skips go through a transformer over their channels (the log names its tokens)."""

    build_network_architecture = architecture(UCTransNetConfig())
