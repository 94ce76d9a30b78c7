"""What FlopCounterMode counts of a network with reads is what `profile` says, and what is counted here by hand."""

from math import prod

import pytest
import torch
from helpers.networks import make_input, make_network
from helpers.plans import make_plans
from helpers.reads import needs_operators
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres import ops
from nnunet_xattnres.commands.profile import Setting, count

pytestmark = needs_operators
DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def flops_of(run):
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerXAttnRes", "nnUNetTrainerXAttnResReplace"])
def test_the_counter_and_profile_agree(trainer):
    setting = Setting.of(make_plans(), DATASET, "2d", None)
    network = setting.build(trainer, deep_supervision=False).eval()
    image = setting.images("cpu", batch=1)
    with torch.no_grad():
        assert flops_of(lambda: network(image)) == 2 * count(setting, trainer)[1]


def test_a_read_by_hand():
    """A direct source at 4 x 4, and one of 3 channels at 2 x 2, for 2 samples and 5 channels."""
    pool = [torch.randn(2, 5, 4, 4, requires_grad=True), torch.randn(2, 3, 2, 2, requires_grad=True)]
    w, projection = torch.randn(5, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    projecting, sums = 3 * (2 * 4 * (5 + 1) + 5), 2 * 5 * (2 * 16)
    found = []
    forward = flops_of(lambda: found.append(ops.history_read(pool, [None, projection], w, w, (4, 4), skip=0)))
    assert forward == 2 * (projecting + 2 * sums)
    assert flops_of(lambda: found[0].sum().backward()) == 2 * (3 * projecting + 4 * sums)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_backward_costs_about_twice_the_forward_or_thrice(dimension):
    """The counter sees both, whatever the number of axes."""
    network = make_network(dimension, "plain conv", "add", deep_supervision=False)
    plain = make_network(dimension, "plain conv", "plain", deep_supervision=False)
    x, found = make_input(network), {}
    for name, each in (("add", network), ("plain", plain)):
        out = []
        forward = flops_of(lambda each=each, out=out: out.append(each(x)))
        found[name] = forward, flops_of(lambda out=out: out[0].mean().backward())
    of_reads = [ours - theirs for ours, theirs in zip(found["add"], found["plain"], strict=True)]
    assert of_reads[0] > 2 * prod(x.shape[2:]) and 2 * of_reads[0] <= of_reads[1] <= 3 * of_reads[0]
