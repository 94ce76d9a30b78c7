"""What the demo makes, trains and calls its files."""

from nnunet_xattnres.common.errors import UserError

DATASET_ID = 900
DATASET = f"Dataset{DATASET_ID}_XAttnResDemo"
TRAINER = "nnUNetTrainerXAttnRes_5epochs"
N_EPOCHS = 5
SMALL_PLANS = "nnUNetPlansXAttnResDemo"
CONFIGURATION = "3d_fullres"
STEPS = {
    "plan": "nnUNetv2_plan_and_preprocess",
    "train": "nnUNetv2_train",
    "predict": "nnUNetv2_predict",
    "evaluate": "nnUNetv2_evaluate_folder",
}

# Sizes that end in minutes on two CPU cores.
SHAPE = (32, 36, 32)
N_TRAIN, N_TEST, SEED = 20, 4, 1
PATCH_SIZE = (24, 24, 24)
FEATURES = (8, 16, 32, 64)
GOOD_DICE = 0.80

MARKER = ".nnunet-xattnres-demo"
EXPORTED = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
OVERLAY = "overlay.png"
# What --force removes. A user may have put other data sets, and other trainings of this one, beside it.
OURS = (
    f"nnUNet_raw/{DATASET}",
    f"nnUNet_preprocessed/{DATASET}",
    f"nnUNet_results/{DATASET}/{TRAINER}__{SMALL_PLANS}__{CONFIGURATION}",
    "predictions",
    "logs",
    ".cache",
    OVERLAY,
)


class DemoError(UserError):
    """Why the demo stopped, in words for the user."""
