"""The routing of a training: a table of the network's weights and a picture, and nothing that stops a training."""

import csv

import matplotlib
import pytest
import torch
from helpers.networks import make_input, make_network

from nnunet_xattnres.reads.recorder import recorded
from nnunet_xattnres.training.routing_log import PICTURE, TABLE, log_routing


def rows_of(folder):
    with (folder / TABLE).open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("mode", ["add", "gated", "block", "block_published"])
def test_the_table_has_the_mean_weights(tmp_path, mode):
    network = make_network(2, "plain conv", mode)
    x, seen = make_input(network), {}
    with torch.no_grad(), recorded(network, seen.__setitem__):
        network(x)
    log_routing(network, x, 0, tmp_path)
    rows = rows_of(tmp_path)
    assert {(row["epoch"], row["read"]) for row in rows} == {("0", read) for read in network.reads}
    for read, weights in seen.items():
        found = [float(row["mean_weight"]) for row in rows if row["read"] == read]
        expected = [w.mean().item() for w in weights.unbind(1)]
        assert found == pytest.approx(expected, rel=1e-5) and sum(found) == pytest.approx(1, rel=1e-5)
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_epochs_are_added_and_those_of_a_training_that_went_back_are_replaced(tmp_path):
    network = make_network(2, "plain conv", "add")
    x = make_input(network)
    for epoch in (0, 10, 20):
        log_routing(network, x, epoch, tmp_path)
    before = [row for row in rows_of(tmp_path) if row["epoch"] == "0"]
    with torch.no_grad():
        for read in network.reads.values():
            read.pseudo_query.add_(1)
    log_routing(network, x, 10, tmp_path)
    rows = rows_of(tmp_path)
    assert [row for row in rows if row["epoch"] == "0"] == before
    assert {row["epoch"] for row in rows} == {"0", "10"}


def test_the_picture_does_not_take_on_the_style_of_nnunets(tmp_path):
    network = make_network(2, "plain conv", "add")
    pictures = []
    for name, size in (("plain", 10), ("large", 25)):
        (tmp_path / name).mkdir()
        with matplotlib.rc_context({"font.size": size}):
            log_routing(network, make_input(network), 0, tmp_path / name)
            assert matplotlib.rcParams["font.size"] == size
        pictures.append((tmp_path / name / PICTURE).read_bytes())
    assert pictures[0] == pictures[1]


def test_a_network_that_trains_is_left_as_it_is(tmp_path):
    network = make_network(2, "plain conv", "add")
    x = make_input(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    log_routing(network, x, 0, tmp_path)
    assert network.training and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not [h for m in network.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
