"""The three networks that are compared, and their steps: ``plain``, ``reference`` and ``fast``."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.cost.configurations import Configuration
from nnunet_xattnres.common import measure
from nnunet_xattnres.ops.choice import forced_path
from nnunet_xattnres.ops.shapes import ReadShape
from nnunet_xattnres.reads.shapes import read_shapes

KINDS = ("plain", "reference", "fast")
PHASES = ("training", "inference")


class Contestant:
    """One network of a configuration and what trains it."""

    def __init__(self, configuration: Configuration, mode: str, kind: str, x: Tensor, compiled: bool) -> None:
        network = configuration.build(None if kind == "plain" else mode)
        if kind == "reference":
            network.use_path("reference")
        elif kind == "fast":
            choose(lambda: read_shapes(network, x.shape, x.device), x.device)
        self.measured = measure.Contestant(network, x, compiled)
        self._steps = {"training": self.measured.train, "inference": self.measured.infer}

    def run(self, phase: str) -> None:
        """One step of ``training`` or ``inference``, over only when the device is done."""
        self._steps[phase]()

    def seconds(self, phase: str) -> float:
        return measure.seconds_of(lambda: self.run(phase))


def choose(shapes: Callable[[], Sequence[ReadShape]], device: torch.device) -> None:
    """On a GPU the paths of reads, as a training does: without a choice they are computed as plain torch does."""
    if device.type == "cuda" and forced_path() is None:
        from nnunet_xattnres.ops.tuning import choose_paths  # needs an operator, and so torch 2.4

        choose_paths(shapes(), device, lambda _: None)


def make_input(configuration: Configuration, device: str) -> Tensor:
    return torch.randn(configuration.batch, 1, *configuration.patch, device=device)
