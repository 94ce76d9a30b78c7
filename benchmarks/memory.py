"""Peak memory of one network: in a process of its own on the CPU, from the allocator's count on a GPU.

python benchmarks/memory.py REQUEST    (reads.py calls it; REQUEST is the JSON of a dictionary)
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from configurations import Configuration
from contestants import PHASES, Contestant, make_input

STATUS = Path("/proc/self/status")
STEPS = 2  # the optimizer's momentum exists from the second on
Memory = dict[str, int]  # bytes: "peak", and "baseline" from before there was this network


def resident_memory(configuration: Configuration, mode: str, kind: str) -> dict[str, Memory | None]:
    """What a new process needs on the CPU for the steps of each phase; None where the system does not tell."""
    if not STATUS.exists():
        return dict.fromkeys(PHASES)

    def measure(phase: str) -> Memory:
        request = {"configuration": asdict(configuration), "mode": mode, "kind": kind, "phase": phase}
        command = [sys.executable, __file__, json.dumps(request)]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin would slow the other one down
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout)

    with ThreadPoolExecutor() as pool:  # side by side, as nothing is timed
        return dict(zip(PHASES, pool.map(measure, PHASES), strict=True))


def allocated_memory(contestant: Contestant, phase: str, x: torch.Tensor, baseline: int) -> Memory:
    """Of steps of a warm network on the GPU beyond ``baseline``, which holds what the networks before this one keep."""
    torch.cuda.reset_peak_memory_stats()
    for _ in range(STEPS):
        contestant.run(phase, x)
    return {"peak": torch.cuda.max_memory_allocated(), "baseline": baseline}


def _status(field: str) -> int:
    """Bytes from the kernel's account of this process.

    Not ``resource.getrusage``: its ru_maxrss of a child process begins at the peak of its parent.
    """
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def main() -> None:
    request: dict[str, Any] = json.loads(sys.argv[1])
    configuration = Configuration(**request.pop("configuration"))
    d = len(configuration.patch)
    tiny = Configuration("tiny", 1, (8,) * d, (2, 4, 4), ((2,) * d,) * 2)
    _run_steps(tiny, **request)  # what libraries load and set up at their first use is not the network's
    baseline = _status("VmRSS")
    _run_steps(configuration, **request)
    print(json.dumps({"peak": _status("VmHWM"), "baseline": baseline}))


def _run_steps(configuration: Configuration, mode: str, kind: str, phase: str) -> None:
    contestant = Contestant(configuration, mode, kind, device="cpu", compiled=False)
    x = make_input(configuration, "cpu")
    for _ in range(STEPS):
        contestant.run(phase, x)


if __name__ == "__main__":
    main()
