"""The choice of a path on this machine, with made-up candidates: none that fails is ever used."""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import pytest
import torch
from helpers.networks import make_input, make_network

from benchmarks.gpu.plans import CONFIGURATIONS
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.ops import chosen, operator, tiled, tiles, trial, tuning
from nnunet_xattnres.ops.chosen import Choice, decide
from nnunet_xattnres.ops.kernels import group_rows
from nnunet_xattnres.ops.shapes import ReadShape
from nnunet_xattnres.ops.tuning import as_json, choose_paths
from nnunet_xattnres.reads.shapes import read_shapes

CPU = torch.device("cpu")
SHAPE = ReadShape("float32", 2, 4, (6, 12), ((4, 6, 12), (3, 3, 6), (5, 2, 3)), (0,), 0, 2)
MADE_UP = "helpers.made_up_paths:PATHS"
BAD = {
    "wrong output": "wrong",
    "wrong log-sum": "wrong",
    "wrong gradient": "wrong",
    "unwritten gradient": "wrong",
    "raises": "failed",
    "raises in the backward": "failed",
    "out of memory": "out of memory",
    "hangs": "too slow",
    "crashes": "crashed",
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "cache"))
    chosen.forget()
    yield tmp_path / "cache"
    chosen.forget()


def choose(*candidates, shapes=(SHAPE,), lines=None, **options):
    log = [].append if lines is None else lines.append
    options = {"table": MADE_UP, "limit": 30.0, "budget": 240.0, **options}
    return choose_paths(shapes, CPU, log, candidates=candidates, **options)


def test_what_fails_is_never_used_and_the_log_says_why():
    """All in one, so that a process is started only after one that has crashed or hung."""
    lines = []
    (found,) = choose(*BAD, "slow", "good", lines=lines, limit=15.0)  # which "hangs" waits out
    assert found.choice == Choice("good", "good") and found.source == "tried"
    assert {name: found.results[name]["status"] for name in BAD} == BAD
    assert len(lines) == 1 and all(name in lines[0] for name in BAD)
    assert "the gradient of the query is off by" in lines[0] and "the log-sum is off by" in lines[0]
    assert "RuntimeError: no kernel image" in lines[0]
    assert "tried to allocate 80 GiB" in lines[0] and "its process ended with 139" in lines[0]
    assert chosen.choice_of(CPU, SHAPE).forward == "good"


LARGE = replace(SHAPE, size=(16, 6, 12), sources=((4, 16, 6, 12), (3, 8, 3, 6)))  # a small read has 8 planes


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_is_wrong_of_the_real_read_alone_is_never_used(deterministic):
    torch.use_deterministic_algorithms(deterministic)
    try:
        (found,) = choose("wrong if large", "unwritten if large", "slow", "good", shapes=[LARGE])
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.choice == (Choice("slow", "slow") if deterministic else Choice("good", "good"))
    assert [r["status"] for r in found.results.values()] == ["wrong", "wrong", "ok", "ok"]
    whys = [r["why"] for r in list(found.results.values())[:2]]
    assert whys[0].startswith("of the real read the read is off by") and whys[0].endswith("from that of good")
    assert whys[1] == "of the real read the gradient of source 0 is not finite"
    assert not any("sums" in result for result in found.results.values())


@pytest.mark.parametrize("order", [("wrong if large", "slow", "good"), ("slow", "good", "wrong if large")])
def test_of_paths_that_differ_most_are_right(order):
    (found,) = choose(*order, shapes=[LARGE])
    assert found.results["wrong if large"]["status"] == "wrong" and found.choice == Choice("good", "good")


def test_of_two_that_differ_the_last_is_right():
    (found,) = choose("wrong if large", "good", shapes=[LARGE])
    assert found.choice == Choice("good", "good")


def test_forward_and_backward_are_chosen_apart():
    (found,) = choose("slow", "slower backward")
    assert found.choice == Choice("slower backward", "slow")


def test_a_small_gain_changes_nothing():
    def results(**seconds):
        return {name: {"status": "ok", "forward": s, "backward": s} for name, s in seconds.items()}

    assert decide(results(a=1.0, b=0.96), timed=True) == Choice("a", "a")
    assert decide(results(a=1.0, b=0.94), timed=True) == Choice("b", "b")
    assert decide(results(a=1.0, b=0.1), timed=False) == Choice("a", "a")
    assert decide({"a": {"status": "wrong"}}, timed=True) is None
    untimed = {"a": {"status": "ok"}, "b": {"status": "ok", "forward": 1.0, "backward": 1.0}}
    assert decide(untimed, timed=True) == Choice("a", "a")  # with deterministic algorithms nothing was timed


