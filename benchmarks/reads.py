"""What the reads cost in time: a training step and an inference of nnU-Net's network and of ours, in alternation.

    python benchmarks/reads.py [--device cpu] [--pairs 5] [--quick] [--out benchmarks/results/reads.json]

Every number is the median over the pairs, after one step to warm up; compare the ratios, not the seconds.
"""

import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from rich.console import Console
from rich.table import Table
from torch import nn

from nnunet_xattnres import XAttnResUNet, __version__

# batch, patch, features of the stages, strides of the stages after the first
CONFIGURATIONS: dict[str, tuple[int, tuple[int, ...], list[int], list[tuple[int, ...]]]] = {
    "3D, 4 stages, 40x56x40, batch 2": (2, (40, 56, 40), [32, 64, 128, 256], [(2, 2, 2)] * 3),
    "3D, 6 stages, anisotropic, 32x64x64, batch 2": (
        2,
        (32, 64, 64),
        [16, 32, 64, 128, 160, 160],
        [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)],
    ),
    "2D, 7 stages, 256x256, batch 4": (4, (256, 256), [32, 64, 128, 256, 512, 512, 512], [(2, 2)] * 6),
}
MODES: dict[str, dict[str, Any]] = {
    "add": {"skip_mode": "add"},
    "replace": {"skip_mode": "replace"},
    "decoder reads only": {"skip_mode": "add", "encoder_reads": False},
}


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    pairs: Annotated[int, typer.Option(help="measurements of each network", min=1)] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="the first configuration only")] = False,
    out: Annotated[Path, typer.Option(help="the JSON file to write")] = Path("benchmarks/results/reads.json"),
) -> None:
    """Measure, print a table, write JSON."""
    rows = []
    for name, configuration in list(CONFIGURATIONS.items())[: 1 if quick else None]:
        for mode, arguments in MODES.items():
            rows.append({"configuration": name, "mode": mode, **compare(configuration, arguments, device, pairs)})
            print_table(rows[-1:])
    machine = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nnunet-xattnres": __version__,
        "pairs": pairs,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print_table(rows)


def compare(configuration: Any, arguments: dict[str, Any], device: str, pairs: int) -> dict[str, Any]:
    """Seconds of the stock network and of ours for one configuration and mode."""
    batch, patch, features, strides = configuration
    networks = {"plain": build(PlainConvUNet, patch, features, strides).to(device)}
    networks["ours"] = build(XAttnResUNet, patch, features, strides, **arguments).to(device)
    x = torch.randn(batch, 1, *patch, device=device)
    result: dict[str, Any] = {}
    for what, step in {"training step": training_step, "inference": inference}.items():
        times: dict[str, list[float]] = {name: [] for name in networks}
        for network in networks.values():
            step(network, x)  # warm up
        for _ in range(pairs):
            for name, network in networks.items():
                times[name].append(seconds(partial(step, network, x), device))
        result[what] = {**times, "ratio": median(times["ours"]) / median(times["plain"])}
    return result


def build(network_class: type[nn.Module], patch: Any, features: Any, strides: Any, **arguments: Any) -> nn.Module:
    """A network as nnU-Net's planner emits it."""
    dimension, n_stages = len(patch), len(features)
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimension]
    network = network_class(
        input_channels=1,
        n_stages=n_stages,
        features_per_stage=features,
        conv_op=conv,
        kernel_sizes=3,
        strides=[(1,) * dimension, *strides],
        n_conv_per_stage=2,
        n_conv_per_stage_decoder=2,
        num_classes=3,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **arguments,
    )
    return network.apply(network.initialize)


def training_step(network: nn.Module, x: torch.Tensor) -> None:
    network.zero_grad()
    sum(output.square().mean() for output in network(x)).backward()


def inference(network: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        network(x)


def seconds(run: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def print_table(rows: list[dict[str, Any]]) -> None:
    table = Table("configuration", "mode", "training step / plain", "inference / plain", title="time, ours over plain")
    for row in rows:
        ratios = (f"{row[what]['ratio']:.2f}" for what in ("training step", "inference"))
        table.add_row(row["configuration"], row["mode"], *ratios)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
