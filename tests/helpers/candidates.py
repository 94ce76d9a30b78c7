"""Made-up candidates, in a module that a new process imports quickly."""

import os
import sys
import time

import torch

from nnunet_xattnres.common import failures


def act(does):
    if does == "raise":
        raise RuntimeError("no kernel image\nand more")
    if does == "memory":
        raise torch.cuda.OutOfMemoryError("tried to allocate 80 GiB")
    if does == "spoil":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if does == "hang":
        time.sleep(600)
    if does == "speak":
        print("a compiler talks", flush=True)
        print("out of registers", file=sys.stderr, flush=True)
        os._exit(7)
    if does == "crash":
        os._exit(139)
    return {"status": does}


def fake(items):
    """Candidates that are well, wrong, raise, run out of memory, hang, end the process or spoil the device."""
    for item in items:
        result = failures.attempt(act, item["does"])
        yield result
        if failures.is_poisoned(result):
            return