def test_deterministic_algorithms_have_a_fixed_order():
    torch.use_deterministic_algorithms(True)
    try:
        (found,) = choose("raises", "slow", "good")
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.choice == Choice("slow", "slow") and "forward" not in found.results["slow"]


def test_what_was_tried_is_remembered(own_cache):
    (first,) = choose("slow", "good")
    chosen.forget()
    with patch.object(tuning, "results_of_children", return_value=iter(())):  # or zip would miss its results
        (second,) = choose("slow", "good")
    assert second.choice == first.choice and second.source == "cache"
    chosen.forget()
    assert chosen.choice_of(CPU, SHAPE).forward == "good"  # as in prediction: by what the cache says
    (file,) = own_cache.iterdir()
    file.write_text("{")
    chosen.forget()
    assert chosen.choice_of(CPU, SHAPE).forward == chosen.FALLBACK


def test_a_cache_of_another_machine_counts_for_nothing(own_cache):
    chosen.save("another GPU", SHAPE, {"good": {"status": "ok", "forward": 1.0, "backward": 1.0}})
    assert chosen.load(chosen.machine(CPU), SHAPE) is None and chosen.load("another GPU", SHAPE)
    assert chosen.load("another GPU", replace(SHAPE, batch=3)) is None


def test_what_other_code_proved_counts_for_nothing(own_cache, monkeypatch, tmp_path):
    """An editable installation keeps its version when its kernels are mended."""
    before = chosen.machine(CPU)
    chosen.save(before, SHAPE, {"good": {"status": "ok", "forward": 1.0, "backward": 1.0}})
    assert chosen.load(chosen.machine(CPU), SHAPE)
    other = shutil.copytree(Path(chosen.__file__).parent, tmp_path / "ops")
    with (other / "kernels.py").open("a") as file:
        file.write("# mended\n")
    monkeypatch.setattr(chosen, "__file__", str(other / "chosen.py"))
    chosen.code.cache_clear()
    try:
        assert chosen.machine(CPU) != before and chosen.load(chosen.machine(CPU), SHAPE) is None
    finally:
        chosen.code.cache_clear()


@pytest.mark.parametrize("says", ["Kernel Module  {}  Sat Feb 17", "Open Kernel Module for x86_64  {}  Release Build"])
def test_what_was_proved_with_another_driver_counts_for_nothing(monkeypatch, tmp_path, says):
    """CUDA's own number is that of its interface: few updates of a driver raise it."""
    gpu, file = SimpleNamespace(name="a made-up GPU", major=8, minor=0, total_memory=2**34), tmp_path / "version"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 12020, raising=False)
    monkeypatch.setattr(chosen, "_DRIVER", file)
    assert ", driver 12020, " in chosen.machine(torch.device("cuda", 0))
    for version in ("535.161.07", "560.28"):
        file.write_text(f"NVRM version: NVIDIA UNIX x86_64 {says.format(version)}\nGCC version:  gcc 12.2\n")
        assert f", driver {version}, " in chosen.machine(torch.device("cuda", 0))


def test_cards_of_one_name_with_another_memory_are_others(monkeypatch):
    """Their tiles differ, and what fits into memory."""
    found = set()
    for gib in (8, 16):
        gpu = SimpleNamespace(name="a made-up GPU", major=8, minor=9, total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, gpu=gpu: gpu)
        found.add(chosen.machine(torch.device("cuda", 0)))
    assert len(found) == 2


def test_triton_counts_whatever_its_distribution_is_called(monkeypatch):
    monkeypatch.setattr(chosen.kernels, "triton", SimpleNamespace(__version__="3.2+made.up"))
    assert ", triton 3.2+made.up, " in chosen.machine(CPU)
    monkeypatch.setattr(chosen.kernels, "triton", None)
    assert ", triton none, " in chosen.machine(CPU)


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_train(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "file" / "below"))
    lines = []
    (found,) = choose("good", lines=lines)
    assert found.choice == Choice("good", "good")
    assert "is not kept for the next time" in lines[0]


def test_without_a_home_nothing_is_known(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(chosen, "cache_folder", no_home)
    assert chosen.known(chosen.machine(CPU)) == [] and chosen.load(chosen.machine(CPU), SHAPE) is None


def test_who_names_a_folder_needs_no_home(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(chosen.Path, "home", no_home)
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path))
    assert chosen.cache_folder() == tmp_path


def test_where_nothing_could_be_tried_plain_torch_is_taken():
    (found,) = choose("good", budget=0.0)
    assert found.choice == Choice(chosen.FALLBACK, chosen.FALLBACK) and found.results["good"]["status"] == "no time"


