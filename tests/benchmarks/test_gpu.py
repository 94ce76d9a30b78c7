"""benchmarks/gpu.sh: every step of it on the CPU, and what becomes of candidates that fail."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.cost import __main__ as cost
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import plans, proofs, timings
from benchmarks.gpu.table import tables
from nnunet_xattnres.ops import chosen
from nnunet_xattnres.ops.chosen import Choice
from nnunet_xattnres.ops.kernels import group_rows
from nnunet_xattnres.ops.tuning import Found, choose_paths

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Run with one tiny network, one read and made-up processes, and read what was written."""
    monkeypatch.setattr(plans, "TINY", plans.TINY[:1])
    monkeypatch.setattr(plans, "TINY_PROVED", [(4, (4, 8))])
    monkeypatch.setattr(plans, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu, "choose_paths", choose_nothing)
    out = tmp_path / "results" / "reads-made-up.json"

    def command(*options):
        gpu.main(["--device", "cpu", "--tiny", "--out", str(out), *options])
        return json.loads(out.read_text())

    return command


def choose_nothing(shapes, device, log, budget):
    status = "ok" if budget else "no time"
    return [Found(shape, Choice("tiled", "tiled"), {"tiled": {"status": status}}, "tried") for shape in shapes]


PHASE = {
    "seconds": 0.2,
    "plain_seconds": 0.1,
    "ratio": 2.0,
    "all": [[0.2], [0.1]],
    "memory": None,
    "memory_ratio": None,
}
WELL = {"status": "ok", "first_steps": 1.0, "training": PHASE, "inference": PHASE}


def test_every_line_is_printed_and_written_as_it_comes(command, monkeypatch, capsys, tmp_path):
    asked = []

    def made_up(function, items, arguments, *, limit, deadline, environment):
        for item in items:
            asked.append(item)
            if function == gpu.PROVE:
                yield {"status": "crashed", "why": "it fell"} if item["path"] == "fused" else {"status": "ok"}
            elif item["kind"] == "tiled":
                yield {"status": "out of memory", "why": "80 GiB"}
            else:
                if item["kind"] == "chosen":
                    written = json.loads((tmp_path / "results" / "reads-made-up.json").read_text())
                    assert written["timings"][-1]["kind"] == "plain"  # before this line there is
                yield WELL if item["kind"] in ("plain", "chosen") else {"status": "no time"}

    monkeypatch.setattr(gpu, "results", made_up)
    result = command()
    assert result["rows"] == [] and result["machine"]["torch"] and "triton" in result["machine"]
    proved = {("fused", "crashed"), ("tiled", "ok"), ("tiled-small", "ok")}
    assert {(r["path"], r["status"]) for r in result["proofs"]} == proved
    states = {(r["compiled"], r["kind"]): r["status"] for r in result["timings"]}
    assert len(states) == 2 * len(plans.KINDS)
    for compiled in (False, True):
        assert (
            states[compiled, "plain"] == states[compiled, "chosen"] == "ok"
            and states[compiled, "tiled"] == "out of memory"
        )
        assert states[compiled, "fused"] == states[compiled, "fused everywhere"] == "not tried"
        assert states[compiled, "reference"] == "no time"
    shown = capsys.readouterr().out
    assert "timings: tiny 2D, eager, plain, 200 ms (2.00)" in shown and "80 GiB" in shown and "it fell" in shown
    table = (tmp_path / "results" / "reads-made-up.md").read_text()
    assert table in shown and "| tiny 2D | compiled | tiled | out of memory |" in table

    asked.clear()
    again = command()  # goes on with what had no time, and with nothing else
    assert {item["kind"] for item in asked} == {"reference"} and len(again["timings"]) == len(result["timings"])
    asked.clear()
    here = gpu.describe_machine
    monkeypatch.setattr(gpu, "describe_machine", lambda *arguments: here(*arguments) | {"commit": "later"})
    command()  # the results themselves are committed: that is no reason to begin anew
    assert {item["kind"] for item in asked if "kind" in item} == {"reference"}
    asked.clear()
    monkeypatch.setattr(gpu, "code", lambda: "changed")
    command()
    assert {item["kind"] for item in asked if "kind" in item} > {"reference", "plain"}
    (kept,) = (tmp_path / "results").glob("reads-made-up-earlier-1.json")
    assert json.loads(kept.read_text())["timings"] == again["timings"] and kept.name in capsys.readouterr().out
    asked.clear()
    command("--again", "--only", "compiled")
    assert {item["compiled"] for item in asked if "kind" in item} == {True}


