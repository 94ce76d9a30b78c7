"""The three networks that are compared, and their steps: ``plain``, ``reference`` and ``fast``."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from configurations import Configuration
from torch import Tensor

from nnunet_xattnres.ops import reference

KINDS = ("plain", "reference", "fast")
PHASES = ("training", "inference")


@contextmanager
def reference_reads() -> Iterator[None]:
    """Let networks read with the operator's specification, which resizes every map itself."""
    with (
        patch("nnunet_xattnres.history.history_read", reference.history_read),
        patch("nnunet_xattnres.unet.resize_to_each", _leave),
    ):
        yield


def _leave(x: Tensor, sizes: Sequence[Sequence[int]]) -> list[Tensor]:
    return [x for _ in sizes]


class Contestant:
    """One network and what it takes to train it, as in nnU-Net: SGD, and on a GPU autocast, scaling, compilation."""

    def __init__(self, configuration: Configuration, mode: str, kind: str, device: str, compiled: bool) -> None:
        self.reference, self.device, self.mixed = kind == "reference", device, device == "cuda"
        self.network = configuration.build(None if kind == "plain" else mode).to(device)
        self.forward = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        self.scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)(
            enabled=self.mixed
        )  # torch 2.3 moved it

    def run(self, phase: str, x: Tensor) -> None:
        """One step of ``training`` or ``inference``, over only when the device is done."""
        steps: dict[str, Callable[[Tensor], None]] = {"training": self._train, "inference": self._infer}
        with reference_reads() if self.reference else nullcontext(), torch.autocast(self.device, enabled=self.mixed):
            steps[phase](x)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, phase: str, x: Tensor) -> float:
        start = time.perf_counter()
        self.run(phase, x)
        return time.perf_counter() - start

    def _train(self, x: Tensor) -> None:
        self.network.train()
        self.network.decoder.deep_supervision = True
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(output.float().square().mean() for output in self.forward(x))
        with torch.autocast(self.device, enabled=False):
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _infer(self, x: Tensor) -> None:
        self.network.eval()
        self.network.decoder.deep_supervision = False
        with torch.inference_mode():
            self.network(x)


def make_input(configuration: Configuration, device: str) -> Tensor:
    return torch.randn(configuration.batch, 1, *configuration.patch, device=device)
