"""The three networks that are compared, and their steps: ``plain``, ``reference`` and ``fast``."""

import torch
from torch import Tensor

from benchmarks.cost.configurations import Configuration
from nnunet_xattnres.common import measure

KINDS = ("plain", "reference", "fast")
PHASES = ("training", "inference")


class Contestant:
    """One network of a configuration and what trains it."""

    def __init__(self, configuration: Configuration, mode: str, kind: str, x: Tensor, compiled: bool) -> None:
        network = configuration.build(None if kind == "plain" else mode)
        if kind == "reference":
            network.use_path("reference")
        self.measured = measure.Contestant(network, x, compiled)
        self._steps = {"training": self.measured.train, "inference": self.measured.infer}

    def run(self, phase: str) -> None:
        """One step of ``training`` or ``inference``, over only when the device is done."""
        self._steps[phase]()

    def seconds(self, phase: str) -> float:
        return measure.seconds_of(lambda: self.run(phase))


def make_input(configuration: Configuration, device: str) -> Tensor:
    return torch.randn(configuration.batch, 1, *configuration.patch, device=device)
