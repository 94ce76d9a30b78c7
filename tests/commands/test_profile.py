"""What is counted is counted here in another way; what is measured is there, of the right kind, and in the table."""

import gc
import json
import os
import signal
import sys
import weakref

import pytest
import torch
from helpers.plans import make_plans
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands import profile as command
from nnunet_xattnres.commands.plan import write_plans_with_network
from nnunet_xattnres.commands.profile import CONTENDERS, PLAIN, Setting, count
from nnunet_xattnres.common.measure import resident_memory
from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.networks.uctransnet import HEADS, ChannelAttention
from nnunet_xattnres.reads.history_read import HistoryRead
from nnunet_xattnres.training.emcad_loss import EMCADLoss
from nnunet_xattnres.training.epochs import TRAINERS
from nnunet_xattnres.training.step import is_compiled

DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


def multiply_adds_by_hand(network, x):
    """Of a 2D network, from the shapes that hooks see."""
    total = []

    def of_convolution(module, args, out):
        transposed = isinstance(module, torch.nn.ConvTranspose2d)
        kernel = module.kernel_size[0] * module.kernel_size[1]
        positions = (args[0] if transposed else out).shape[2:].numel()
        total.append(positions * kernel * module.in_channels // module.groups * module.out_channels)

    def of_linear(module, args, out):
        total.append(out.numel() * module.in_features)

    def of_attention(module, args, out):
        """PVTv2's queries with keys, and weights with values."""
        (x, size), reduced = args, 1 if module.sr is None else module.sr.stride[0]
        total.append(2 * x.shape[1] * (size[0] // reduced) * (size[1] // reduced) * module.dim)

    def of_read(module, args, out):
        pool, size = args
        for k, h in enumerate(pool):
            if k not in module.direct:
                # C + 1 rows: the last one is the query, taken through the projection before
                total.append(h.shape[1] * h.shape[2] * h.shape[3] * (module.target_channels + 1))
                total.append(h.shape[1] * module.target_channels)
            total.append(2 * module.target_channels * size[0] * size[1])

    def of_cross_attention(module, args, out):
        """UCTransNet's scores, and what they weigh."""
        sets, everything = args
        total.extend(2 * HEADS * x.shape[1] * x.shape[2] * everything.shape[2] for x in sets)

    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) and "projections" not in name:
            module.register_forward_hook(of_convolution)
        elif isinstance(module, torch.nn.Linear):
            module.register_forward_hook(of_linear)
        elif isinstance(module, ChannelAttention):
            module.register_forward_hook(of_cross_attention)
        elif type(module).__name__ == "Attention":
            module.register_forward_hook(of_attention)
    for read in getattr(network, "reads", {}).values():
        if isinstance(read, HistoryRead):  # those of the block-level network are convolutions here
            read.register_forward_hook(of_read)
    with torch.no_grad():
        network.eval()(x)
    return sum(total)


@pytest.mark.parametrize("trainer", CONTENDERS)
def test_counts(trainer):
    setting = Setting.of(make_plans(), DATASET, "2d", None)
    network = setting.build(trainer, deep_supervision=False)
    parameters, multiply_adds = count(setting, trainer)
    assert parameters == sum(p.numel() for p in network.parameters())
    assert multiply_adds == multiply_adds_by_hand(network, torch.zeros(1, 1, 16, 16))


def test_counts_of_the_block_level_network():
    """Beyond the plain one's: the skip half that the decoder lacks, and by hand what the reads have."""
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] |= {
        "n_conv_per_stage": 2,
        "n_conv_per_stage_decoder": 2,
    }
    setting = Setting.of(plans, DATASET, "2d", None)
    expected = multiply_adds_by_hand(setting.build(PLAIN, deep_supervision=False), torch.zeros(1, 1, 16, 16))
    for width, positions in ((4, 16**2), (8, 8**2)):
        d = 8  # max(8, width / 2)
        of_dkvmr = 2 * width * (d + width) + width * d + 2 * width * width
        expected += positions * (of_dkvmr + width * width - 9 * width * width)
    assert count(setting, "nnUNetTrainerXAttnResBlock")[1] == expected


REGIONS = {"background": 0, "ab": [1, 2], "b": 2}
LABELS = {
    "labels": {"labels": {"background": 0, "a": 1, "b": 2}},
    "labels and ignore": {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}},
    "regions": {"labels": REGIONS, "regions_class_order": [1, 2]},
    "regions and ignore": {"labels": {**REGIONS, "ignore": 3}, "regions_class_order": [1, 2]},
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(
    ("trainer", "loss", "optimizer"),
    [
        (PLAIN, DeepSupervisionWrapper, torch.optim.SGD),
        ("nnUNetTrainerXAttnRes", DeepSupervisionWrapper, torch.optim.SGD),
        ("nnUNetTrainerEMCADB0", EMCADLoss, torch.optim.AdamW),
    ],
)
def test_a_step_has_the_loss_and_the_optimizer_of_its_trainer(monkeypatch, trainer, loss, optimizer, labels):
    setting, losses, original = Setting.of(make_plans(), DATASET | LABELS[labels], "2d", 2), [], loss.forward

    def forward(self, outputs, targets):
        losses.append(original(self, outputs, targets))
        assert [t.shape[2:] for t in targets] == [o.shape[2:] for o in outputs] and {len(t) for t in targets} == {2}
        return losses[-1]

    monkeypatch.setattr(loss, "forward", forward)
    contestant = command._contestant(setting, trainer, torch.device("cpu"))
    before = [p.detach().clone() for p in contestant.network.parameters()]
    for _ in range(2):
        contestant.train()
    assert len(losses) == 2 and all(value.isfinite() for value in losses) and losses[0] != losses[1]
    assert type(contestant.optimizer) is optimizer and contestant.optimizer.state
    assert any((a != b).any() for a, b in zip(before, contestant.network.parameters(), strict=True))


@pytest.mark.skipif(os.name == "nt", reason="nnU-Net does not compile there")
@pytest.mark.parametrize(
    ("device", "variable", "operators", "plain", "ours"),
    [
        ("cuda:0", None, True, True, True),
        ("cuda:0", "f", True, False, False),
        ("cuda:0", None, False, True, False),
        ("cpu", None, True, False, False),
        ("mps:0", None, True, False, False),
    ],
)
def test_a_network_is_compiled_where_its_trainer_compiles_it(monkeypatch, device, variable, operators, plain, ours):
    monkeypatch.delenv("nnUNet_compile", raising=False)
    if variable is not None:
        monkeypatch.setenv("nnUNet_compile", variable)
    monkeypatch.setattr("nnunet_xattnres.training.routing_log.CUSTOM_OPS", operators)
    found = [
        is_compiled(trainer, torch.device(device)) for trainer in (nnUNetTrainer, TRAINERS["nnUNetTrainerXAttnRes"])
    ]
    assert found == [plain, ours]


@pytest.mark.parametrize("forced", [None, "reference", "tiled"])
def test_what_is_counted_is_the_same_by_every_path(monkeypatch, forced):
    if forced == "tiled" and not command.CUSTOM_OPS:
        pytest.skip("the reference is the only path")
    setting = Setting.of(make_plans(), DATASET, "2d", None)
    expected = count(setting, "nnUNetTrainerXAttnRes")
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", forced)
    assert count(setting, "nnUNetTrainerXAttnRes") == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured in a process of its own on Linux")
def test_where_the_system_tells_no_peak_there_is_no_memory(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text("VmSize:\t1 kB\nVmRSS:\t1 kB\n")
    monkeypatch.setattr("nnunet_xattnres.common.measure._STATUS", status)
    assert resident_memory(kill_me, warm_up=nothing) is None


def test_without_rounds_there_is_no_time(folder, tmp_path):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    out = tmp_path / "profile.json"
    arguments = ["-d", "1", "-c", "2d", "--device", "cpu", "--rounds", "0", "-tr", "nnUNetTrainerUCTransNet"]
    done = CliRunner().invoke(app, ["profile", *arguments, "-o", str(out)])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["seconds"] for row in rows] == [None, None] and all(row["multiply_adds"] for row in rows)
    assert rows[1]["seconds_ratio"] is None and rows[1]["parameters_ratio"] > 1


def test_the_command(folder, tmp_path, monkeypatch):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    out = tmp_path / "profile.json"
    arguments = ["profile", "-d", "1", "-c", "2d", "--device", "cpu", "--rounds", "1", "--batch", "3", "-o", str(out)]
    monkeypatch.setattr(command, "CONTENDERS", CONTENDERS[:4])  # which networks there are: test_counts
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["batch"] == 3 and [row["trainer"] for row in result["rows"]] == list(CONTENDERS[:4])
    plain, ours, *_ = result["rows"]
    assert plain["trainer"] == PLAIN and all(
        plain[f"{n}_ratio"] == 1 for n in ("parameters", "multiply_adds", "seconds")
    )
    for row in result["rows"]:
        assert row["seconds"] > 0 and (row["memory"] is None or row["memory"] > 0)
        assert row["seconds_ratio"] == pytest.approx(row["seconds"] / plain["seconds"])
    assert ours["parameters"] > plain["parameters"] and ours["multiply_adds"] > plain["multiply_adds"]
    assert "x1.00" in done.output and f"x{ours['parameters_ratio']:.2f}" in done.output


def test_where_the_file_cannot_be_written_nothing_is_measured(folder, tmp_path, monkeypatch):
    def measure(*_):
        raise AssertionError("measured in vain")

    monkeypatch.setattr(command, "profile", measure)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (tmp_path / "file").write_text("")
    for out, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "a.json", "file")):
        arguments = ["profile", "-d", "1", "-c", "2d", "--device", "cpu", "--force", "-o", str(out)]
        done = CliRunner().invoke(app, arguments)
        said = " ".join(done.output.split())
        assert done.exit_code == 1 and message in said and "measured" not in said and "Traceback" not in said, said


