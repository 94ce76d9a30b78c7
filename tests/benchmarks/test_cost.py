"""The benchmark of the reads, on a network that is too small to tell anything."""

import json

import pytest
import torch
from helpers.reads import needs_operators
from typer.testing import CliRunner

from benchmarks.cost import __main__ as cost
from benchmarks.cost import contestants, memory, profiling, report, scaling
from benchmarks.cost.configurations import CONFIGURATIONS, MODES, Configuration
from nnunet_xattnres import ops
from nnunet_xattnres.reads.shapes import read_shapes

TINY = Configuration("tiny", 1, (16, 16), (2, 4, 4), ((2, 2), (2, 2)), quick=True)
SMALL = Configuration("small", 1, (256, 256), (8, 8, 8), ((2, 2), (2, 2)))
MEMORY = {"plain": 1100, "reference": 1300, "fast": 1150}  # made up: bytes above a baseline of 1000: 100, 300, 150


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for one another take longer than these networks."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command on the tiny configuration, without the processes that measure memory."""

    def fake(configuration, mode, kind):
        return {phase: {"peak": MEMORY[kind], "baseline": 1000} for phase in contestants.PHASES}

    monkeypatch.setattr(cost, "CONFIGURATIONS", [TINY])
    monkeypatch.setattr(cost, "resident_memory", fake)

    def command(*options, parity: bool | None = None):
        if parity is None:
            monkeypatch.setattr(cost, "check_parity", lambda device: None)
        test = tmp_path / "test_parity.py"
        test.write_text(f"def test():\n    assert {parity}\n")
        monkeypatch.setattr(cost, "PARITY_TESTS", [str(test)])
        out = tmp_path / "results" / "reads-made-up.json"
        return CliRunner().invoke(cost.app, ["--out", str(out), *options]), out

    return command


@needs_operators
def test_on_a_gpu_the_paths_of_the_reads_are_chosen_as_in_a_training(monkeypatch):
    """One that need not be here."""
    chosen = []
    monkeypatch.setattr("nnunet_xattnres.ops.tuning.choose_paths", lambda shapes, device, log: chosen.append(shapes))
    network, device = TINY.build("add"), torch.device("cuda")
    contestants.choose(lambda: read_shapes(network, (2, 1, 16, 16), device), device)
    ((*shapes,),) = chosen
    assert [len(shape.sources) for shape in shapes] == [2, 3, 4] and {shape.batch for shape in shapes} == {2}
    contestants.choose(lambda: pytest.fail("nothing is chosen on a CPU"), torch.device("cpu"))
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", "reference")
    contestants.choose(lambda: pytest.fail("it is forced"), device)


def test_quick_writes_every_field(run):
    outcome, out = run("--quick", parity=True)
    assert outcome.exit_code == 0, outcome.output
    result = json.loads(out.read_text())
    assert {"cpu", "gpu", "threads", "python", "torch", "dynamic-network-architectures", "commit"} <= set(
        result["machine"]
    )
    assert result["settings"] == {"pairs": 5, "reference_pairs": 1, "compiled": False, "quick": True}
    (row,) = result["rows"]
    assert (row["configuration"], row["mode"]) == ("tiny", "add")
    for phase in ("training", "inference"):
        measured = row[phase]
        assert {kind: len(s) for kind, s in measured["seconds"].items()} == {"plain": 5, "reference": 1, "fast": 5}
        assert measured["time"]["fast"]["min"] <= measured["time"]["fast"]["median"] <= measured["time"]["fast"]["max"]
        assert measured["memory"]["plain"] == {"peak": 1100, "baseline": 1000}
        assert measured["memory_ratio"] == {"reference": 3.0, "fast": 1.5}


def test_only_adds_to_the_file(run):
    for mode in ("replace", "add", "replace"):
        outcome, out = run("--only", mode)
        assert outcome.exit_code == 0, outcome.output
    assert [row["mode"] for row in json.loads(out.read_text())["rows"]] == ["add", "replace"]
    outcome, _ = run("--only", "add", "--pairs", "6")
    assert outcome.exit_code == 2 and "another machine" in outcome.output


def test_no_parity_no_result(run):
    outcome, out = run("--quick", parity=False)
    assert outcome.exit_code == 1 and "parity tests failed" in outcome.output
    assert not out.parent.exists()


def test_resident_memory_is_of_one_network():
    held = bytearray(2**30)  # what this process holds is none of the other's
    measured = memory.resident_memory(SMALL, "add", "reference")
    del held
    if None in measured.values():
        pytest.skip("this system does not tell")
    assert all(0 < m["baseline"] < m["peak"] < 2**30 for m in measured.values())
    above = {phase: m["peak"] - m["baseline"] for phase, m in measured.items()}
    assert above["training"] > above["inference"] > 4 * 8 * 256**2  # bytes of one map


