"""Made-up paths of a read, by name: one computes as the tiles do, each of the others has its own fault."""

import os
import time

import torch

from nnunet_xattnres.ops import tiled


def wrong_output(*args, out, **options):
    tiled.forward(*args, out=out, **options)
    out[0, -1] += 1


def wrong_log_sum(*args, log_sum, **options):
    """Right but for what its own backward does not ask for, and that of another path would."""
    tiled.forward(*args, log_sum=log_sum, **options)
    log_sum += 1


def wrong_gradient(*args, d_query, **options):
    tiled.backward(*args, d_query=d_query, **options)
    d_query[0] *= 1.1


def unwritten_gradient(*args, d_pool, **options):
    tiled.backward(*args, d_pool=[torch.empty_like(d) for d in d_pool], **options)


def wrong_if_large(*args, out, **options):
    """Right on a small read, as where an index overflows, or between two tiles."""
    tiled.forward(*args, out=out, **options)
    if out.shape[2] > 8:
        out[0, -1, -1] = out[0, -1, 0]


def unwritten_if_large(*args, d_pool, **options):
    tiled.backward(*args, d_pool=d_pool, **options)
    if d_pool[0].shape[2] > 8:
        d_pool[0][0, -1, -1] = float("nan")


def after(act, compute):
    def path(*args, **options):
        act()
        compute(*args, **options)

    return path


def fail():
    raise RuntimeError("no kernel image")


def exhaust():
    raise torch.cuda.OutOfMemoryError("tried to allocate 80 GiB")


def slow():
    time.sleep(0.05)


def slower():
    time.sleep(0.2)  # so much that a busy machine does not turn it round


PATHS = {
    "good": (tiled.forward, tiled.backward),
    "slow": (after(slow, tiled.forward), after(slow, tiled.backward)),
    "slower backward": (tiled.forward, after(slower, tiled.backward)),
    "wrong output": (wrong_output, tiled.backward),
    "wrong log-sum": (wrong_log_sum, tiled.backward),
    "wrong gradient": (tiled.forward, wrong_gradient),
    "unwritten gradient": (tiled.forward, unwritten_gradient),
    "wrong if large": (wrong_if_large, tiled.backward),
    "unwritten if large": (tiled.forward, unwritten_if_large),
    "raises": (after(fail, tiled.forward), tiled.backward),
    "raises in the backward": (tiled.forward, after(fail, tiled.backward)),
    "out of memory": (after(exhaust, tiled.forward), tiled.backward),
    "hangs": (after(lambda: time.sleep(600), tiled.forward), tiled.backward),
    "crashes": (after(lambda: os._exit(139), tiled.forward), tiled.backward),
}
PATHS["tiled"] = PATHS["wrong output"]  # as on a machine where not even plain torch is right