def test_where_no_process_can_be_started_plain_torch_is_taken_and_nothing_is_kept(own_cache):
    def results(*_, **__):
        raise OSError(28, "No space left on device")
        yield

    lines = []
    with patch.object(tuning, "results_of_children", results):
        (found,) = choose("good", "slow", lines=lines)
    assert found.choice == Choice(chosen.FALLBACK, chosen.FALLBACK)
    assert "good not tried: OSError: [Errno 28] No space left on device" in lines[0]
    assert not own_cache.exists()


def test_a_gpu_that_takes_no_other_process_is_asked_once(monkeypatch):
    """As in the compute mode EXCLUSIVE_PROCESS: each read and path would start a process of its own to be refused."""

    def refuse(*_, **__):
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nand more")

    monkeypatch.setattr(trial.torch, "zeros", refuse)
    items = [{"path": path, "shape": tuning.asdict(SHAPE)} for path in ("good", "slow")]
    found = list(trial.trials(items, device="cpu", table=MADE_UP, timed=True))
    why = "no other process can use cpu: CUDA error: CUDA-capable device(s) is/are busy or unavailable"
    assert found == [{"status": "not tried", "why": why}] * 2


def test_the_time_to_try_is_clearly_less_than_nccl_waits():
    assert tuning.BUDGET <= 0.75 * 600


def test_where_plain_torch_fails_it_is_the_last_resort_and_the_log_says_so():
    def results(*_, **__):
        yield from ({"status": "failed", "why": "no kernel image"}, {"status": "crashed", "why": "it fell"})

    lines = []
    with patch.object(tuning, "results_of_children", results):
        (found,) = choose("raises", "tiled", lines=lines)
    assert found.choice == Choice("tiled", "tiled")
    assert "none has proved itself, so plain torch is the last resort; raises failed" in lines[0]
    assert "tiled crashed: it fell" in lines[0]


def test_where_nothing_is_right_there_is_an_error():
    with pytest.raises(UserError, match=r"(?s)tiled is wrong \(the read is off.*NNUNET_XATTNRES_PATH=reference"):
        choose("raises", "tiled")


def test_what_is_wrong_is_not_forgotten_where_nothing_is_right(own_cache):
    """A prediction tries nothing: it must not take what has computed something else. A training tries again."""
    with pytest.raises(UserError):
        choose("raises", "tiled")
    assert chosen.load(chosen.machine(CPU), SHAPE)["tiled"]["status"] == "wrong"
    with pytest.raises(UserError, match=r"tiled is wrong \(the read is off.*NNUNET_XATTNRES_PATH=reference"):
        chosen.choice_of(CPU, SHAPE)
    (found,) = choose("good", "raises")
    assert found.source == "tried" and found.choice == chosen.choice_of(CPU, SHAPE) == Choice("good", "good")


def test_where_plain_torch_has_failed_a_prediction_takes_it_all_the_same():
    chosen.save(chosen.machine(CPU), SHAPE, {"tiled": {"status": "crashed", "why": "it fell"}})
    assert chosen.choice_of(CPU, SHAPE) == Choice("tiled", "tiled")


def test_a_checkpoint_keeps_its_choice_on_such_a_machine():
    stored = [{**as_json(choose("good"), CPU)[0], "forward": "slow"}]
    stored = json.loads(json.dumps(stored))
    (found,) = choose("good", stored=stored)
    assert found.choice == Choice("slow", "good") and found.source == "checkpoint"
    assert chosen.choice_of(CPU, SHAPE).forward == "slow"
    lines = []
    (found,) = choose("good", stored=[{**stored[0], "machine": "another GPU"}], lines=lines)
    assert (
        found.choice == Choice("good", "good")
        and "chosen anew: those of the checkpoint were made on another GPU" in lines[0]
    )
    other = replace(SHAPE, batch=1)
    choose("good", shapes=[other], stored=stored, lines=lines)
    assert "those of the checkpoint do not have them" in lines[2]


def test_a_checkpoint_keeps_the_choices_that_it_has_and_the_others_are_made():
    stored = [{**as_json(choose("good"), CPU)[0], "forward": "slow"}]
    lines = []
    other = replace(SHAPE, batch=1)
    found = {one.shape: one for one in choose("good", shapes=[SHAPE, other], stored=stored, lines=lines)}
    assert found[SHAPE].source == "checkpoint" and found[SHAPE].choice == Choice("slow", "good")
    assert found[other].source == "tried" and found[other].choice == Choice("good", "good")
    assert "The paths of 1 of 2 reads are chosen anew: those of the checkpoint do not have them" in lines[0]


