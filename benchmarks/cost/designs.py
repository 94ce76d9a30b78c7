"""A picture of every way from the encoder to the decoder: docs/skip-designs.png.

    python -m benchmarks.cost.designs

Nothing is drawn by hand. Each network is built with five stages. What a stage gets directly is asked of the network:
the outputs of all blocks are cut out of the graph, and a block reads those that its output has a gradient for.
"""

import pydoc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from torch import Tensor, nn

from nnunet_xattnres.networks.registry import KINDS, counterpart
from nnunet_xattnres.networks.upstream import blocks_of
from nnunet_xattnres.pages.figure import new_figure, save
from nnunet_xattnres.training.epochs import FAMILIES

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "skip-designs.png"
UPSTREAM = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
STAGES, SIZE = 5, 64
ARGUMENTS: dict[str, Any] = {
    "input_channels": 1,
    "n_stages": STAGES,
    "features_per_stage": [4, 8, 16, 16, 16],
    "conv_op": nn.Conv2d,
    "kernel_sizes": [[3, 3]] * STAGES,
    "strides": [[1, 1]] + [[2, 2]] * (STAGES - 1),
    "n_conv_per_stage": [2] * STAGES,
    "n_conv_per_stage_decoder": [2] * (STAGES - 1),
    "num_classes": 2,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm2d,
    "norm_op_kwargs": {"affine": True},
    "nonlin": nn.LeakyReLU,
    "deep_supervision": True,
}


@dataclass(frozen=True)
class Design:
    """What each stage of a network gets: pairs of stages, such as ("e1", "d4").

    A pair of a stage with itself says that its later blocks get more than the block before them.
    """

    title: str
    arrows: frozenset[tuple[str, str]]


def designs() -> list[Design]:
    """nnU-Net's own network and that of every family of trainers that is made of its stages."""
    found = [Design("nnUNetTrainer", arrows_of(pydoc.locate(UPSTREAM)(**ARGUMENTS)))]
    for family in FAMILIES:
        config = family.build_network_architecture.config
        if type(config) not in {kind.config for kind in KINDS.values()}:
            continue  # made of no U-Net of the plans
        network_class, arguments = counterpart(UPSTREAM, ARGUMENTS, config, "picture", (SIZE, SIZE))
        network = pydoc.locate(network_class)(**arguments)
        found.append(Design(family.__name__, arrows_of(network)))
    return found


def arrows_of(network: nn.Module) -> frozenset[tuple[str, str]]:
    """Which stage gets the output of which, by gradients; e1 is the finest of the encoder, d1 the decoder's first."""
    torch.manual_seed(0)
    for p in network.parameters():  # what starts at zero would hide what it lets in
        nn.init.normal_(p, std=0.2)
    decoder: Any = network.decoder
    stages = {f"e{i}": blocks_of(stage) for i, stage in enumerate(network.encoder.stages, 1)}
    # a fusion is one block, and the whole stage
    of_decoder = (
        ([fusion] for fusion in decoder.fusions) if hasattr(decoder, "fusions") else map(blocks_of, decoder.stages)
    )
    stages |= {f"d{i}": blocks for i, blocks in enumerate(of_decoder, 1)}
    before: dict[tuple[str, int], Tensor] = {}
    leaves: dict[tuple[str, int], Tensor] = {}

    def cut(name: tuple[str, int]) -> Any:
        def hook(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
            before[name] = out
            leaves[name] = out.detach().requires_grad_()
            return leaves[name]

        return hook

    for stage, blocks in stages.items():
        for i, module in enumerate(blocks):
            module.register_forward_hook(cut((stage, i)))
    network.eval()(torch.randn(1, 1, SIZE, SIZE))
    arrows = set()
    for (target, i), out in before.items():
        found = torch.autograd.grad(out.square().sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
        sources = {source for source, d in zip(leaves, found, strict=True) if d is not None and d.any()}
        if i == 0:
            arrows |= {(source, target) for source, _ in sources}
        elif sources != {(target, i - 1)}:
            arrows.add((target, target))
    return frozenset(arrows)


def draw(found: list[Design], path: Path) -> None:
    """A small diagram of each: the encoder left, the decoder right, the finest stage on top."""
    columns = 3
    rows = -(-len(found) // columns)
    with new_figure(4.0 * columns, 3.1 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, design in zip(axes, found, strict=False):
            _draw(axis, design)
        figure.suptitle(
            "What each stage gets directly: down and up (grey), encoder to decoder (blue), "
            "within a side or stage (orange)"
        )
        save(figure, path, dpi=110)


def _draw(axis: Axes, design: Design) -> None:
    places = {f"e{i}": (0.0, -i) for i in range(1, STAGES + 1)}
    places |= {f"d{i}": (1.0, -(STAGES - i)) for i in range(1, STAGES)}
    for source, target in sorted(design.arrows):
        if source == target:
            _draw_loop(axis, *places[source])
            continue
        along = (source[0] == target[0] and int(target[1]) - int(source[1]) == 1) or (source, target) == (
            f"e{STAGES}",
            "d1",
        )
        crossing = source[0] != target[0]
        color = "0.55" if along else "#0072B2" if crossing else "#D55E00"
        bend = 0.0 if along or crossing else 0.35
        style = {"arrowstyle": "-|>", "mutation_scale": 8, "color": color, "linewidth": 1.1, "alpha": 0.85}
        axis.add_patch(
            FancyArrowPatch(
                *(places[source], places[target]),
                connectionstyle=f"arc3,rad={bend}",
                shrinkA=11,
                shrinkB=11,
                **style,
            )
        )
    for name, (x, y) in places.items():
        axis.text(
            *(x, y, name),
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "0.3"},
        )
    axis.set_title(design.title, fontsize=10)
    axis.set_xlim(-0.45, 1.45)
    axis.set_ylim(-STAGES - 0.5, -0.4)


def _draw_loop(axis: Axes, x: float, y: float) -> None:
    """Beside a stage whose blocks read each other."""
    ends = ((x + 0.06, y - 0.2), (x + 0.06, y + 0.2))
    style = {"arrowstyle": "-|>", "mutation_scale": 8, "color": "#D55E00", "linewidth": 1.1, "alpha": 0.85}
    axis.add_patch(FancyArrowPatch(*ends, connectionstyle="arc3,rad=1.6", **style))


if __name__ == "__main__":
    draw(designs(), PICTURE)
