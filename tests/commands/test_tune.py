"""`nnunet-xattnres tune`: it chooses for training and for prediction, and says what became of every path."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from helpers.plans import make_plans
from helpers.reads import needs_operators
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.tune import table
from nnunet_xattnres.commands.plan import plans_with_network
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.reads.shapes import shapes_to_choose

DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}


@pytest.fixture
def tune(monkeypatch, tmp_path):
    from nnunet_xattnres.commands import tune as command
    from nnunet_xattnres.ops import chosen

    folder = tmp_path / "Dataset001_MadeUp"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "nnUNetPlans.json").write_text(json.dumps(make_plans()))
    monkeypatch.setattr(command, "preprocessed_folder", lambda _: folder)
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "cache"))
    yield lambda *names, **options: command.tune("1", *names, torch.device("cpu"), [].append, **options)
    chosen.forget()


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(app, ["tune", "-d", "1", "-c", "2d"])
    assert done.exit_code == 0 and "There is no CUDA device here" in done.stdout


def test_without_operators_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("nnunet_xattnres.ops.choice.CUSTOM_OPS", False)
    done = CliRunner().invoke(app, ["tune", "-d", "1", "-c", "2d"])
    assert done.exit_code == 0 and "older than 2.4, the reference computes the reads" in " ".join(done.stdout.split())


def test_plans_that_make_no_network_are_no_traceback(tune, monkeypatch, tmp_path):
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8]
    (tmp_path / "Dataset001_MadeUp" / "nnUNetPlans.json").write_text(json.dumps(plans))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("nnunet_xattnres.ops.choice.CUSTOM_OPS", True)
    done = CliRunner().invoke(app, ["tune", "-d", "1", "-c", "2d"])
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and "error: the plans 'nnUNetTestPlans' do not make a network" in said, said


@needs_operators
def test_every_read_is_tried_and_shown(tune):
    """On the CPU, with real processes: the kernels fail there, and are not chosen."""
    found = tune("2d", "nnUNetPlans", "nnUNetTrainerXAttnRes")
    assert len(found) == 6 and {one.shape.batch for one in found} == {2, 1}
    assert all(one.choice.forward.startswith("tiled") for one in found)
    assert all(one.results["tiled"]["status"] == "ok" for one in found)
    shown = table(found)
    assert shown.row_count == 6
    assert tune("2d", "nnUNetPlans", "nnUNetTrainerNoSkip") == []


@needs_operators
def test_what_a_compiler_says_is_shown_as_it_is():
    from nnunet_xattnres.ops.chosen import Choice
    from nnunet_xattnres.ops.tuning import Found

    why = "expected [bold] or [/red], at e:smile:"
    file = io.StringIO()
    found = Found("(2, 2)", Choice("tiled", "tiled"), {"fused": {"status": "failed", "why": why}}, "")
    new_console(file=file, width=160).print(table([found]))
    assert f"fused: failed {why}" in file.getvalue()


@needs_operators
@pytest.mark.parametrize("kept", [True, False])
def test_it_says_whether_what_it_found_is_kept(tune, monkeypatch, tmp_path, kept):
    from nnunet_xattnres.commands import tune as command
    from nnunet_xattnres.ops import chosen

    if not kept:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "file" / "below"))
    here, on_cpu, choose = torch.device("cpu"), chosen.machine(torch.device("cpu")), command.choose_paths
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(chosen, "machine", lambda _: on_cpu)
    monkeypatch.setattr(command, "choose_paths", lambda shapes, _, log: choose(shapes[-1:], here, log))
    monkeypatch.setattr(command, "shapes_to_choose", lambda *arguments: shapes_to_choose(*arguments[:-1], here))
    done = CliRunner().invoke(app, ["tune", "-d", "1", "-c", "2d"])
    said = " ".join(done.output.split())
    assert done.exit_code == 0, said
    assert (f"kept in {tmp_path / 'cache'}" in said) == kept
    assert ("is not kept for the next time: " in said and "a training tries the paths again" in said) == (not kept)


@needs_operators
@pytest.mark.parametrize("trainer", [None, "nnUNetTrainer"])
def test_plans_with_reads_need_no_trainer_of_ours(tune, trainer, tmp_path):
    """nnU-Net's own trainers choose no paths: for these plans this is the only way."""
    plans, _ = plans_with_network(make_plans(), "nnUNetXAttnResPlans", ReadConfig())
    (tmp_path / "Dataset001_MadeUp" / "nnUNetXAttnResPlans.json").write_text(json.dumps(plans))
    found = tune("2d", "nnUNetXAttnResPlans", trainer)
    assert [one.shape for one in found] == [one.shape for one in tune("2d", "nnUNetPlans", None)] and len(found) == 6


@needs_operators
def test_the_reads_of_another_decoder_are_found(tune):
    found = tune("2d", "nnUNetPlans", "nnUNetTrainerEMCADB0XAttnRes")
    assert [one.shape.size for one in found[:3]] == [(2, 2), (4, 4), (8, 8)] and len(found) == 6


@needs_operators
@pytest.mark.parametrize(("batch", "n_gpus", "shares"), [(2, 1, [2]), (2, 2, [1]), (5, 2, [3, 2]), (7, 3, [3, 2])])
def test_gpus_share_the_batch_as_in_a_training(tune, monkeypatch, batch, n_gpus, shares):
    from nnunet_xattnres.commands import tune as command

    asked = []
    monkeypatch.setattr(command, "choose_paths", lambda shapes, *_: asked.extend(shapes) or [])
    monkeypatch.setattr(ConfigurationManager, "batch_size", batch)
    tune("2d", "nnUNetPlans", None, n_gpus=n_gpus)
    assert list(dict.fromkeys(shape.batch for shape in asked)) == list(dict.fromkeys([*shares[:1], 1, *shares[1:]]))
    trainer, of_ranks = nnUNetTrainer.__new__(nnUNetTrainer), []
    trainer.is_ddp, trainer.local_rank, trainer.oversample_foreground_percent = n_gpus > 1, 0, 0.33
    trainer.configuration_manager = SimpleNamespace(batch_size=batch)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: n_gpus)
    for rank in range(n_gpus):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        trainer._set_batch_size_and_oversample()
        of_ranks.append(trainer.batch_size)
    assert set(of_ranks) == set(shares)


@needs_operators
def test_more_gpus_than_samples_are_refused(tune):
    with pytest.raises(UserError, match="-num_gpus 3: the plans have a batch of 2"):
        tune("2d", "nnUNetPlans", None, n_gpus=3)


@needs_operators
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("3d_fullres", "nnUNetPlans", "nnUNetTrainerXAttnRes"), "the plans have no '3d_fullres'; they have 2d"),
        (("2d", "nnUNetPlans", "nnUNetTrainerNone"), "nnU-Net finds no trainer 'nnUNetTrainerNone'"),
    ],
)
def test_what_is_not_there_is_named(tune, names, message):
    with pytest.raises(UserError, match=message):
        tune(*names)
