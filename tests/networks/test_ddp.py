"""Two processes, wrapped as nnU-Net wraps a network for several GPUs, on the CPU with gloo."""

import os
import socket
from itertools import product

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.networks import ENCODERS, KINDS, OWN, make_input, make_network, without_dropout
from torch import nn
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
CASES = [*product(ENCODERS, KINDS, (True, False)), *product(["own"], OWN, (True, False))]


def make(encoder, mode, deep_supervision):
    dimension = {"plain conv": 3, "residual": 2, "own": 2}[encoder]
    network = make_network(dimension, encoder, mode, deep_supervision=deep_supervision)
    return without_dropout(network).double(), make_input(network).double()  # so that what is left is no rounding


def loss_of(outputs):
    """Of one sample: the mean over the samples is then the mean over the processes."""
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return sum(o.square().mean() for o in outputs)


def train_one_step_each(rank, port, folder):
    """Every mode of both networks, as a process of two: half of the batch, one backward, gradients to a file."""
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for encoder, mode, deep_supervision in CASES:
        network, x = make(encoder, mode, deep_supervision)
        if encoder != "own":  # its batch norms are set to evaluation, and SyncBatchNorm runs on GPUs only
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        wrapped = DistributedDataParallel(network)  # no find_unused_parameters, as nnU-Net
        for _ in range(2):  # DDP finds a parameter without a gradient at the start of the second step
            network.zero_grad()
            loss_of(wrapped(x[rank : rank + 1])).backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        torch.save(gradients, f"{folder}/{encoder}-{mode}-{deep_supervision}-{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_those_of_one_process_on_the_whole_batch(tmp_path):
    mp.spawn(train_one_step_each, args=(free_port(), str(tmp_path)), nprocs=2)
    for case in CASES:
        network, x = make(*case)
        loss_of(network(x)).backward()
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{'-'.join(map(str, case))}-{rank}.pt")
            for name, p in network.named_parameters():
                allowed = 1e-9 + 1e-7 * p.grad.abs().max().item()
                torch.testing.assert_close(found[name], p.grad, rtol=1e-7, atol=allowed, msg=f"{case}: {name}")


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]
