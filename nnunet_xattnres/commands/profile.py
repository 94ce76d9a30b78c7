"""What switching costs: parameters, multiply-adds, time and memory of a training step, side by side."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from math import prod
from statistics import median
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.failures import first_line, is_out_of_memory, is_poisoned
from nnunet_xattnres.common.measure import Contestant, Step, Training, allocated_memory, resident_memory, seconds_of
from nnunet_xattnres.networks.registry import is_ours
from nnunet_xattnres.nnunet.plans import network_class_of
from nnunet_xattnres.ops.choice import CUSTOM_OPS, forced_path
from nnunet_xattnres.reads.history import reads_of
from nnunet_xattnres.reads.history_read import HistoryRead
from nnunet_xattnres.training.build import PlannedNetwork
from nnunet_xattnres.training.epochs import FAMILIES, TRAINERS
from nnunet_xattnres.training.step import is_compiled, own_training

if CUSTOM_OPS:
    from nnunet_xattnres.ops.tuning import choose_paths
    from nnunet_xattnres.reads.shapes import read_shapes

PLAIN = "nnUNetTrainer"
_ALL = {PLAIN: nnUNetTrainer, **TRAINERS}
# each network once: a trainer that inherits its network only trains it otherwise
CONTENDERS = (PLAIN, *(family.__name__ for family in FAMILIES if "build_network_architecture" in vars(family)))
Row = dict[str, Any]


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
            UserError: when the plans have no such configuration, or its network is one of ours: nothing would be plain.
        """
        network_class = network_class_of(plans, configuration)
        if is_ours(network_class):
            raise UserError(
                f"the plans {plans.get('plans_name', '?')!r} ask for {network_class!r}, and profile compares with the "
                "plain network: name the plans that they were made from with -p; by default that is nnUNetPlans"
            )
        planned = PlannedNetwork.of(plans, dataset, configuration).configuration
        return cls(plans, dataset, configuration, batch or planned.batch_size)

    def build(self, trainer: str, deep_supervision: bool = True) -> nn.Module:
        """The network that ``trainer`` trains."""
        return self._planned.build(_ALL[trainer], deep_supervision)

    def training(self, trainer: str) -> Training:
        """What gives the loss and the optimizer with which ``trainer`` trains a network."""
        return partial(own_training, _ALL[trainer], self._planned)

    def images(self, device: torch.device | str, batch: int | None = None) -> Tensor:
        """Noise of the plan's patch size."""
        return self._planned.noise(batch or self.batch, device)

    @property
    def _planned(self) -> PlannedNetwork:
        return PlannedNetwork.of(self.plans, self.dataset, self.configuration)


def profile(
    setting: Setting,
    device: torch.device,
    rounds: int,
    on_step: Callable[[str], None],
    trainers: Sequence[str] = (),
) -> list[Row]:
    """Measure the plain network and each of ours, one at a time.

    A step is forward, the trainer's own loss, backward and its own optimizer, on noise; on CUDA with autocast,
    torch.compile, cuDNN's fastest algorithms and the paths of the reads that a training chooses there.

    Args:
        rounds: of which the time is the median; with none it is not taken, as on a busy computer.
        on_step: called before each measurement with what it is.
        trainers: whose networks to measure beside the plain one; by default ``CONTENDERS``.

    Raises:
        UserError: for a trainer that is none of ours.

    Returns:
        One row for each: ``parameters``, ``multiply_adds`` (of one sample, forward; without resizing), ``seconds`` and
        ``memory`` (bytes, the peak of a training step), their ``..._ratio`` to the plain network's, and ``why``. Time
        and memory are None where they cannot be known, everything where the configuration has no such network; ``why``
        says so if it is not for the device. What fails for one network is measured for the others.
    """
    unknown = [trainer for trainer in trainers if trainer not in _ALL]
    if unknown:
        raise UserError(
            f"{unknown[0]} is none of our trainers; there are {', '.join(CONTENDERS[1:])} and their variants"
        )
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # as nnUNetv2_train
    names = dict.fromkeys((PLAIN, *(trainers or CONTENDERS)))
    unmeasured: Row = {"parameters": None, "multiply_adds": None, "memory": None, "why": ""}
    rows = [{"trainer": trainer, **unmeasured} for trainer in names]
    seconds: dict[str, list[float]] = {trainer: [] for trainer in names}
    # in turns, for a CPU's clock wanders; on CUDA a network is compiled once, which takes longer than its steps
    turns, steps = (1, rounds) if device.type == "cuda" and rounds else (rounds, 1)

    def counts(trainer: str) -> Row:
        on_step(f"{trainer}: counting")
        return dict(zip(("parameters", "multiply_adds"), count(setting, trainer), strict=True))

    def memory(trainer: str) -> Row:
        if CUSTOM_OPS and device.type == "cuda":
            _choose_paths(setting, trainer, device, on_step)
        on_step(f"{trainer}: memory")
        return {"memory": _memory(setting, trainer, device)}

    def times(turn: int, trainer: str) -> Row:
        on_step(f"{trainer}: time, {turn + 1} of {turns}")
        seconds[trainer] += _seconds(setting, trainer, device, steps)
        return {}

    stages: list[Callable[[str], Row]] = [counts, memory, *(partial(times, turn) for turn in range(turns))]
    _measure(rows, stages)
    for row in rows:
        of_steps = seconds[row["trainer"]]
        row["seconds"] = median(of_steps) if of_steps and len(of_steps) == rounds else None
    for row in rows:
        for name in ("parameters", "multiply_adds", "seconds", "memory"):
            both = row[name], rows[0][name]
            row[f"{name}_ratio"] = both[0] / both[1] if all(both) else None
    return rows


