"""A trained network as ONNX, with a description of what stands around it: `nnunet-xattnres export-onnx`."""

import importlib.metadata
import inspect
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import refuse_existing, refuse_folder, replacing, sha256_of
from nnunet_xattnres.common.installing import NEEDED, install_extra, install_torch
from nnunet_xattnres.common.modules import uncompiled
from nnunet_xattnres.nnunet.checkpoints import origin_of, read_checkpoint
from nnunet_xattnres.nnunet.loading import load_into
from nnunet_xattnres.nnunet.model_folder import only_checkpoint

_NOTE = (
    "This is the network alone. What nnU-Net does before and after it is not included: 'before' and 'after' have its "
    "steps in their order, with the names of the numbers here that they need. Of a cascade also not included: the "
    "network of 'previous_stage', whose segmentation, transposed and cropped as the image, then resampled by its "
    "'resampling', is the input's further channels, one for each label."
)
_BEFORE = (
    "read the image with 'image_reader_writer'; the spacing is in the order of its axes",
    "transpose the axes of image and spacing by 'transpose_forward'; from here on all is in this order, also "
    "'spacing', 'patch_size' and 'mirroring_axes'",
    "crop to the box around what is not zero in any channel; its holes, filled, count as not zero",
    "normalise each channel by 'normalization'; a mask is what is not zero in the cropped image, holes filled",
    "resample to 'spacing' by 'resampling_of_image'; a plan in 2D leaves the first axis of a volume as it is",
    "pad with zeros, on both sides, what is smaller than 'patch_size'",
    "take windows of 'patch_size', the first and the last at the borders, the others at equal steps of at most "
    "'tile_step_size' times 'patch_size'; of a volume with a plan in 2D in each slice of its first axis",
)
_AFTER = (
    "of each window, mean of the logits over the window and, if 'mirroring_axes' are there, its mirror images along "
    "each combination of them, mirrored back",
    "mean of the logits over the windows, weighted by a Gaussian around the middle of the window whose standard "
    "deviation is 'gaussian_sigma_scale' times 'patch_size'; cut the padding off",
    "resample the logits to the shape of the cropped image by 'resampling_of_logits'",
    "apply the 'nonlinearity'; after softmax the label is that of the largest channel; after sigmoid each channel "
    "above 0.5 writes its label of 'regions_class_order' over those of the channels before it",
    "put the labels back to where the image was cropped, with zeros around",
    "transpose the axes by 'transpose_backward'",
)


def export_onnx(
    model_folder: Path,
    out: Path,
    fold: str | None = None,
    checkpoint_name: str = "checkpoint_final.pth",
    force: bool = False,
) -> Path:
    """Write the network of one fold at the plan's patch size, with any batch, and a description beside it.

    Args:
        model_folder: a trained model, ours or stock: TRAINER__PLANS__CONFIGURATION in nnUNet_results.
        out: the file, ``.onnx``; the description has the same name with ``.json``.
        fold: which fold's network; None for the only one.
        checkpoint_name: which of the fold's checkpoints.
        force: replace the two files.

    Returns:
        The file of the description.

    Raises:
        UserError: when a package is missing, the model is not there, cannot be loaded or has several folds, ``out``
            ends otherwise, or one of the files exists and is not to be replaced.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise UserError(f"torch {torch.__version__} is older than 2.7: {install_torch(NEEDED['torch'] + ',>=2.7')}")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: {install_extra('onnx')}")
    if out.suffix != ".onnx":
        raise UserError(f"{out} must end in .onnx; the description beside it gets the ending .json")
    description = out.with_suffix(".json")
    for path in (out, description):
        refuse_folder(path)
        refuse_existing(path, force)
    way_out = "name one fold with -f, and its checkpoint with -chk"
    checkpoint = only_checkpoint(model_folder, way_out, fold, checkpoint_name)
    identity = _identity(checkpoint)  # before it is loaded: a training may replace it in the meantime
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    load_into(predictor, [checkpoint])
    network = uncompiled(predictor.network).eval()
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    shape = (determine_num_input_channels(plans, configuration, predictor.dataset_json), *configuration.patch_size)
    content = _describe(predictor, identity, shape, out.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(description, overwrite=force) as text, replacing(out, overwrite=force) as partial:  # both or none
        words = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
        text.write_text(words, encoding="utf-8", errors="backslashreplace")  # which are JSON's escapes, too
        _write_network(network, shape, partial)
    return description


@torch.inference_mode(False)
def _write_network(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),  # a batch of one would be taken for a constant
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _identity(checkpoint: Path) -> dict[str, Any]:
    origin = origin_of(read_checkpoint(checkpoint))
    return {
        "model": {**origin._asdict(), "fold": checkpoint.parent.name, "checkpoint": checkpoint.name},
        "sha256_of_checkpoint": sha256_of(checkpoint),
        "versions": {name: importlib.metadata.version(name) for name in ("nnunet-xattnres", "nnunetv2", "torch")},
    }


def _describe(
    predictor: nnUNetPredictor, identity: dict[str, Any], shape: tuple[int, ...], file: str
) -> dict[str, Any]:
    plans, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    labels = predictor.label_manager
    schemes = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    statistics = plans.foreground_intensity_properties_per_channel
    return {
        "note": _NOTE,
        "before": _BEFORE,
        "after": _AFTER,
        "file": file,
        "input": {"name": "image", "shape": ["batch", *shape]},
        "output": {"name": "logits", "shape": ["batch", labels.num_segmentation_heads, *shape[1:]]},
        "patch_size": list(configuration.patch_size),
        "spacing": list(configuration.spacing),
        "transpose_forward": list(plans.transpose_forward),
        "transpose_backward": list(plans.transpose_backward),
        "image_reader_writer": plans.plans.get("image_reader_writer"),
        "channel_names": dataset.get("channel_names", dataset.get("modality")),
        "normalization": [
            {"scheme": scheme, "use_mask_for_norm": mask, "intensities_of_foreground": statistics.get(str(i))}
            for i, (scheme, mask) in enumerate(schemes)
        ],
        "resampling_of_image": _call(configuration.resampling_fn_data),
        "tile_step_size": predictor.tile_step_size,
        "gaussian_sigma_scale": inspect.signature(compute_gaussian).parameters["sigma_scale"].default,
        "resampling_of_logits": _call(configuration.resampling_fn_probabilities),
        "previous_stage": _previous_stage(configuration, labels),
        "labels": dataset["labels"],
        "regions_class_order": dataset.get("regions_class_order"),
        "nonlinearity": "sigmoid" if labels.has_regions else "softmax",
        "mirroring_axes": predictor.allowed_mirroring_axes,
        **identity,
    }


def _call(function: Any) -> dict[str, Any]:
    """A function that the plans name, with what it gets from them and, where they say nothing, its own defaults."""
    name = f"{function.func.__module__}.{function.func.__name__}"
    options = inspect.signature(function).parameters.values()
    return {"function": name, "arguments": {o.name: o.default for o in options if o.default is not o.empty}}


def _previous_stage(configuration: Any, labels: Any) -> dict[str, Any] | None:
    """Of a cascade: where the channels after those of the image come from, in nnU-Net's order."""
    if configuration.previous_stage_name is None:
        return None
    return {
        "configuration": configuration.previous_stage_name,
        "resampling": _call(configuration.resampling_fn_seg),
        "one_hot_of_labels": [int(label) for label in labels.foreground_labels],
    }