@pytest.mark.parametrize("candidate", ["raises", "out of memory"])
def test_a_checkpoint_does_not_keep_what_another_try_may_find_otherwise(candidate, own_cache):
    """The user may have made room for it on the GPU, or installed a compiler, before --c."""
    found = choose(candidate, "slow")
    assert found[0].choice == Choice("slow", "slow") and as_json(found, CPU) == []
    assert as_json(choose("wrong output", "good"), CPU)[0]["forward"] == "good"


@pytest.mark.parametrize("status", ["out of memory", "too slow", "wrong"])
def test_a_failure_that_may_pass_is_tried_again_the_next_day(status, own_cache, monkeypatch):
    """Something else may have been on the GPU; what computes something else stays out."""
    seconds = {"forward": 1.0, "backward": 1.0}
    results = {"good": {"status": status}, "slow": {"status": "ok", **seconds}}
    chosen.save(chosen.machine(CPU), SHAPE, results)
    (found,) = choose("good", "slow")
    assert found.choice == Choice("slow", "slow") and found.source == "cache"
    chosen.forget()
    now = chosen.time()
    monkeypatch.setattr(chosen, "time", lambda: now + 25 * 3600)
    assert chosen.choice_of(CPU, SHAPE) == Choice("slow", "slow")  # meanwhile, what has proved itself
    (found,) = choose("good", "slow")
    passed = status != "wrong"
    assert found.source == ("tried" if passed else "cache")
    assert found.choice.forward == ("good" if passed else "slow")


@pytest.mark.parametrize(
    ("result", "again"),
    [
        ({"status": "failed", "why": "RuntimeError: Failed to find C compiler"}, True),
        ({"status": "failed", "why": "RuntimeError: CUDA error: an illegal memory access was encountered"}, False),
        ({"status": "crashed", "why": "its process ended with -11"}, False),
    ],
)
def test_what_failed_for_want_of_something_is_tried_again_when_a_training_starts(result, again):
    """The user may have installed it in the meantime, a compiler for the kernels, say."""
    chosen.save(chosen.machine(CPU), SHAPE, {"good": result, "slow": {"status": "ok", "forward": 1.0, "backward": 1.0}})
    assert chosen.choice_of(CPU, SHAPE) == Choice("slow", "slow")  # as in prediction, which tries nothing
    (found,) = choose("good", "slow")
    assert (found.source, found.choice.forward) == (("tried", "good") if again else ("cache", "slow"))


def test_what_was_known_is_better_than_what_there_was_no_time_for():
    known = {
        "good": {"status": "failed", "why": "RuntimeError: Failed to find C compiler"},
        "slow": {"status": "ok", "forward": 1.0, "backward": 1.0},
    }
    chosen.save(chosen.machine(CPU), SHAPE, known)
    (found,) = choose("good", "slow", budget=0.0)
    assert (found.choice, found.source) == (Choice("slow", "slow"), "cache")
    assert chosen.load(chosen.machine(CPU), SHAPE) == known


def test_what_was_just_found_is_better_than_what_was_known():
    """Also if there was no time for the others."""
    seconds = {"forward": 1.0, "backward": 1.0}
    known = {
        "fast": {"status": "ok"},  # by deterministic algorithms, which are not timed
        "slow": {"status": "ok", **seconds},
        "last": {"status": "failed", "why": "RuntimeError: Failed to find C compiler"},
    }
    chosen.save(chosen.machine(CPU), SHAPE, known)
    found = ({"status": "wrong", "why": "the read is off"}, {"status": "ok", **seconds}, {"status": "no time"})
    with patch.object(tuning, "results_of_children", lambda *_, **__: iter(found)):
        (one,) = choose("fast", "slow", "last")
    assert one.choice == Choice("slow", "slow") and one.source == "tried"
    kept = chosen.load(chosen.machine(CPU), SHAPE)
    assert [kept[path]["status"] for path in ("fast", "slow", "last")] == ["wrong", "ok", "failed"]


def test_between_tiles_no_log_sum_is_written():
    """Their backward does not take it; whatever else may, finds it written."""
    network = make_network(2, "plain conv", "add")
    x = make_input(network)
    saved = []
    original = operator.FORWARD["tiled"]

    def record(*args, log_sum=None, **options):
        original(*args, log_sum=log_sum, **options)
        saved.append(None if log_sum is None else log_sum.clone())

    with patch.dict(operator.FORWARD, tiled=record):
        network(x)
        assert saved and all(log_sum is None for log_sum in saved)
        saved.clear()
        for shape in read_shapes(network, x.shape, CPU):
            chosen.remember(CPU, shape, Choice("tiled", "fused"))
        network(x)
    assert saved and all(log_sum.isfinite().all() for log_sum in saved)