def test_the_folder_of_the_file_need_not_be_there(folder, tmp_path):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    out = tmp_path / "new" / "profile.json"
    arguments = ["-d", "1", "-c", "2d", "--device", "cpu", "--rounds", "0", "-tr", "nnUNetTrainerNoSkip"]
    done = CliRunner().invoke(app, ["profile", *arguments, "-o", str(out)])
    assert done.exit_code == 0 and json.loads(out.read_text())["rows"], done.output


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured in a process of its own on Linux")
def test_a_measuring_process_that_is_killed_is_named_and_the_others_go_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "resident_memory", killed_second)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    out = tmp_path / "a.json"
    arguments = ["profile", "-d", "1", "-c", "2d", "-tr", *CONTENDERS[1:3], "--device", "cpu", "-o", str(out)]
    done = CliRunner().invoke(app, arguments)
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and f"{CONTENDERS[1]}: its measuring process was killed: most likely the main" in said
    rows = json.loads(out.read_text())["rows"]
    assert [row["memory"] is None for row in rows] == [row["seconds"] is None for row in rows] == [False, True, False]


def killed_second(make, setting, trainer, *, warm_up):
    if trainer == CONTENDERS[1]:
        return resident_memory(kill_me, warm_up=nothing)
    return {"peak": 2**20, "baseline": 0}


