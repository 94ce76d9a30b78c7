"""What a training step takes in time and memory, as nnU-Net trains."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_STATUS = Path("/proc/self/status")
_STEPS = 2  # what the optimizer keeps exists from the second on
Step = Callable[[], object]
Loss = Callable[[Sequence[Tensor]], Tensor]
Training = Callable[[nn.Module], tuple[Loss, torch.optim.Optimizer]]


def of_squares(network: nn.Module) -> tuple[Loss, torch.optim.Optimizer]:
    """The sum of the outputs' means of squares, which needs no labels, and SGD as nnU-Net has it."""

    def loss(outputs: Sequence[Tensor]) -> Any:
        return sum(output.float().square().mean() for output in outputs)

    return loss, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)


class Contestant:
    """A network, an input, and what trains it; on CUDA with autocast and loss scaling.

    Args:
        network: it is moved to the device of ``x``.
        x: the input, (B, channels, *spatial).
        compiled: train it through torch.compile.
        backend: of torch.compile.
        training: gives the loss and the optimizer.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        compiled: bool = False,
        *,
        backend: str = "inductor",
        training: Training = of_squares,
    ) -> None:
        self.x, self.cuda = x, x.device.type == "cuda"
        self.network: Any = network.to(x.device)
        self.forward = torch.compile(self.network, backend=backend) if compiled else self.network
        self.loss, self.optimizer = training(self.network)
        scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # torch 2.3 moved it
        self.scaler = scaler(enabled=self.cuda)

    def train(self) -> None:
        """One step with deep supervision. Ends when the device is done."""
        self.network.train()
        self.network.decoder.deep_supervision = True
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if self.cuda else nullcontext():
            loss = self.loss(self.forward(self.x))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._wait()

    def infer(self, compiled: bool = False) -> None:
        """One forward pass as in prediction, compiled only if asked for. Ends when the device is done."""
        self.network.eval()
        self.network.decoder.deep_supervision = False
        with torch.inference_mode(), torch.autocast("cuda") if self.cuda else nullcontext():
            (self.forward if compiled else self.network)(self.x)
        self._wait()

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.x.device)
        elif self.x.device.type == "mps":
            torch.mps.synchronize()


def seconds_of(step: Step) -> float:
    """The duration of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def allocated_memory(step: Step) -> int:
    """The peak, in bytes, that torch has allocated on the current CUDA device during two steps."""
    torch.cuda.reset_peak_memory_stats()
    for _ in range(_STEPS):
        step()
    return torch.cuda.max_memory_allocated()


def resident_memory(
    make: Callable[..., Step], *arguments: Any, warm_up: Callable[..., object]
) -> dict[str, int] | None:
    """What a new process holds in main memory for two steps; None where the system does not tell.

    Args:
        make: makes the step, ``make(*arguments)``; a function of a module, as multiprocessing needs it.
        warm_up: called before, likewise: what libraries load and set up at their first use is not the network's.

    Returns:
        Bytes: the ``peak``, and the ``baseline`` of before.

    Raises:
        BrokenProcessPool: the process was killed; most often by the system, for the memory did not suffice.
    """
    if not _STATUS.exists() or None in (_status("VmRSS"), _status("VmHWM")):  # gVisor's has no VmHWM
        return None
    # a server that has loaded the libraries forks the new processes: seconds less for each, and nothing of this process
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([make.__module__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # which, unlike a Pool, sees that its process has died
        return pool.submit(_resident_memory, make, warm_up, arguments).result()


def _resident_memory(make: Callable[..., Step], warm_up: Callable[..., object], arguments: Any) -> dict[str, Any]:
    warm_up(*arguments)
    baseline = _status("VmRSS")
    step = make(*arguments)
    for _ in range(_STEPS):
        step()
    return {"peak": _status("VmHWM"), "baseline": baseline}


def _status(field: str) -> int | None:
    """Bytes from the kernel's account of this process; None where it has no such field.

    Not ``resource.getrusage``: its ru_maxrss of a child process begins at the peak of its parent.
    """
    lines = [line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:")]
    return int(lines[0].split()[1]) * 1024 if lines else None