RANK = """
import sys
sys.path[:0] = {path!r}
import torch
from torch import distributed as dist
from nnunet_xattnres.ops import tuning
from nnunet_xattnres.ops.shapes import ReadShape
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)


def read(batch):
    return ReadShape("float32", batch, 4, (6, 12), ((4, 6, 12), (3, 3, 6)), (0,), 0, 2)


{what}
"""


def say_in_two_ranks(folder, what):
    """What each of two processes says last; ``what`` is run in both."""
    script = RANK.format(path=sys.path, what=what)
    commands = [[sys.executable, "-c", script, str(rank), str(folder / "ranks")] for rank in (0, 1)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        return [process.communicate(timeout=90)[0].rstrip("\n").split("\n")[-1] for process in processes]
    finally:
        for process in processes:  # one that waits for the other
            process.kill()


def test_ranks_that_would_choose_differently_agree(tmp_path):
    """What failed for one has failed, and the slowest one's time counts."""
    what = """
seconds = [{"a": 1.0, "b": 2.0, "c": 3.0}, {"a": None, "b": 9.0, "c": 3.0}][rank]  # each alone: a, c


def results(function, items, arguments, **limits):
    for item in items:
        s = seconds[item["path"]]
        yield {"status": "ok", "forward": s, "backward": 1.0} if s else {"status": "crashed", "why": "it fell"}


tuning.results_of_children = results
if rank == 1:  # it knows one of two already
    known = dict(zip("abc", results("", [{"path": path} for path in "abc"], {})))
    tuning.load = lambda machine, asked: known if asked == read(2) else None
found = tuning.choose_paths([read(2), read(1)], torch.device("cpu"), lambda _: None, candidates="abc")
print(*[(one.choice.forward, one.choice.backward) for one in found], found[0].results["a"]["status"])
"""
    assert say_in_two_ranks(tmp_path, what) == ["('c', 'b') ('c', 'b') crashed"] * 2


@pytest.mark.parametrize("machines", [["a", "a"], ["a", "b"]])
def test_what_the_ranks_on_a_machine_found_is_kept_by_one_of_them(tmp_path, machines):
    """Not what the first one found: a later training on another such GPU, or a prediction, would take what is wrong.

    Nor what another machine found: what is wrong on an older GPU would be so on the newer one for ever.
    """
    what = f"""
def results(function, items, arguments, **limits):
    for item in items:
        bad = rank == 1 and item["path"] == "a"
        yield {{"status": "wrong", "why": "off"}} if bad else {{"status": "ok", "forward": 1.0 + rank, "backward": 1.0}}


saved = []
tuning.results_of_children = results
tuning.machine = lambda device: {machines}[rank]
tuning.save = lambda machine, shape, found: saved.append((machine, shape.batch, found))
known = {{path: {{"status": "ok", "forward": 1.0, "backward": 1.0}} for path in "ab"}}
tuning.load = lambda machine, shape: known if shape == read(2) or (shape == read(1) and rank == 0) else None
tuning.choose_paths([read(2), read(1)], torch.device("cpu"), lambda _: None, candidates="ab")
print(saved)
"""
    well = {path: {"status": "ok", "forward": 1.0, "backward": 1.0} for path in "ab"}
    ill = {"a": {"status": "wrong", "why": "off"}, "b": {"status": "ok", "forward": 2.0, "backward": 1.0}}
    of_two = [[("a", 1, well)], [("b", 1, ill)]] if machines == ["a", "b"] else [[("a", 1, ill)], []]
    assert say_in_two_ranks(tmp_path, what) == list(map(str, of_two))


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_wrong_for_one_rank_is_wrong_whatever_failed_for_another(order):
    """It is then not taken as the last resort either."""
    of_ranks = [{"tiled": {"status": "not tried"}}, {"tiled": {"status": "wrong"}}, {"tiled": {"status": "ok"}}]
    assert tuning._merged(of_ranks[::order]) == {"tiled": {"status": "wrong"}}


def test_a_rank_that_can_start_no_process_keeps_no_other_waiting(tmp_path):
    """What it has tried until then counts."""
    what = """
def results(function, items, arguments, **limits):
    for item in items:
        if rank == 1 and item["path"] == "b":
            raise OSError(28, "No space left on device")
        yield {"status": "ok", "forward": 1.0, "backward": 1.0}


tuning.results_of_children = results
found = tuning.choose_paths([read(2), read(1)], torch.device("cpu"), lambda _: None, candidates="ab")
print(*[(one.choice.forward, *(r["status"] for r in one.results.values())) for one in found], found[0])
"""
    said = say_in_two_ranks(tmp_path, what)
    assert said[0] == said[1]
    assert said[0].startswith("('a', 'ok', 'not tried') ('tiled', 'not tried', 'not tried')")
    assert "b not tried: OSError: [Errno 28] No space left on device" in said[0]


def test_ranks_of_different_batches_try_the_reads_of_all(tmp_path):
    """nnU-Net gives some ranks one sample more, if a batch cannot be shared out evenly."""
    what = """
def results(function, items, arguments, **limits):
    for item in items:
        seconds = item["shape"]["batch"] if item["path"] == "a" else 2.5
        yield {"status": "ok", "forward": seconds, "backward": seconds}


tuning.results_of_children = results
chosen = []
for batches in ([2, 1], [3, 2]):
    shapes = dict.fromkeys([read(batches[rank]), read(1)])
    found = tuning.choose_paths(list(shapes), torch.device("cpu"), lambda _: None, candidates="ab")
    chosen.append({one.shape.batch: one.choice.forward for one in found})
print(chosen)
"""
    assert say_in_two_ranks(tmp_path, what) == ["[{2: 'a', 1: 'a'}, {3: 'b', 1: 'a', 2: 'a'}]"] * 2


def test_a_network_computes_what_was_chosen(monkeypatch):
    """For every shape that it reads, and by no graph: a compiled network follows."""
    network = make_network(2, "plain conv", "add")
    x = make_input(network)
    parameters = [p.data_ptr() for p in network.parameters()]
    shapes = read_shapes(network, x.shape, CPU)
    assert len(shapes) == len(network.reads) and network.training
    assert [p.data_ptr() for p in network.parameters()] == parameters
    taken = []

    def record(name, compute):
        return lambda *args, **options: (taken.append(name), compute(*args, **options))[1]

    forward, backward = operator.PATHS["tiled"]
    for name in ("tiled", "fused"):
        monkeypatch.setitem(operator.FORWARD, name, record(name, forward))
        monkeypatch.setitem(operator.BACKWARD, name, record(f"{name} backward", backward))
    compiled = torch.compile(network, backend="aot_eager")
    for run in (network, compiled):
        chosen.forget()
        for shape in shapes:
            chosen.remember(CPU, shape, Choice("fused", "tiled"))
        taken.clear()
        sum(o.square().mean() for o in run(x)).backward()
        assert taken == ["fused"] * len(shapes) + ["tiled backward"] * len(shapes)
        for shape in shapes:
            chosen.remember(CPU, shape, Choice("tiled", "fused"))
        taken.clear()
        sum(o.square().mean() for o in run(x)).backward()
        assert taken == ["tiled"] * len(shapes) + ["fused backward"] * len(shapes)
    torch.compiler.reset()


ALONE = replace(SHAPE, before=0)  # no other channels stand before the read


def read_of(operands, **options):
    pool, projections, query = (operands[name] for name in ("pool", "projections", "query"))
    ones = torch.ones_like(query)
    return operator.history_read(pool, projections, query, ones, SHAPE.size, skip=SHAPE.skip, **options)


NO_COMPILER = RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")


@pytest.mark.parametrize("phase", ["FORWARD", "BACKWARD"])
def test_kernels_that_cannot_be_built_any_more_give_way_to_tiles(monkeypatch, phase):
    """They proved themselves in another container, with a C compiler: a prediction in this one must not end."""
    operands = ALONE.tensors(CPU)
    inputs = [t.requires_grad_() for t in (*operands["pool"], operands["query"])]
    expected = read_of(operands)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    forward, backward = operator.PATHS["tiled"]
    monkeypatch.setitem(operator.FORWARD, "fused", forward)
    monkeypatch.setitem(operator.BACKWARD, "fused", backward)
    monkeypatch.setitem(getattr(operator, phase), "fused", Mock(side_effect=NO_COMPILER))
    chosen.remember(CPU, ALONE, Choice("fused", "fused"))
    with pytest.warns(UserWarning, match="fused cannot run here, tiled is taken .Failed to find C compiler"):
        found = read_of(operands)
        found_gradients = torch.autograd.grad(found.square().sum(), inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradients, gradients)
    assert chosen.choice_of(CPU, ALONE) == Choice("tiled", "tiled")


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("tried to allocate 80 GiB"), RuntimeError("CUDA error: an illegal memory access")],
)
def test_other_errors_of_kernels_are_raised(monkeypatch, error):
    monkeypatch.setitem(operator.FORWARD, "fused", Mock(side_effect=error))
    chosen.remember(CPU, ALONE, Choice("fused", "fused"))
    with pytest.raises(type(error), match=str(error)):
        read_of(ALONE.tensors(CPU))


