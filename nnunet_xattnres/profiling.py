"""What switching to reads costs: parameters, multiply-adds, time and memory of a training step, side by side."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres.errors import UserError
from nnunet_xattnres.inspection.recorder import reads_of
from nnunet_xattnres.nnunet_trainer import TRAINERS

PLAIN = "nnUNetTrainer"
CONTENDERS = (
    PLAIN,
    "nnUNetTrainerXAttnRes",
    "nnUNetTrainerXAttnResReplace",
    "nnUNetTrainerXAttnResDecoderReads",
    "nnUNetTrainerXAttnResGated",
    "nnUNetTrainerNoSkip",
)
_STATUS = Path("/proc/self/status")
_STEPS = 2  # the optimizer's momentum exists from the second on


@dataclass(frozen=True)
class Setting:
    """The network of a configuration of a data set's plans, and what it is trained on.

    Attributes:
        plans, dataset: the content of the plans' file and of dataset.json.
        configuration: ``3d_fullres``, for example.
        batch: of a step.
    """

    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration: str
    batch: int

    @classmethod
    def of(
        cls, plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str, batch: int | None
    ) -> "Setting":
        """With the plan's batch, unless another is given.

        Raises:
            UserError: when the plans have no such configuration.
        """
        if configuration not in plans["configurations"]:
            raise UserError(f"the plans have no {configuration!r}; they have {', '.join(plans['configurations'])}")
        planned = PlansManager(dict(plans)).get_configuration(configuration).batch_size
        return cls(plans, dataset, configuration, batch or planned)

    def build(self, trainer: str, deep_supervision: bool = True) -> nn.Module:
        """The network that ``trainer`` trains."""
        plans, configuration, n_inputs = self._inputs()
        n_outputs = plans.get_label_manager(self.dataset).num_segmentation_heads
        trainer_class = nnUNetTrainer if trainer == PLAIN else TRAINERS[trainer]
        return trainer_class.build_network_architecture(plans, configuration, n_inputs, n_outputs, deep_supervision)

    def images(self, device: torch.device | str, batch: int | None = None) -> Tensor:
        """Noise of the plan's patch size."""
        _, configuration, n_inputs = self._inputs()
        return torch.randn(batch or self.batch, n_inputs, *configuration.patch_size, device=device)

    def _inputs(self) -> tuple[Any, Any, int]:
        plans = PlansManager(dict(self.plans))
        configuration = plans.get_configuration(self.configuration)
        return plans, configuration, determine_num_input_channels(plans, configuration, dict(self.dataset))


def profile(
    setting: Setting, device: torch.device, rounds: int, on_step: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure the plain network and each kind of reads, in turns.

    A step is forward, backward and nnU-Net's optimizer, on noise and with the mean of squares as the loss; on CUDA with
    autocast and torch.compile, as nnU-Net trains.

    Args:
        rounds: of which the time is the median.
        on_step: called before each measurement with what it is.

    Returns:
        One row for each: ``parameters``, ``multiply_adds`` (of one sample, forward; without resizing), ``seconds`` and
        ``gpu_memory`` or ``memory`` (bytes, the peak of a training step; None where it cannot be known), and their
        ``..._ratio`` to the plain network's. ``seconds`` is None where the memory did not suffice.
    """
    rows: list[dict[str, Any]] = []
    contestants: dict[str, _Contestant] = {}
    for trainer in CONTENDERS:
        on_step(f"{trainer}: counting")
        parameters, multiply_adds = count(setting, trainer)
        rows.append({"trainer": trainer, "parameters": parameters, "multiply_adds": multiply_adds})
    for row in rows:
        on_step(f"{row['trainer']}: memory")
        row["memory"] = _memory(setting, row["trainer"], device)
        contestants[row["trainer"]] = _Contestant(setting, row["trainer"], device)
    seconds: dict[str, list[float]] = {trainer: [] for trainer in CONTENDERS}
    for i in range(rounds + 1):
        for trainer, contestant in contestants.items():
            on_step(f"{trainer}: step {i} of {rounds}")
            found = contestant.seconds()
            if i and found is not None:  # the first one compiles, and touches its memory
                seconds[trainer].append(found)
    for row in rows:
        times = seconds[row["trainer"]]
        row["seconds"] = median(times) if len(times) == rounds else None
    for row in rows:
        for name in ("parameters", "multiply_adds", "seconds", "memory"):
            both = row[name], rows[0][name]
            row[f"{name}_ratio"] = both[0] / both[1] if all(both) else None
    return rows


def count(setting: Setting, trainer: str) -> tuple[int, int]:
    """The parameters of a network, and its multiply-adds for one sample.

    Counted are convolutions, and of the reads the projections, norms and sums; resizing is not.
    """
    with torch.device("meta"):
        network = setting.build(trainer, deep_supervision=False).eval()
    of_reads = []

    def look(read: Any, args: tuple[Any, ...], _options: dict[str, Any]) -> None:
        pool, size = args
        n, channels = prod(size), read.target_channels
        projected = (
            h.shape[1] * (h.shape[2:].numel() * (channels + 1) + channels)
            for k, h in enumerate(pool)
            if k not in read.direct
        )
        of_reads.extend((sum(projected) + len(pool) * 2 * channels * n, counter.get_total_flops() // 2))

    for read in reads_of(network).values():
        read.register_forward_pre_hook(look, with_kwargs=True)
        # by the reference a read is matrix products, which the counter sees: only what is counted here is to count
        read.register_forward_hook(lambda *_: of_reads.append(-(counter.get_total_flops() // 2)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(setting.images("meta", batch=1))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2 + sum(of_reads)


class _Contestant:
    """A network and what trains it."""

    def __init__(self, setting: Setting, trainer: str, device: torch.device) -> None:
        self.device, self.x = device, setting.images(device)
        self.network = setting.build(trainer).to(device)
        cuda = device.type == "cuda"
        compiled = cuda and os.environ.get("nnUNet_compile", "t").lower() in ("true", "1", "t")
        self.forward = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
        self.scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)(enabled=cuda)  # torch 2.3 moved it

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if self.device.type == "cuda" else nullcontext():
            loss = sum(output.float().square().mean() for output in self.forward(self.x))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self) -> float | None:
        """Of one step; None when the memory does not suffice."""
        start = time.perf_counter()
        try:
            self.step()
        except torch.cuda.OutOfMemoryError:
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            return None
        return time.perf_counter() - start


def _memory(setting: Setting, trainer: str, device: torch.device) -> int | None:
    """The peak of a training, in bytes: the allocator's on CUDA, that of a process of its own on a CPU under Linux."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        baseline = torch.cuda.memory_allocated()
        contestant = _Contestant(setting, trainer, device)
        torch.cuda.reset_peak_memory_stats()
        if None in [contestant.seconds() for _ in range(_STEPS)]:
            return None
        return torch.cuda.max_memory_allocated() - baseline
    if device.type != "cpu" or not _STATUS.exists():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_memory, (asdict(setting), trainer))


def _resident_memory(setting: dict[str, Any], trainer: str) -> int:
    small = Setting(**{**setting, "batch": 1})
    torch.nn.Conv2d(1, 1, 3)(torch.zeros(1, 1, 8, 8)).sum().backward()  # what libraries set up is not the network's
    small.build(trainer)
    baseline = _status("VmRSS")
    contestant = _Contestant(Setting(**setting), trainer, torch.device("cpu"))
    for _ in range(_STEPS):
        contestant.step()
    return _status("VmHWM") - baseline


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
