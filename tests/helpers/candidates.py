"""Made-up candidates, in a module that a new process imports quickly."""

import os
import re
import signal
import socket
import sys
import time


def act(does):
    if does == "raise":
        raise RuntimeError("no kernel image\nand more")
    if does == "memory":
        import torch

        raise torch.cuda.OutOfMemoryError("tried to allocate 80 GiB")
    if does == "spoil":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if does == "hang":
        time.sleep(600)
    if does == "crash":
        print("assertion `n > 0` failed\n", file=sys.stderr, flush=True)
        os._exit(139)
    if does == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if does == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "print":
        os.write(1, b'{"status": "printed"}\n')
        print('{"status": "printed"}', flush=True)
    if does == "object":
        return {"status": object()}
    if does == "environment":
        return {"status": os.environ["MADE_UP"]}
    if does == "read":
        return {"status": sys.stdin.read()}
    return {"status": does}


def fake(items):
    """Candidates that are well, wrong, raise, run out of memory, hang, end the process or spoil the device."""
    from nnunet_xattnres.common import failures

    for item in items:
        result = failures.attempt(act, item["does"])
        yield result
        if failures.is_poisoned(result):
            return


def bare(items, stop_after=None):
    """The same without torch; what is raised ends the process, and the work stops after some items."""
    for item in items[:stop_after]:
        yield act(item["does"])


def hold(items, port, stuck):
    """Hold a connection open until the process ends; stuck, no other thread of it runs any more."""
    with socket.create_connection(("localhost", port)) as connection:
        connection.sendall(b"here")
        if stuck:
            re.match(r"(a+)+$", "a" * 64 + "b")
        time.sleep(600)
        yield from items
