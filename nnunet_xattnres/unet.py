"""Where plans and scripts have always found the U-Nets with reads; they live in ``networks.unet``."""

from nnunet_xattnres.networks.configs import READ_GATES, SKIP_MODES, check_reads
from nnunet_xattnres.networks.unet import XAttnResResidualEncoderUNet, XAttnResUNet

__all__ = ["READ_GATES", "SKIP_MODES", "XAttnResResidualEncoderUNet", "XAttnResUNet", "check_reads"]
