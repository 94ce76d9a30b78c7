"""Plans as nnU-Net's planner writes them, for a small 2D network, and what a trainer builds from them."""

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_xattnres import XAttnResResidualEncoderUNet, XAttnResUNet

CLASSES = {
    "dynamic_network_architectures.architectures.unet.PlainConvUNet": XAttnResUNet,
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet": XAttnResResidualEncoderUNet,
}


def make_plans(network_class="dynamic_network_architectures.architectures.unet.PlainConvUNet"):
    """The part of a plans file that a trainer needs, for a 2D network of three stages."""
    blocks = "n_blocks_per_stage" if network_class.endswith("ResidualEncoderUNet") else "n_conv_per_stage"
    return {
        "dataset_name": "Dataset001_Test",
        "plans_name": "nnUNetTestPlans",
        "label_manager": "LabelManager",
        "configurations": {
            "2d": {
                "data_identifier": "nnUNetPlans_2d",
                "batch_size": 2,
                "batch_dice": True,
                "patch_size": [16, 16],
                "normalization_schemes": ["ZScoreNormalization"],
                "architecture": {
                    "network_class_name": network_class,
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 8, 16],
                        "conv_op": "torch.nn.modules.conv.Conv2d",
                        "kernel_sizes": [[3, 3]] * 3,
                        "strides": [[1, 1], [2, 2], [2, 2]],
                        blocks: [1, 1, 1],
                        "n_conv_per_stage_decoder": [1, 1],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def build(trainer, plans, deep_supervision=True, configuration="2d", channels=(1, 2)):
    """What a trainer makes of plans, for so many input and output channels."""
    manager = PlansManager(plans)
    return trainer.build_network_architecture(
        manager, manager.get_configuration(configuration), *channels, deep_supervision
    )