def test_kernels_do_not_give_way_to_tiles_that_are_wrong_nor_where_they_are_forced(monkeypatch):
    monkeypatch.setitem(operator.FORWARD, "fused", Mock(side_effect=NO_COMPILER))
    with pytest.raises(RuntimeError, match="C compiler"):
        read_of(ALONE.tensors(CPU), path="fused")
    chosen.save(chosen.machine(CPU), ALONE, {"fused": {"status": "ok"}, "tiled": {"status": "wrong", "why": "off"}})
    chosen.remember(CPU, ALONE, Choice("fused", "fused"))
    with pytest.raises(RuntimeError, match="C compiler"):
        read_of(ALONE.tensors(CPU))


@pytest.mark.parametrize(
    ("results", "taken"),
    [
        ({"tiled": "wrong", "tiled-small": "ok"}, "tiled-small"),
        ({"fused": "ok", "tiled": "ok"}, "tiled"),
        ({"fused": "ok", "tiled": "wrong", "tiled-small": "ok"}, "tiled-small"),
        ({"fused": "ok", "tiled": "wrong"}, None),
        ({"fused": "ok", "tiled": "out of memory", "tiled-small": "ok"}, "tiled-small"),
        ({"fused": "ok", "tiled": "out of memory"}, "tiled"),
    ],
)
def test_weights_are_computed_by_what_is_right(monkeypatch, results, taken):
    """As inspect and the routing log ask for them; the kernels give none."""
    chosen.save(chosen.machine(CPU), ALONE, {name: {"status": status} for name, status in results.items()})
    first = next(name for name, status in results.items() if status == "ok")
    chosen.remember(CPU, ALONE, Choice(first, first))
    expected = read_of(operands := ALONE.tensors(CPU), return_weights=True, path="tiled")
    ran = []
    for name in ("tiled", "tiled-small"):
        compute = operator.FORWARD[name]
        monkeypatch.setitem(
            operator.FORWARD, name, lambda *a, name=name, compute=compute, **o: (ran.append(name), compute(*a, **o))
        )
    found = read_of(operands, return_weights=True)
    assert ran == ([taken] if taken else [])
    torch.testing.assert_close(found, expected)