def test_what_is_not_chosen_in_time_is_not_timed_as_chosen(command, monkeypatch):
    """It would be timed as tiles; a training has more time to choose. Once it is chosen it is timed."""
    chosen = []

    def choose(shapes, device, log, budget):
        chosen.append(budget)
        return choose_nothing(shapes, device, log, len(chosen) > 1)

    def made_up(function, items, arguments, *, limit, deadline, environment):
        yield from ({"status": "ok"} if function == gpu.PROVE else WELL for _ in items)

    monkeypatch.setattr(gpu, "choose_paths", choose)
    monkeypatch.setattr(gpu, "results", made_up)
    for status in ("no time", "ok"):
        timings = command()["timings"]
        assert {row["status"] for row in timings if row["kind"] == "chosen"} == {status}
        assert {row["status"] for row in timings if row["kind"] == "plain"} == {"ok"}
    command()
    assert len(chosen) == 2, "nothing is left to be timed"


def test_what_was_timed_by_another_choice_counts_no_more(command, monkeypatch):
    """A machine that was lent anew has the file, and not the choices in its cache; made again they may be others."""
    path = "tiled"

    def choose(shapes, device, log, budget):
        return [Found(shape, Choice(path, path), {path: {"status": "ok"}}, "tried") for shape in shapes]

    def made_up(function, items, arguments, *, limit, deadline, environment):
        yield from ({"status": "ok"} if function == gpu.PROVE else states.get(item["kind"], WELL) for item in items)

    monkeypatch.setattr(gpu, "choose_paths", choose)
    monkeypatch.setattr(gpu, "results", made_up)
    states = {"chosen": {"status": "no time"}}
    command("--only", "eager")
    states = {}
    first = command("--only", "eager")
    assert {(row["kind"], row["status"]) for row in first["timings"]} >= {("chosen", "ok"), ("plain", "ok")}
    path = "tiled-small"  # the compiled networks are still to be timed
    second = command("--only", "compiled")
    assert {row["forward"] for row in second["choices"]} == {"tiled-small"}
    assert {row["compiled"] for row in second["timings"] if row["kind"] == "chosen"} == {True}


def test_a_path_is_not_timed_after_a_crash_in_the_dtype_of_the_timings(tmp_path):
    def record_of(**proof):
        proof = {"path": "fused", "dtype": "float16", "channels": 32, "size": [4, 8], **proof}
        return gpu.Record(tmp_path / "a.json", {"proofs": [proof], "timings": []})

    assert gpu.crashed(record_of(status="crashed"), "fused", "cuda")
    assert not gpu.crashed(record_of(status="crashed", dtype="bfloat16"), "fused", "cuda")
    assert not gpu.crashed(record_of(status="crashed", path="tiled"), "fused", "cuda")
    assert not gpu.crashed(record_of(status="wrong"), "fused", "cuda")


@pytest.mark.parametrize(
    ("status", "again"), [("too slow", True), ("no time", True), ("crashed", False), ("ok", False)]
)
def test_what_had_not_enough_time_is_tried_again(tmp_path, status, again):
    item = {"path": "fused", "dtype": "float16", "channels": 32, "size": [4, 8]}
    record = gpu.Record(tmp_path / "a.json", {"proofs": [{**item, "status": status}], "timings": []})
    assert record.missing("proofs", [item]) == [item] * again


def test_no_time_is_no_result_but_a_whole_file(command, tmp_path):
    result = command("--minutes", "0")
    rows = result["proofs"] + result["timings"]
    assert result["choices"] and {row["status"] for row in result["choices"]} == {"no time"}
    assert len(rows) == 3 + 2 * len(plans.KINDS) and {row["status"] for row in rows} == {"no time"}
    assert "Proofs: 0 of 0 ok, 3 not tried" in (tmp_path / "results" / "reads-made-up.md").read_text()


