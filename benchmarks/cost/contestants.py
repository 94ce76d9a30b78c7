"""The three networks that are compared, and their steps: ``plain``, ``reference`` and ``fast``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.cost.configurations import Configuration
from nnunet_xattnres.common import measure
from nnunet_xattnres.ops import reference

KINDS = ("plain", "reference", "fast")
PHASES = ("training", "inference")


@contextmanager
def reference_reads() -> Iterator[None]:
    """Let networks read with the operator's specification, which resizes every map itself."""
    with (
        patch("nnunet_xattnres.reads.history_read.history_read", reference.history_read),
        patch("nnunet_xattnres.reads.history.resize_to_each", _leave),
    ):
        yield


def _leave(x: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    return [x for _ in sizes]


class Contestant:
    """One network of a configuration and what trains it."""

    def __init__(self, configuration: Configuration, mode: str, kind: str, x: Tensor, compiled: bool) -> None:
        self.reads = reference_reads if kind == "reference" else nullcontext
        self.measured = measure.Contestant(configuration.build(None if kind == "plain" else mode), x, compiled)
        self._steps = {"training": self.measured.train, "inference": self.measured.infer}

    def run(self, phase: str) -> None:
        """One step of ``training`` or ``inference``, over only when the device is done."""
        with self.reads():
            self._steps[phase]()

    def seconds(self, phase: str) -> float:
        return measure.seconds_of(lambda: self.run(phase))


def make_input(configuration: Configuration, device: str) -> Tensor:
    return torch.randn(configuration.batch, 1, *configuration.patch, device=device)