def test_what_this_process_found_counts_where_no_folder_can_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "file"))
    choose("good", "tiled")  # of the made-up paths this one is wrong
    assert chosen.load(chosen.machine(CPU), SHAPE) is None and chosen.tiles_of(CPU, SHAPE) is None


def test_errors_of_kernels_hold_no_memory(monkeypatch):
    """Of a network that ran out of memory nothing must be left when another is tried."""
    kept = []

    def fail(*args, **options):
        of_the_kernel = torch.zeros(3)
        kept.append(weakref.ref(of_the_kernel))
        raise torch.cuda.OutOfMemoryError("tried to allocate 80 GiB")

    monkeypatch.setitem(operator.FORWARD, "fused", fail)
    chosen.remember(CPU, ALONE, Choice("fused", "fused"))
    gc.disable()
    try:
        with suppress(torch.cuda.OutOfMemoryError):
            read_of(ALONE.tensors(CPU))
        assert len(kept) == 1 and kept[0]() is None
    finally:
        gc.enable()


def test_where_nothing_is_right_no_weights_are_computed():
    chosen.save(chosen.machine(CPU), ALONE, {"tiled": {"status": "wrong", "why": "off"}})
    chosen.remember(CPU, replace(ALONE, batch=9), Choice("tiled", "tiled"))  # so that the CPU is asked as a GPU is
    with pytest.raises(UserError, match="tiled is wrong"):
        read_of(ALONE.tensors(CPU), return_weights=True)


@pytest.mark.parametrize("available", [True, False])
def test_the_kernels_are_tried_for_the_channels_that_they_are_made_for(available, monkeypatch):
    monkeypatch.setattr(tuning.fused, "available", lambda: available)
    asked = []

    def results(function, items, arguments, **limits):
        for item in items:
            asked.append((item["path"], item["shape"]["channels"]))
            yield {"status": "ok", "forward": 1.0, "backward": 1.0}

    with patch.object(tuning, "results_of_children", results):
        choose_paths([replace(SHAPE, channels=n, direct=()) for n in (128, 129)], CPU, [].append)
    assert asked == [("fused", 128)] * available + [("tiled", 128), ("tiled", 129)]


BIG = replace(SHAPE, batch=2, channels=32, size=(128, 512, 64), sources=((32, 128, 512, 64), (8, 64, 256, 32)))