def _measure(rows: Sequence[Row], stages: Sequence[Callable[[str], Row]]) -> None:
    """Add what each stage measures of each row's trainer; of one that fails nothing more, but why it does."""
    lost = ""
    for stage in stages:
        for row in rows:
            if row["why"]:
                continue
            if lost:
                row["why"] = f"not measured any more: {lost} has spoilt CUDA for this process; name the others with -tr"
                continue
            try:
                row |= stage(row["trainer"])
            except UserError as error:  # such as a network for 2D images, or no path that is right on this GPU
                row["why"] = str(error)
            except Exception as error:  # compilers, cuDNN and allocators each have their own
                row["why"] = _why(error)
                lost = row["trainer"] if is_poisoned({"status": "failed", "why": row["why"]}) else ""


def _choose_paths(setting: Setting, trainer: str, device: torch.device, on_step: Callable[[str], None]) -> None:
    """As at the start of a training: without a choice the reads would be measured as plain torch computes them."""
    network = setting.build(trainer)
    if forced_path() is None and (shapes := read_shapes(network, setting.images("meta").shape, device)):
        on_step(f"{trainer}: choosing the paths of its reads")
        choose_paths(shapes, device, lambda _: None)


def _why(error: Exception) -> str:
    if isinstance(error, BrokenProcessPool):
        return "its measuring process was killed: most likely the main memory does not suffice"
    if is_out_of_memory(error):
        return "the GPU's memory does not suffice"
    return f"{type(error).__name__}: {first_line(error)}"


def count(setting: Setting, trainer: str) -> tuple[int, int]:
    """The parameters of a network, and its multiply-adds for one sample.

    Counted are convolutions and matrix products, and of the reads of a history the projections, norms and sums;
    resizing is not, nor other norms and sums.
    """
    with torch.device("meta"):
        network = setting.build(trainer, deep_supervision=False).eval()
    of_reads: list[int] = []
    counter: Any = FlopCounterMode(display=False)

    def before(read: Any, args: tuple[Any, ...], _options: dict[str, Any]) -> None:
        pool, size = args
        n, channels = prod(size), read.target_channels
        # one row more than channels at every position, the query, which is taken through the projection once; a finer
        # map is resized first
        projected = (
            h.shape[1] * (min(h.shape[2:].numel(), n) * (channels + 1) + channels)
            for k, h in enumerate(pool)
            if k not in read.direct
        )
        of_reads.extend((sum(projected) + len(pool) * 2 * channels * n, counter.get_total_flops() // 2))

    def after(*_: Any) -> None:
        # by the reference a read is matrix products, which the counter sees, too: what it saw is taken back
        of_reads.append(-(counter.get_total_flops() // 2))

    for read in reads_of(network).values():
        if not isinstance(read, HistoryRead):
            continue
        read.register_forward_pre_hook(before, with_kwargs=True)
        read.register_forward_hook(after)
    with torch.no_grad(), counter:
        network(setting.images("meta", batch=1))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2 + sum(of_reads)


def _contestant(setting: Setting, trainer: str, device: torch.device) -> Contestant:
    compiled = is_compiled(_ALL[trainer], device)
    return Contestant(setting.build(trainer), setting.images(device), compiled, training=setting.training(trainer))


def _seconds(setting: Setting, trainer: str, device: torch.device, steps: int) -> list[float]:
    """Of some steps of one network, which alone is in memory."""
    torch.compiler.reset()  # networks share their forward, and dynamo leaves the ninth one that it sees uncompiled
    try:
        contestant = _contestant(setting, trainer, device)
        contestant.train()  # the first one compiles, and touches its memory
        return [seconds_of(contestant.train) for _ in range(steps)]
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _memory(setting: Setting, trainer: str, device: torch.device) -> int | None:
    """The peak of a training, in bytes: the allocator's on CUDA, that of a process of its own on a CPU under Linux."""
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
        baseline = torch.cuda.memory_allocated()
        contestant = _contestant(setting, trainer, device)
        contestant.train()  # tries out the algorithms of convolutions; what that takes is freed where memory is short
        return allocated_memory(contestant.train) - baseline
    found = resident_memory(_step_on_cpu, setting, trainer, warm_up=_load_libraries) if device.type == "cpu" else None
    return None if found is None else found["peak"] - found["baseline"]


def _step_on_cpu(setting: Setting, trainer: str) -> Step:
    return _contestant(setting, trainer, torch.device("cpu")).train


def _load_libraries(setting: Setting, trainer: str) -> None:
    nn.Conv2d(1, 1, 3)(torch.zeros(1, 1, 8, 8)).sum().backward()
    setting.build(trainer)