def kill_me():
    """What the system does with a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def nothing():
    pass


def test_the_paths_of_the_reads_are_those_that_a_training_chooses(monkeypatch):
    """Of a GPU that need not be here: on a fresh one plain torch would have been measured."""
    asked, said = [], []
    monkeypatch.setattr(command, "choose_paths", lambda shapes, device, log: asked.extend(shapes))
    setting, gpu = Setting.of(make_plans(), DATASET, "2d", 3), torch.device("cuda")
    for trainer in (PLAIN, "nnUNetTrainerXAttnRes"):
        command._choose_paths(setting, trainer, gpu, said.append)
    assert asked and {shape.batch for shape in asked} == {3}
    assert said == ["nnUNetTrainerXAttnRes: choosing the paths of its reads"]
    asked.clear()
    monkeypatch.setattr("nnunet_xattnres.ops.choice._FROM_ENVIRONMENT", "reference")
    command._choose_paths(setting, "nnUNetTrainerXAttnRes", gpu, said.append)
    assert asked == []


def on_a_gpu(monkeypatch, memory, trainers, rounds=0):
    """The rows of a GPU that need not be here, and what was done there in which order."""
    done = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def measure(setting, trainer, device):
        done.append(("memory", trainer))
        return memory(trainer)

    monkeypatch.setattr(command, "_choose_paths", lambda setting, trainer, *_: done.append(("paths", trainer)))
    monkeypatch.setattr(command, "_memory", measure)
    monkeypatch.setattr(command, "_seconds", lambda setting, trainer, device, steps: [1.0] * steps)
    setting = Setting.of(make_plans(), DATASET, "2d", 2)
    return command.profile(setting, torch.device("cuda"), rounds, lambda _: None, trainers), done


@pytest.mark.skipif(not command.CUSTOM_OPS, reason="there is one path only")
def test_on_a_gpu_the_paths_are_chosen_for_each_network_before_it_is_measured(monkeypatch):
    rows, done = on_a_gpu(monkeypatch, lambda _trainer: 2**20, CONTENDERS[1:3])
    assert torch.backends.cudnn.benchmark, "nnUNetv2_train sets it"
    assert done == [(what, trainer) for trainer in CONTENDERS[:3] for what in ("paths", "memory")]
    assert all(row["memory"] == 2**20 and not row["why"] for row in rows)


FAILURES = {
    "AssertionError: ptxas fatal: no such GPU": AssertionError("ptxas fatal: no such GPU\nwith this kernel: ..."),
    "RuntimeError: unable to find an engine to execute this computation": RuntimeError(
        "unable to find an engine to execute this computation"
    ),
    "the GPU's memory does not suffice": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."),
}


@pytest.mark.parametrize("why", FAILURES)
@pytest.mark.parametrize("stage", ["_memory", "_seconds"])
def test_what_fails_for_a_network_is_named_and_the_others_go_on(folder, tmp_path, monkeypatch, stage, why):
    found = {"_memory": 2**20, "_seconds": [1.0]}

    def measured(name):
        def measure(setting, trainer, *_):
            if name == stage and trainer == CONTENDERS[1]:
                raise FAILURES[why]
            return found[name]

        return measure

    for name in found:
        monkeypatch.setattr(command, name, measured(name))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    out = tmp_path / "a.json"
    arguments = ["profile", "-d", "1", "-c", "2d", "-tr", *CONTENDERS[1:3], "--device", "cpu", "-o", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and f"{CONTENDERS[1]}: {why}\n" in done.output, done.output
    rows = json.loads(out.read_text())["rows"]
    assert [row["why"] for row in rows] == ["", why, ""]
    assert [row["seconds"] for row in rows] == [1.0, None, 1.0] and all(row["parameters"] for row in rows)
    assert [row["memory"] is None for row in rows] == [False, stage == "_memory", False]


def test_what_spoils_cuda_ends_the_measuring_and_keeps_what_was_found(monkeypatch):
    def memory(trainer):
        if trainer == CONTENDERS[1]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")
        return 2**20

    rows, done = on_a_gpu(monkeypatch, memory, CONTENDERS[1:3], rounds=2)
    assert [trainer for what, trainer in done if what == "memory"] == list(CONTENDERS[:2])
    assert [row["memory"] for row in rows] == [2**20, None, None] and all(row["parameters"] for row in rows)
    spoilt = f"not measured any more: {CONTENDERS[1]} has spoilt CUDA for this process; name the others with -tr"
    assert rows[1]["why"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert [rows[0]["why"], rows[2]["why"]] == [spoilt, spoilt] and all(row["seconds"] is None for row in rows)


def test_one_network_at_a_time_and_dynamo_forgets_between_them(monkeypatch):
    """Networks share their forward: dynamo would leave the ninth of them uncompiled, and small GPUs have no room."""
    alive, resets, most = weakref.WeakSet(), [], []
    original = command.Contestant.__init__

    def init(self, *args, **options):
        original(self, *args, **options)
        alive.add(self)

    def reset():
        gc.collect()
        most.append(len(alive))
        resets.append(1)

    monkeypatch.setattr(command.Contestant, "__init__", init)
    monkeypatch.setattr(torch.compiler, "reset", reset)
    monkeypatch.setattr(command, "resident_memory", lambda *_, **__: None)
    setting, trainers = Setting.of(make_plans(), DATASET, "2d", None), CONTENDERS[1:4]
    rows = command.profile(setting, torch.device("cpu"), 2, lambda _: None, trainers)
    assert len(resets) == 2 * (1 + len(trainers)) and max(most) == 0
    assert all(row["seconds"] > 0 and row["why"] == "" for row in rows)


def test_a_network_that_a_configuration_cannot_have_is_named_and_the_others_go_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "resident_memory", lambda *_, **__: None)
    plans = make_plans()
    kwargs = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    kwargs |= {
        "conv_op": "torch.nn.Conv3d",
        "norm_op": "torch.nn.InstanceNorm3d",
        "kernel_sizes": 3,
        "strides": [1, 2, 2],
    }
    plans["configurations"]["2d"]["patch_size"] = [8, 8, 8]
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    out, emcad = tmp_path / "a.json", ["nnUNetTrainerEMCAD", "nnUNetTrainerEMCADB0"]
    arguments = ["profile", "-d", "1", "-c", "2d", "-tr", *emcad, "--device", "cpu", "--rounds", "1", "-o", str(out)]
    done = CliRunner().invoke(app, arguments)
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and f"{', '.join(emcad)}: EMCAD is a network for 2D images" in said, done.output
    assert said.count("EMCADB0") == 1
    plain, *rows = json.loads(out.read_text())["rows"]
    assert plain["seconds"] > 0 and not plain["why"] and [row["trainer"] for row in rows] == emcad
    for name in ("parameters", "multiply_adds", "seconds", "memory", "seconds_ratio"):
        assert all(row[name] is None for row in rows)


def test_a_trainer_that_is_none_of_ours(folder, tmp_path):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    done = CliRunner().invoke(app, ["profile", "-d", "1", "-c", "2d", "-tr", "A", "-o", str(tmp_path / "a.json")])
    assert done.exit_code == 1 and "A is none of our trainers; there are nnUNetTrainerXAttnRes," in done.output


def test_what_exists_is_not_overwritten(folder, tmp_path):
    out = tmp_path / "a.json"
    out.write_text("mine")
    done = CliRunner().invoke(app, ["profile", "-d", "1", "-c", "2d", "-o", str(out)])
    assert done.exit_code == 1 and "exists: name another" in done.output and out.read_text() == "mine"


def test_plans_of_an_old_format_of_which_nnunet_makes_no_network(folder):
    """Before nnU-Net 2.4 they had a class of a U-Net."""
    plans = make_plans()
    del plans["configurations"]["2d"]["architecture"]
    plans["configurations"]["2d"]["UNet_class_name"] = "MyUNet"
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    done = CliRunner().invoke(app, ["profile", "-d", "1", "-c", "2d", "--device", "cpu"])
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and "nnU-Net makes no network of the configuration '2d' of the plans" in said, said


def test_what_is_refused(folder, tmp_path):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    done = CliRunner().invoke(app, ["profile", "-d", "1", "-c", "3d_fullres", "-o", str(tmp_path / "a.json")])
    assert done.exit_code == 1 and "have no '3d_fullres'; they have 2d" in done.output
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("configuration", ["2d", "3d_cascade_fullres"])
def test_plans_with_reads_have_no_plain_network(folder, tmp_path, configuration):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    write_plans_with_network(folder, "nnUNetPlans", "nnUNetXAttnResPlans", ReadConfig())
    arguments = ["-d", "1", "-c", configuration, "-p", "nnUNetXAttnResPlans", "-o", str(tmp_path / "a.json")]
    done = CliRunner().invoke(app, ["profile", *arguments])
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and "name the plans that they were made from with -p; by default that is" in said
    assert "'nnUNetXAttnResPlans' ask for 'nnunet_xattnres.unet.XAttnResUNet'" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(folder, tmp_path):
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    arguments = ["profile", "-d", "1", "-c", "2d", "--device", "cuda", "-o", str(tmp_path / "a.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1 and "there is cpu. Take --device cpu" in " ".join(done.output.split()), done.output
