"""A trained network as ONNX, with a description of what stands around it: `nnunet-xattnres export-onnx`."""

import hashlib
import importlib.metadata
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import refuse_existing, refuse_folder, replacing
from nnunet_xattnres.common.modules import uncompiled
from nnunet_xattnres.common.shell import command
from nnunet_xattnres.nnunet.checkpoints import origin_of, read_checkpoint
from nnunet_xattnres.nnunet.loading import load_into
from nnunet_xattnres.nnunet.model_folder import only_checkpoint

_NOT_INCLUDED = (
    "This is the network alone. Not included: reading the image, transposing its axes, cropping to non-zero, "
    "resampling to 'spacing', normalisation; the sliding window of 'patch_size' with Gaussian weighting, mirroring; "
    "softmax or sigmoid, resampling back, choosing the label. Of a cascade also not included: the network of "
    "'previous_stage', whose segmentation is the input's further channels, one for each label."
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
    install = command("pip", "install", "nnunet-xattnres[onnx]")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed: {install}")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise UserError(f"torch {torch.__version__} is older than 2.7: {install}")
    if out.suffix != ".onnx":
        raise UserError(f"{out} must end in .onnx; the description beside it gets the ending .json")
    description = out.with_suffix(".json")
    for path in (out, description):
        refuse_folder(path)
        refuse_existing(path, force)
    way_out = "name one fold with -f, and its checkpoint with -chk"
    checkpoint = only_checkpoint(model_folder, way_out, fold, checkpoint_name)
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    load_into(predictor, [checkpoint])
    network = uncompiled(predictor.network).eval()
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    shape = (determine_num_input_channels(plans, configuration, predictor.dataset_json), *configuration.patch_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, overwrite=force) as partial:
        _write_network(network, shape, partial)
    with replacing(description, overwrite=force) as partial:
        content = _describe(predictor, checkpoint, shape, out.name)
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return description


@torch.inference_mode(False)
def _write_network(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    torch.onnx.export(
        network,
        (torch.zeros(2, *shape),),  # a batch of one would be taken for a constant
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _describe(predictor: nnUNetPredictor, checkpoint: Path, shape: tuple[int, ...], file: str) -> dict[str, Any]:
    plans, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    origin = origin_of(read_checkpoint(checkpoint))
    labels = predictor.label_manager
    schemes = zip(configuration.normalization_schemes, configuration.use_mask_for_norm, strict=True)
    statistics = plans.foreground_intensity_properties_per_channel
    return {
        "note": _NOT_INCLUDED,
        "file": file,
        "input": {"name": "image", "shape": ["batch", *shape]},
        "output": {"name": "logits", "shape": ["batch", labels.num_segmentation_heads, *shape[1:]]},
        "patch_size": list(configuration.patch_size),
        "spacing": list(configuration.spacing),
        "transpose_forward": list(plans.transpose_forward),
        "transpose_backward": list(plans.transpose_backward),
        "channel_names": dataset.get("channel_names", dataset.get("modality")),
        "normalization": [
            {"scheme": scheme, "use_mask_for_norm": mask, "intensities_of_foreground": statistics.get(str(i))}
            for i, (scheme, mask) in enumerate(schemes)
        ],
        "previous_stage": _previous_stage(configuration.previous_stage_name, labels),
        "labels": dataset["labels"],
        "regions_class_order": dataset.get("regions_class_order"),
        "nonlinearity": "sigmoid" if labels.has_regions else "softmax",
        "mirroring_axes": predictor.allowed_mirroring_axes,
        "model": {**origin._asdict(), "fold": checkpoint.parent.name, "checkpoint": checkpoint.name},
        "sha256_of_checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "versions": {name: importlib.metadata.version(name) for name in ("nnunet-xattnres", "nnunetv2", "torch")},
    }


def _previous_stage(configuration: str | None, labels: Any) -> dict[str, Any] | None:
    """Of a cascade: where the channels after those of the image come from, in nnU-Net's order."""
    if configuration is None:
        return None
    return {"configuration": configuration, "one_hot_of_labels": [int(label) for label in labels.foreground_labels]}
