"""Forcing the path of the reads: by the environment, by an argument, by a network."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.networks import make_input, make_network

from nnunet_xattnres import ops
from nnunet_xattnres.ops.tiles import SMALL_TILE
from nnunet_xattnres.reads.history_read import HistoryRead

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setattr(ops.choice, "_INTERPRETED", False)
    return lambda path: monkeypatch.setattr(ops.choice, "_FROM_ENVIRONMENT", path)


@pytest.fixture
def taken(monkeypatch):
    """The paths of the reads, in the order computed."""
    taken = []

    def record(path, original):
        def read(*args, **options):
            taken.append(path)
            return original(*args, **options)

        return read

    monkeypatch.setattr(ops.reference, "history_read", record("reference", ops.reference.history_read))
    monkeypatch.setitem(ops.operator.FORWARD, "tiled", record("tiled", ops.operator.FORWARD["tiled"]))
    return taken


def test_the_question_answers_with_what_is_forced(environment, monkeypatch):
    monkeypatch.setattr(ops.fused, "available", lambda: True)
    assert [ops.read_path(CPU, 32, path=path) for path in ("tiled", "reference", None)] == [
        "tiled",
        "reference",
        "tiled",
    ]
    assert [ops.read_path(CUDA, 320, path=path) for path in ops.PATHS] == list(ops.PATHS)
    environment("reference")
    assert ops.read_path(CPU, 32) == "reference"
    assert ops.read_path(CPU, 32, path="tiled") == "tiled"  # what is nearer stands before the environment
    environment("tiled")
    assert ops.read_path(MPS, 32) == "tiled" and not ops.choice.only_plain_torch(MPS)
    environment("fused")
    assert ops.read_path(CUDA, 32) == "fused"
    assert ops.read_path(CUDA, 32, return_weights=True) == "reference"  # the kernels give no weights
    with torch.no_grad():
        assert ops.read_path(CUDA, 32, return_weights=True) == "tiled"


@pytest.mark.parametrize("path", ["fast", "Tiled", ""])
def test_an_unknown_path_is_named_with_the_choices(path, environment):
    choices = "one of 'fused', 'tiled', 'tiled-small', 'reference'"
    for ask in (lambda: ops.read_path(CPU, 32, path=path), lambda: make_network(2, "plain conv", "add").use_path(path)):
        with pytest.raises(ops.choice.PathError, match=f"the path is {path!r}; it must be {choices}"):
            ask()
    environment(path or None)
    if path:
        with pytest.raises(ValueError, match=f"NNUNET_XATTNRES_PATH is {path!r}; it must be {choices}"):
            ops.read_path(CPU, 32)
    else:
        assert ops.read_path(CPU, 32) == "tiled"


def test_what_cannot_compute_names_the_way_out(environment, monkeypatch):
    def refusal(path, device):
        with pytest.raises(ops.choice.PathError) as found:
            ops.read_path(device, 32, path=path)
        assert "\n" not in str(found.value) and "use_path(None)" in str(found.value)
        return str(found.value)

    monkeypatch.setattr(ops.fused, "available", lambda: True)
    environment(None)
    assert "its kernels need CUDA, but the tensors are on cpu: force 'tiled' or 'reference'" in refusal("fused", CPU)
    x = torch.randn(1, 2, 4, 4)
    with pytest.raises(ValueError, match="need CUDA"):
        ops.resize_to_each(x, [(2, 2)], path="fused")
    monkeypatch.setattr(ops.choice, "_INTERPRETED", True)
    assert ops.read_path(CPU, 32, path="fused") == "fused"
    monkeypatch.setattr(ops.fused, "available", lambda: False)
    assert "Triton cannot be imported" in refusal("fused", CUDA)
    monkeypatch.setattr(ops.choice, "CUSTOM_OPS", False)
    for path in ("fused", "tiled"):
        assert "older than 2.4: force 'reference', or none" in refusal(path, CUDA)
    assert ops.read_path(CUDA, 32, path="reference") == "reference"


def test_a_network_reads_by_the_path_it_is_told(taken, environment):
    network = make_network(2, "plain conv", "gated")
    x, keys, n = make_input(network), list(network.state_dict()), len(network.reads)
    for path, expected in (("reference", "reference"), ("tiled", "tiled"), (None, "tiled")):
        network.use_path(path)
        network(x)
        assert taken == [expected] * n
        taken.clear()
    environment("reference")
    network(x)
    assert taken == ["reference"] * n
    network.use_path("fused")
    with pytest.raises(ValueError, match="force 'tiled' or 'reference'"):
        network(x)
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_path_of_least_memory_can_be_forced(environment, monkeypatch, by_variable):
    """All of a read, its weights, too: whoever is short of memory has no other tiles."""
    taken = []

    class Recorded(ops.tiled.TiledRead):
        def __init__(self, *arguments):
            taken.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr(ops.tiled, "TiledRead", Recorded)
    read = HistoryRead([2, 3], 2, torch.nn.Conv2d, direct=[0])
    pool = [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 2, 2)]
    environment("tiled-small" if by_variable else None)
    read.path = None if by_variable else "tiled-small"
    read(pool, (4, 4)).sum().backward()
    with torch.no_grad():
        read(pool, (4, 4), return_weights=True)
    assert taken == [SMALL_TILE] * 3


def test_a_resize_is_by_the_forced_path_too(monkeypatch):
    for name in ("reference", "resize"):
        monkeypatch.setattr(getattr(ops, name), "resize_to_each", lambda *_, name=name: name)
    x = torch.randn(1, 2, 4, 4)
    asked = [ops.resize_to_each(x, [(2, 2)], path=path) for path in ("reference", "tiled", None)]
    assert asked == ["reference", "resize", "resize"]


def test_a_forced_path_survives_copies_and_old_networks_have_none(taken):
    network = make_network(2, "plain conv", "add")
    x = make_input(network)
    network.use_path("reference")
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network)), torch.load(file, weights_only=False)]
    for other in copies:
        other(x)
    assert set(taken) == {"reference"}
    taken.clear()
    for module in (network, *network.reads.values()):  # as pickled before there was a path
        vars(module).pop("path", None)
    network(x)
    network.use_path("reference")
    network(x)
    n = len(network.reads)
    assert taken == ["tiled"] * n + ["reference"] * n


def test_a_read_alone_can_be_forced(taken):
    read = HistoryRead([2, 3], 2, torch.nn.Conv2d, direct=[0])
    pool = [torch.randn(1, 2, 4, 4), torch.randn(1, 3, 2, 2)]
    expected = read(pool, (4, 4))
    read.path = "reference"
    torch.testing.assert_close(read(pool, (4, 4)), expected)
    assert taken == ["tiled", "reference"]


def test_a_compiled_network_follows_without_a_graph_break(taken):
    """Traced only: nothing is compiled to machine code."""
    network = make_network(2, "plain conv", "add")
    x = make_input(network)
    torch.compiler.reset()
    operators = []

    def look(graph, _):
        operators.append({str(node.target) for node in graph.graph.nodes if "xattnres" in str(node.target)})
        return graph.forward

    compiled = torch.compile(network, backend=look, fullgraph=True)
    with torch.no_grad():
        expected = network(x)
        for path in (None, "reference", "tiled"):
            network.use_path(path)
            taken.clear()
            for a, b in zip(compiled(x), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert ("tiled" in taken) == (path != "reference"), "the graph of another path was run"
    # the third may be the first once more
    assert [bool(found) for found in operators] in ([True, False], [True, False, True]), operators
    torch.compiler.reset()


def test_the_variable_is_read_when_the_package_is():
    def run(value, code):
        environment = {**os.environ, "NNUNET_XATTNRES_PATH": value}
        command = [sys.executable, "-c", f"import torch\nfrom nnunet_xattnres import ops\n{code}"]
        cwd = Path(__file__).parents[2]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)

    ask = "print(ops.read_path(torch.device('cpu'), 32))"
    assert run("reference", ask).stdout == "reference\n"
    assert run("", ask).stdout == "tiled\n"
    wrong = run("quick", ask)
    assert wrong.returncode and "NNUNET_XATTNRES_PATH is 'quick'" in wrong.stderr