def test_a_run_that_is_ended_leaves_its_lines(tmp_path):
    """As by ``timeout``: a whole file, and no process."""
    out = tmp_path / "reads.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 1
        process.stdout.read()  # it ends only when no process of it is left
    assert "proofs: " in first and json.loads(out.read_text())["proofs"][0]["status"] in ("ok", "failed")


def test_all_of_it_on_the_cpu(command, monkeypatch, tmp_path):
    """Real processes and networks; eager, for compiling takes long."""
    pytest.importorskip("triton")
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(gpu, "choose_paths", choose_paths)
    monkeypatch.setattr(plans, "KINDS", ("plain", "chosen", "fused", "tiled", "reference"))
    monkeypatch.setattr(gpu, "LIMITS", dict.fromkeys(gpu.LIMITS, 600.0))  # Triton's interpreter on a busy machine
    result = command("--only", "eager", "--minutes", "20")
    chosen.forget()  # in this process
    assert [r["status"] for r in result["proofs"]] == ["ok"] * 3
    for row in result["choices"]:
        assert row["status"] == "ok" and row["source"] == "tried" and row["forward"].startswith("tiled")
        assert row["results"]["fused"]["status"] == "failed"  # not by the interpreter
        assert all(row["results"]["tiled"][phase] > 0 for phase in ("forward", "backward"))
    assert {r["kind"]: (r["status"], r.get("why")) for r in result["timings"]} == dict.fromkeys(
        plans.KINDS, ("ok", None)
    )
    for row in result["timings"]:
        for phase in timings.PHASES:
            assert row[phase]["seconds"] > 0 and row[phase]["ratio"] > 0 and len(row[phase]["all"][0]) == 2
    assert {r["kind"]: r["proved"] for r in result["timings"]} == {
        **{
            "plain": None,
            "chosen": None,
            "reference": None,
        },  # in float32 the reference is what the others are compared with
        **{"fused": True, "tiled": True},
    }


def test_a_wrong_path_is_written_as_wrong(monkeypatch):
    item = {"path": "tiled", "dtype": "float16", "channels": 4, "size": [3, 4]}
    (well,) = proofs.prove([item], device="cpu")
    assert well["status"] == "ok" and well["worst_error"] <= well["tolerance"]
    read = proofs.history_read

    def half_a_gradient(*args, **options):
        out = read(*args, **options)
        return out.lerp(out.detach(), 0.5)

    monkeypatch.setattr(proofs, "history_read", half_a_gradient)
    (wrong,) = proofs.prove([item], device="cpu")
    assert wrong["status"] == "wrong" and wrong["worst"] != "out" and wrong["worst_error"] > 0.1
    monkeypatch.setattr(proofs, "history_read", lambda *args, **options: read(*args, **options) * float("nan"))
    (wrong,) = proofs.prove([item], device="cpu")
    assert wrong["status"] == "wrong" and wrong["worst_error"] == float("inf")


@pytest.mark.parametrize("backend", [None, "eager"])
def test_without_a_plain_network_the_others_are_timed(backend, monkeypatch):
    build = timings.build

    def broken(configuration, kind):
        if kind == "plain":
            raise torch.cuda.OutOfMemoryError("of the plain one")
        return build(configuration, kind)

    monkeypatch.setattr(timings, "build", broken)
    items = [{"kind": "plain"}, {"kind": "tiled"}]
    options = {"backend": backend, "device": "cpu", "pairs": 1, "seconds": 0.0}
    plain, tiled = timings.time_kinds(items, configuration=plans.TINY[0], **options)
    assert plain["status"] == "out of memory"
    assert tiled["training"]["seconds"] > 0 and tiled["training"]["ratio"] is None
    torch.compiler.reset()


def test_fused_means_the_kernels_where_they_are_made_for(monkeypatch):
    monkeypatch.setattr(plans, "FUSED_CHANNELS", 2)
    paths = {kind: {r.path for r in plans.build(plans.TINY[0], kind).reads.values()} for kind in plans.KINDS[1:]}
    assert paths == {
        "chosen": {None},
        **{"fused": {"fused", "tiled"}, "fused everywhere": {"fused"}},
        **{"tiled": {"tiled"}, "reference": {"reference"}},
    }