@needs_operators
@pytest.mark.parametrize("kind", contestants.KINDS)
def test_each_kind_runs_its_own_read(kind, monkeypatch):
    called = []

    def record(path, module):
        original = module.history_read

        def read(pool, *args, **kwargs):
            called.append((path, len({tuple(h.shape[2:]) for h in pool})))
            return original(pool, *args, **kwargs)

        monkeypatch.setattr(module, "history_read", read)

    record("reference", ops.reference)
    record("tiled", ops.operator)
    contestant = contestants.Contestant(TINY, "add", kind, contestants.make_input(TINY, "cpu"), compiled=False)
    contestant.run("training")
    expected = {"plain": set(), "reference": {"reference"}, "fast": {"tiled"}}
    assert {path for path, _ in called} == expected[kind]
    if kind == "reference":
        assert called[0][1] == 2  # e3 reads e1 and e2: nobody resized e1 for the reference


@pytest.mark.parametrize("mode", MODES)
def test_reference_and_fast_are_one_network(mode):
    x = contestants.make_input(TINY, "cpu")
    ours = {kind: contestants.Contestant(TINY, mode, kind, x, compiled=False) for kind in ("reference", "fast")}
    for contestant in ours.values():
        for _ in range(2):
            contestant.run("training")
    for a, b in zip(*(c.measured.network.parameters() for c in ours.values()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: c.name)
def test_configurations_build(configuration):
    with torch.device("meta"):
        network = configuration.build("add")
    assert all(n % d == 0 for n, d in zip(configuration.patch, network.encoder_stages[-1].strides, strict=True))


def test_scaling_measures_reads():
    assert scaling._read_seconds(3, (8, 8, 8), "cpu") > 0
    assert isinstance(scaling._extra_seconds(3, (16, 16, 16), "cpu"), float)
    assert scaling.growth("voxels", [1, 2, 4], [1, 4, 16])["doubling"] == pytest.approx(4)


@pytest.mark.parametrize(
    "milliseconds",
    [(71, 189, 150, 63), (60, 189, 50, 80), (5, 5, 5, 5), (0, 71, 80, 90)],
    ids=["falls", "scatters more than it grows", "constant", "nothing"],
)
def test_noise_is_no_law_of_growth(milliseconds):
    found = scaling.growth("stages", (3, 4, 5, 6), milliseconds)
    assert found["doubling"] is None
    assert "stages: not determined" in report.scaling_line({**found, "doubling": 0.95})  # as older files have it


@needs_operators
def test_profile_counts_what_happens_inside_the_reads_and_nothing_else(monkeypatch):
    monkeypatch.setattr(profiling, "CONFIGURATIONS", [TINY])
    monkeypatch.setattr(profiling, "PROFILED", ("tiny",))
    monkeypatch.setattr(profiling, "SHOWN", 1000)  # all: which are the slowest depends on what else runs
    (found,) = profiling.profile_reads()
    assert found["configuration"] == "tiny" and 0 < found["reads"] < found["step"]
    assert sum(found["operators"].values()) == pytest.approx(found["reads"], rel=1e-6)
    assert {"aten::mm", profiling.CALLS} <= set(found["operators"])
    assert not any("convolution" in name for name in found["operators"])
    assert report.profile_line(found).startswith("tiny: ")


def test_report_leaves_out_what_was_not_measured(run, tmp_path):
    _, out = run("--only", "add")
    result = json.loads(out.read_text())
    (row,) = result["rows"]
    row["out_of_memory"] = ["reference"]
    for phase in contestants.PHASES:
        del row[phase]["time"]["reference"], row[phase]["memory_ratio"]["reference"]
        row[phase]["memory"]["plain"] = row[phase]["memory_ratio"]["fast"] = None
    out.write_text(json.dumps(result))
    report.write_report(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| tiny | add | reference | out of memory |" in page and "| not measured | not measured |" in page


def test_report_has_the_numbers_of_the_json(run, tmp_path):
    _, out = run("--only", "tiny")
    result = json.loads(out.read_text())
    result["scaling"] = [scaling.growth("voxels", [1, 2, 4], [0.1, 0.2, 0.4]), scaling.growth("stages", [3, 4], [0, 1])]
    out.write_text(json.dumps(result))
    quick = {**result, "settings": {**result["settings"], "quick": True}, "machine": {"gpu": "not in the report"}}
    out.with_name("reads-a-quick.json").write_text(json.dumps(quick))
    report.write_report(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.count("| tiny | replace | fast |") == 1
    for row in result["rows"]:
        time = row["training"]["time"]["fast"]
        assert f"{time['median']:.2f} [{time['min']:.2f}, {time['max']:.2f}]" in page
    assert "| 3.00 | 3.00 |" in page and "| 1.50 | 1.50 |" in page
    assert "x2 voxels -> x2.00 time of the reads" in page and "stages: not determined, the noise" in page
    assert result["machine"]["torch"] in page and "not in the report" not in page
    assert (tmp_path / "reads.png").stat().st_size > 1000


def test_a_full_disk_leaves_the_measurements_and_the_report(run, tmp_path, disk_full_at):
    _, out = run("--only", "add")
    report.write_report(tmp_path)
    result, before = json.loads(out.read_text()), {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with disk_full_at(500):
        with pytest.raises(OSError, match="File too large"):
            cost.save(result, out)
        with pytest.raises(OSError, match="File too large"):
            report.write_report(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