@pytest.mark.parametrize(("gib", "size", "tried"), [(24, BIG.size, 2), (24, (4, 8, 64), 1), (3, BIG.size, 1)])
def test_small_tiles_are_tried_where_they_are_others(monkeypatch, gib, size, tried):
    """Not of a small read, which is one tile, nor on a small GPU, which has no others: noise would choose."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=gib * 2**30))
    shape = replace(BIG, size=size)
    found = tuning._possible(("tiled", "tiled-small"), [shape], torch.device("cuda", 0))
    assert found == {shape: ["tiled", "tiled-small"][:tried]}
    monkeypatch.setattr(tuning, "_gathered", lambda here: [here, [["tiled"]]])
    assert tuning._possible(("tiled", "tiled-small"), [shape], torch.device("cuda", 0)) == {shape: ["tiled"]}


def test_small_tiles_are_never_larger():
    """On a CPU the usual ones are smaller than those of a small GPU."""
    read = BIG.batch, BIG.channels, BIG.size, len(BIG.sources), CPU
    assert tiles.tiling(*read, tiles.SMALL_TILE) == tiles.tiling(*read) and len(tiles.tiling(*read).tiles) > 1


def test_small_tiles_are_smaller():
    """What the least memory is for, and what is right where two paths differ."""
    given = []

    class Recorded(tiled.TiledRead):
        def __init__(self, *arguments):
            given.append(arguments[-1])
            super().__init__(*arguments)

    with patch.object(tiled, "TiledRead", Recorded):
        for path in ("tiled", "tiled-small"):
            run = trial._Run(operator.PATHS[path], SHAPE, CPU)
            run.forward()
            run.backward()
    assert given == [None, None, tiles.SMALL_TILE, tiles.SMALL_TILE] and tiles.SMALL_TILE < tiles._TILE_ELSEWHERE
    operands = SHAPE.tensors(CPU)
    projections, _ = tiled._with_query(operands["projections"], operands["query"])
    n_tiles = [len(tiled.TiledRead(operands["pool"], projections, SHAPE.size, 1e-6, n).tiles) for n in (2**7, 2**20)]
    assert n_tiles[0] > n_tiles[1] == 1


@pytest.mark.parametrize("path", ["tiled", "tiled-small"])
def test_the_real_paths_prove_themselves(path):
    anisotropic = ReadShape("float16", 1, 6, (3, 8, 20), ((6, 3, 8, 20), (4, 3, 4, 10), (6, 1, 2, 5)), (0,), None, 0)
    found = choose_paths([SHAPE, anisotropic], CPU, [].append, candidates=[path])
    assert [one.choice.forward for one in found] == [path, path], [one.results for one in found]


def test_a_small_read_keeps_what_matters():
    shape = ReadShape("float16", 12, 64, (96, 128, 40), ((64, 96, 128, 40), (320, 6, 8, 3)), (0,), 0, 64)
    small = shape.small()
    assert small.size == (8, 128, 40) and small.sources == ((64, 8, 128, 40), (320, 1, 8, 3)) and small.batch == 2
    assert ReadShape.from_json(json.loads(json.dumps(tuning.asdict(shape)))) == shape
    wide = replace(shape, size=(600, 600), sources=((64, 600, 600), (320, 300, 300))).small()
    assert wide.size == (75, 504) and wide.size[1] % 16 == 600 % 16  # the kernels are compiled for the remainder


@pytest.mark.parametrize("configuration", CONFIGURATIONS[:2], ids=lambda c: c.name)
def test_a_small_read_has_the_groups_of_rows_of_the_real_one(configuration):
    """A program of the kernels hands on from one row of its group to the next; with groups of one it never would."""

    def groups(shape):
        found = {group_rows(in_height, shape.size[-2]) for *_, in_height, _ in shape.sources}
        return found - {1}

    with torch.device("meta"):
        network = configuration.build("add")
    shapes = read_shapes(network, (configuration.batch, 1, *configuration.patch), CPU)
    assert any(map(groups, shapes))
    for shape in shapes:
        assert groups(shape) <= groups(shape.small()), shape


@pytest.mark.parametrize("height", [64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640])
def test_a_small_read_ends_its_groups_as_the_real_one(height):
    """The last group of a coarse source may be a shorter one: 28 rows in groups of three."""

    def ends(shape):
        heights = [in_height for _, in_height, _ in shape.sources]
        rows = [group_rows(n, shape.size[0]) for n in heights]
        return {(n, in_height % n) for n, in_height in zip(rows, heights, strict=True) if n > 1}

    sources = tuple((32, -(-height // factor), 64 // factor) for factor in (1, 2, 4, 8, 16, 32))
    shape = ReadShape("float16", 2, 32, (height, 64), sources, (0,), 0, 32)
    assert ends(shape) <= ends(shape.small())