@pytest.mark.parametrize("configuration", plans.CONFIGURATIONS, ids=lambda c: c.name)
def test_configurations_build(configuration):
    with torch.device("meta"):
        network = configuration.build("add")
    assert all(n % d == 0 for n, d in zip(configuration.patch, network.encoder_stages[-1].strides, strict=True))


def test_the_proofs_have_groups_of_several_rows():
    """As the kernels have in real reads: ``proofs`` reads sources of the size, of its half and of its quarter."""
    groups = {group_rows(-(-size[-2] // factor), size[-2]) for _, size in plans.PROVED for factor in (1, 2, 4)}
    assert groups >= {1, 2, 4}


def test_it_needs_neither_nnunet_nor_the_libraries_of_commands():
    script = """
import sys
for name in ("nnunetv2", "typer", "rich", "timm", "acvl_utils", "scipy", "matplotlib"):
    sys.modules[name] = None
import benchmarks.gpu.__main__, benchmarks.gpu.proofs, benchmarks.gpu.timings
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=environment)


def test_without_cuda_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"no CUDA device.*--device cpu --tiny"):
        gpu.main([])


def test_the_script_takes_a_wheel(tmp_path):
    """The library comes from the wheel alone."""
    import zipfile

    wheel = tmp_path / "dynamic_network_architectures-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("dynamic_network_architectures/__init__.py", "raise SystemExit('from the wheel')")
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "benchmarks/gpu.sh"), "--wheel"]
    found = subprocess.run([*command, str(wheel)], env=environment, capture_output=True, text=True)
    assert found.returncode and "from the wheel" in found.stderr
    missing = subprocess.run([*command, "none.whl"], env=environment, capture_output=True, text=True)
    assert missing.returncode == 1 and "there is no wheel none.whl" in missing.stderr


def test_the_two_benchmarks_do_not_write_over_each_other(tmp_path, monkeypatch):
    path = tmp_path / "results" / "reads-made-up.json"
    path.parent.mkdir()
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    machine, options = {"gpu": "Made Up"}, Namespace(device="cuda", tiny=False)
    assert gpu.default_path(machine, options) == path
    path.write_text('{"rows": [{}]}')
    assert gpu.default_path(machine, options).name == "reads-made-up-paths.json"
    path.write_text('{"rows": [], "timings": []}')
    with pytest.raises(cost.typer.BadParameter, match=r"is of benchmarks/gpu\.sh"):
        cost.start_result(path, {}, {}, keep=False)


def test_the_table_tells_what_was_not_proved():
    machine = {"gpu": "Made Up", "cpu": "", "torch": "2", "triton": "3", "commit": "abc", "ops": "12ab"}
    bad = {"path": "fused", "dtype": "float16", "channels": 32, "size": [4, 8], "status": "wrong"}
    bad |= {"worst": "out", "worst_error": 0.5}
    timing = {"configuration": "a", "compiled": True, "kind": "fused", "proved": False, **WELL}
    choice = {"configuration": "a", "read": "32 channels", "forward": "fused", "backward": "tiled"}
    choice["results"] = {
        "fused": {"status": "ok", "forward": 0.001, "backward": 0.004},
        "tiled": {"status": "ok", "forward": 0.002, "backward": 0.003},
        "tiled-small": {"status": "crashed", "why": "it fell"},
    }
    tried = [bad, {**bad, "status": "no time"}]
    text = tables({"machine": machine, "proofs": tried, "choices": [choice], "timings": [timing]})
    each = "fused 1, tiled 2 | fused 4, tiled 3 | tiled-small crashed: it fell"
    assert f"| a | 32 channels | fused | tiled | {each} |" in text
    assert (
        "0 of 1 ok, 1 not tried" in text and "| fused | float16 | 32 channels | 4x8 | wrong | 5.0e-01 (out) |" in text
    )
    assert "| a | compiled | fused | 200 ms (2.00) | 200 ms (2.00) |  |  | not proved |" in text
