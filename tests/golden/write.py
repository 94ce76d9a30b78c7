"""Writes the golden files of a kind of network: what its plans, its checkpoints and its logits were at one time.

    python tests/golden/write.py KIND ...     for a kind that is new; what is there must not change

``KIND.json`` are plans with a network of each dimension and encoder. ``KIND.zip`` holds for each of them a checkpoint
in nnU-Net's format, and all logits. Those of the networks with reads are from commit f43c671, before the package's
files moved.
"""

import io
import json
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from golden.stored import (  # noqa: E402
    CONFIGURATIONS,
    DATASET,
    fixed_weights,
    image_of,
    plans_of,
    stock_plans,
    write_json,
)
from helpers.networks import KINDS, OWN  # noqa: E402
from helpers.networks import make_network as make_own  # noqa: E402
from helpers.plans import build  # noqa: E402


def write(kind: str) -> None:
    """Both files of a kind."""
    plans, logits = plans_of(kind), {}
    write_json(plans, HERE / f"{kind}.json")
    with ZipFile(HERE / f"{kind}.zip", "w", ZIP_DEFLATED) as archive:
        for configuration in CONFIGURATIONS:
            network = make_network(plans, configuration)
            with torch.no_grad():
                outputs = network.eval()(image_of(configuration))
            logits |= {f"{configuration} {i}": output.numpy() for i, output in enumerate(outputs)}
            buffer = io.BytesIO()
            torch.save(checkpoint_of(network, kind, configuration), buffer)
            archive.writestr(f"{configuration}.pth", buffer.getvalue())
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **logits)
        archive.writestr("logits.npz", buffer.getvalue())


def make_network(plans: dict, configuration: str) -> nn.Module:
    """Initialised as nnU-Net does; parameters that start at zero or one are moved away, so that they matter."""
    torch.manual_seed(0)
    network = build(nnUNetTrainer, plans, configuration=configuration, channels=(2, 3))
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim == 1 or not p.any():
                p.add_(0.5 * torch.randn_like(p))
    return network


def checkpoint_of(network: nn.Module, kind: str, configuration: str) -> dict:
    """What nnU-Net's save_checkpoint writes; the trainers' route where a trainer has this network, else the plans'."""
    trainer = KINDS[kind].trainer
    arguments = {
        "plans": stock_plans(KINDS[kind].n_blocks) if trainer else plans_of(kind),
        "configuration": configuration,
        "fold": 0,
    }
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 1,
        "init_args": {**arguments, "dataset_json": DATASET},
        "trainer_name": trainer or "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
    }


def write_own() -> None:
    """The logits of the networks that are not made of upstream's, with weights by a formula; emcad.npz."""
    arrays = {}
    for kind in OWN:
        network = make_own(2, "own", kind).eval()
        image = fixed_weights(network)
        with torch.no_grad():
            arrays |= {f"{kind} {i}": output.numpy() for i, output in enumerate(network(image))}
        keys = [[key, list(value.shape)] for key, value in network.state_dict().items()]
        arrays[f"{kind} keys"] = np.array(json.dumps(keys))
    np.savez_compressed(HERE / "emcad.npz", **arrays)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_own() if name in OWN else write(name)
