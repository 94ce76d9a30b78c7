"""The trainers against nnU-Net's own contracts; nothing is trained here."""

import copy
import errno
import inspect
import os
import pydoc
import re
import shutil
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.networks import KINDS
from helpers.plans import CLASSES, build, make_plans
from helpers.reads import needs_operators
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_xattnres.commands.plan import plans_with_network
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.networks.registry import counterpart
from nnunet_xattnres.training import base, emcad, routing_log
from nnunet_xattnres.training.epochs import TRAINERS
from nnunet_xattnres.training.lock import locked

FAMILIES = {kind.trainer: kind.config for kind in KINDS.values() if kind.trainer}
READS = {
    "nnUNetTrainerXAttnRes": ["e3", "d1", "d2"],
    "nnUNetTrainerXAttnResReplace": ["e3", "d1", "d2"],
    "nnUNetTrainerXAttnResDecoderReads": ["d1", "d2"],
    "nnUNetTrainerXAttnResGated": ["e3", "d1", "d2"],
    "nnUNetTrainerNoSkip": [],
}
EPOCHS = (5, 20, 50, 100, 250)


def test_the_public_trainers():
    emcad = {
        "".join(("nnUNetTrainerEMCAD", *parts)) for parts in product(("", "B0"), ("", "XAttnRes"), ("", "RandomInit"))
    }
    families = set(FAMILIES) | emcad
    variants = {f"{family}_{n}epochs" for family in families for n in EPOCHS}
    no_mirroring = {"nnUNetTrainerXAttnResNoMirroring", "nnUNetTrainerXAttnResReplaceNoMirroring"}
    assert set(TRAINERS) == families | variants | no_mirroring


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_one_and_the_same_class(name):
    found = recursive_find_trainer_class_by_name(name)
    assert found is TRAINERS[name]
    assert found.__name__ == name and issubclass(found, nnUNetTrainer) and "__" not in name


def test_nnunet_finds_the_same_class_again():
    """Each time it imports the folder of the trainers anew."""
    first, second = (recursive_find_trainer_class_by_name("nnUNetTrainerXAttnRes") for _ in range(2))
    assert first is second


@pytest.mark.parametrize("trainer", TRAINERS.values())
def test_signatures_are_nnunets(trainer):
    for method in ("__init__", "build_network_architecture"):
        ours, theirs = (list(inspect.signature(getattr(t, method)).parameters) for t in (trainer, nnUNetTrainer))
        assert ours == theirs
    assert isinstance(inspect.getattr_static(trainer, "build_network_architecture"), staticmethod)


@pytest.mark.parametrize("network_class", CLASSES)
@pytest.mark.parametrize("name", FAMILIES)
def test_builds_the_network_of_the_plans(name, network_class):
    plans = make_plans(network_class)
    untouched = copy.deepcopy(plans)
    on, off = (build(TRAINERS[name], plans, deep_supervision) for deep_supervision in (True, False))
    assert plans == untouched, "the plans were changed"
    expected, _ = counterpart(network_class, {}, FAMILIES[name], "test plans")
    assert type(on) is pydoc.locate(expected)
    assert on.decoder.deep_supervision is True and off.decoder.deep_supervision is False
    off.load_state_dict(on.state_dict(), strict=True)


@pytest.mark.parametrize("network_class", CLASSES)
@pytest.mark.parametrize("name", READS)
def test_which_reads_the_network_of_a_trainer_has(name, network_class):
    network = build(TRAINERS[name], make_plans(network_class))
    assert type(network) is CLASSES[network_class] and list(network.reads) == READS[name]
    assert (network.skip_mode, network.read_gate) == (FAMILIES[name].skip_mode, FAMILIES[name].read_gate)


@pytest.mark.parametrize("network_class", ["my.nets.PlainConvUNet", "dynamic_network_architectures.x.Primus"])
def test_another_network_class_is_refused_by_name(network_class):
    with pytest.raises(ValueError, match=f"'{network_class}'.*PlainConvUNet and ResidualEncoderUNet"):
        build(TRAINERS["nnUNetTrainerXAttnRes"], make_plans(network_class))


def test_a_trainer_with_reads_on_plans_with_network_says_which_of_the_two_to_drop():
    plans, _ = plans_with_network(make_plans(), "nnUNetXAttnResPlans", ReadConfig(skip_mode="add"))
    with pytest.raises(ValueError, match=r"'nnUNetXAttnResPlans'.*Drop one of the two.*-tr nnUNetTrainer") as caught:
        build(TRAINERS["nnUNetTrainerXAttnRes"], plans)
    assert "nnUNetPlans" not in str(caught.value), "they may be made from others"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kwargs: kwargs.pop("conv_op"), "KeyError: 'conv_op'"),
        (lambda kwargs: kwargs.pop("n_conv_per_stage_decoder"), "n_conv_per_stage_decoder"),
        (lambda kwargs: kwargs.update(n_stages=1, features_per_stage=[4], kernel_sizes=[3], strides=[1],
                                      n_conv_per_stage=[1], n_conv_per_stage_decoder=[]), "n_stages is 1"),
        (lambda kwargs: kwargs.update(kernel_sizes=[[3, 3]] * 2), "kernel_sizes"),
        (lambda kwargs: kwargs.update(strides=[[1, 1], [2, 2]]), "strides"),
        (lambda kwargs: kwargs.update(features_per_stage=[4, 8]), "features_per_stage"),
        (lambda kwargs: kwargs.update(nonsense=1), "nonsense"),
    ],
)  # fmt: skip
def test_plans_that_make_no_network_are_named_with_the_reason(change, message):
    plans = make_plans()
    change(plans["configurations"]["2d"]["architecture"]["arch_kwargs"])
    with pytest.raises(ValueError, match=f"'nnUNetTestPlans' do not make a network(.|\n)*{message}"):
        build(TRAINERS["nnUNetTrainerXAttnRes"], plans)


def test_strides_of_three_and_kernels_of_any_size():
    plans = make_plans()
    change = {"strides": [[1, 1], [3, 3], [1, 3]], "kernel_sizes": [[5, 3], [3, 1], [1, 7]]}
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"].update(change)
    network = build(TRAINERS["nnUNetTrainerXAttnRes"], plans)
    x = torch.randn(2, 1, 12, 18)
    outputs = network(x)
    assert [tuple(o.shape[2:]) for o in outputs] == [(12, 18), (4, 6)]
    sum(o.mean() for o in outputs).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", [n for n in TRAINERS if n.endswith("epochs")])
def test_lengths(make_trainer, name):
    trainer = make_trainer(name)
    assert trainer.num_epochs == int(name.split("_")[1].removesuffix("epochs"))
    assert 1 <= trainer.save_every <= trainer.num_epochs / 5
    assert list(trainer.my_init_kwargs) == ["plans", "configuration", "fold", "dataset_json", "device"]


def test_the_default_length_is_nnunets(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    assert (trainer.num_epochs, trainer.save_every) == (1000, 50)


@pytest.mark.parametrize("name", ["nnUNetTrainerXAttnResNoMirroring", "nnUNetTrainerXAttnResReplaceNoMirroring"])
def test_no_mirroring(make_trainer, name):
    trainer = make_trainer(name)
    *_, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes is None and trainer.inference_allowed_mirroring_axes is None


def test_the_parameter_line(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    log = Path(trainer.log_file).read_text()
    plain = nnUNetTrainer.build_network_architecture(
        trainer.plans_manager, trainer.configuration_manager, 1, 2, enable_deep_supervision=True
    )
    n_plain = sum(p.numel() for p in plain.parameters())
    n_reads = sum(p.numel() for p in trainer.network.parameters()) - n_plain
    assert f"Parameters: plain network {n_plain:,}, reads {n_reads:,} (+{100 * n_reads / n_plain:.2f}%)" in log
    assert log.count("Parameters:") == 1


def test_the_parameter_line_sees_through_wrappers(make_trainer):
    trainer = make_trainer("nnUNetTrainerNoSkip")
    trainer.initialize()
    line = trainer._parameter_line()
    assert "reads 0 (+0.00%), this network " in line and "(-" in line
    trainer.is_ddp, network = True, trainer.network
    trainer.network = SimpleNamespace(module=SimpleNamespace(_orig_mod=network))
    assert trainer._parameter_line() == line


def test_attributes_stringify(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    trainer.training_lock = locked(Path(trainer.output_folder), print)
    trainer._save_debug_information()


@needs_operators
def test_the_chosen_paths_are_in_the_checkpoint_and_kept(saved, monkeypatch, tmp_path):
    """--c computes with them; on CUDA it is asked at the start of a training, here by hand."""
    from nnunet_xattnres.ops import chosen, fused, tuning

    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "cache"))

    def results(function, items, arguments, **limits):
        for item in items:
            seconds = {"tiled": 2.0, "tiled-small": 1.0}
            if item["path"] in seconds:
                yield {"status": "ok", "forward": seconds[item["path"]], "backward": 3.0}
            else:
                yield {"status": "crashed", "why": "it fell"}

    monkeypatch.setattr(tuning, "results_of_children", results)
    monkeypatch.setattr(tuning, "small_tiles_differ", lambda *_: True)  # as of a large read on a GPU
    trainer, path = saved()
    trainer._choose_paths()
    log = Path(trainer.log_file).read_text()
    assert log.count("forward tiled-small, backward tiled (tried)") == 6  # three reads, in training and in prediction
    assert ("fused crashed: it fell" in log) == fused.available()
    trainer.save_checkpoint(str(path))

    monkeypatch.setattr(tuning, "results_of_children", lambda *_, **__: iter(()))  # nothing is tried again
    monkeypatch.setenv(chosen.VARIABLE, str(tmp_path / "another"))
    again, _ = saved(file="other.pth")
    chosen.forget()
    again.load_checkpoint(str(path))
    again._choose_paths()
    assert "forward tiled-small, backward tiled (checkpoint)" in Path(again.log_file).read_text()

    monkeypatch.setattr(tuning, "machine", lambda device: "another GPU")
    monkeypatch.setattr(tuning, "results_of_children", results)
    again._choose_paths()
    assert "chosen anew: those of the checkpoint were made on cpu" in Path(again.log_file).read_text()
    chosen.forget()


@needs_operators
def test_on_cuda_a_training_chooses_at_its_start_and_goes_on_if_that_fails(make_trainer, monkeypatch):
    """Of a GPU that need not be here."""
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda _: None)
    calls, errors = [], [None, RuntimeError("no cache"), UserError("nothing is right here")]

    def choose(trainer):
        calls.append(trainer)
        if errors[len(calls) - 1] is not None:
            raise errors[len(calls) - 1]

    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    monkeypatch.setattr(type(trainer), "_choose_paths", choose)
    trainer.on_train_start()
    trainer._unlock()
    assert calls == []
    trainer.device = torch.device("cuda")
    for _ in range(2):
        trainer.on_train_start()
        trainer._unlock()
    assert calls == [trainer] * 2
    assert "No path was chosen for the reads: RuntimeError: no cache" in Path(trainer.log_file).read_text()
    with pytest.raises(UserError, match="nothing is right here"):
        trainer.on_train_start()
    trainer._unlock()


@needs_operators
def test_a_forced_path_is_not_tried(make_trainer, monkeypatch):
    from nnunet_xattnres.training import base

    monkeypatch.setattr(base, "choose_paths", lambda *_, **__: pytest.fail("there is nothing to choose"))
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    trainer.network.use_path("tiled")
    trainer._choose_paths()


@pytest.fixture
def saved(make_trainer):
    """A trainer, and the checkpoint that it has written."""

    def save(name="nnUNetTrainerXAttnRes", file="checkpoint_latest.pth"):
        trainer = make_trainer(name)
        trainer.initialize()
        path = Path(trainer.output_folder) / file
        trainer.save_checkpoint(str(path))
        return trainer, path

    return save


def test_a_checkpoint_is_loaded_again(saved):
    trainer, path = saved()
    with torch.no_grad():
        before = {key: value.clone() for key, value in trainer.network.state_dict().items()}
        for p in trainer.network.parameters():
            p.add_(1)
    trainer.load_checkpoint(str(path))
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named_with_what_to_do(saved, left):
    trainer, path = saved()
    content = path.read_bytes()
    path.with_name("checkpoint_best.pth").write_bytes(content)
    path.write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    with pytest.raises(
        UserError, match=r"checkpoint_latest.pth is damaged(.|\n)*beside it there is checkpoint_best.pth"
    ):
        trainer.load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("name", "difference", "way_out"),
    [
        (
            "nnUNetTrainerXAttnResReplace",
            "its network has skip_mode replace",
            "-tr nnUNetTrainerXAttnResReplace",
        ),
        ("nnUNetTrainerXAttnResDecoderReads", "it has no reads.e3", "-tr nnUNetTrainerXAttnResDecoderReads"),
        ("nnUNetTrainerXAttnResGated", "gate, which is not here", "-tr nnUNetTrainerXAttnResGated"),
        ("nnUNetTrainerNoSkip", "here (", "-tr nnUNetTrainerNoSkip"),
    ],
)
def test_a_checkpoint_of_another_mode_is_refused(make_trainer, saved, name, difference, way_out):
    _, path = saved(name)
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    with pytest.raises(UserError) as caught:
        trainer.load_checkpoint(str(path))
    assert difference in str(caught.value) and way_out in str(caught.value)
    moved = path.parent.parent.with_name("nnUNetTrainerXAttnRes__nnUNetTestPlans__2d") / path.parent.name / path.name
    moved.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, moved)
    with pytest.raises(
        UserError, match=f"Put it into {re.escape(str(path.parent))}, if there is none, and go on with it"
    ):
        trainer.load_checkpoint(str(moved))


def test_what_lies_in_no_results_folder_is_named_all_the_same(make_trainer, saved, tmp_path, monkeypatch):
    _, path = saved("nnUNetTrainerXAttnResReplace")
    shutil.copy(path, tmp_path / "x.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"its network has skip_mode replace(.|\n)*Put it into nnUNetTrainer.*fold_FOLD.* and go on"
    ):
        make_trainer("nnUNetTrainerXAttnRes").load_checkpoint("x.pth")


def test_an_optimizer_may_keep_more_than_what_is_of_its_parameters(saved):
    """As MADGRAD counts its steps."""
    trainer, path = saved()
    trainer.optimizer.state["k"] = torch.tensor([3])
    trainer.save_checkpoint(str(path))
    trainer.load_checkpoint(str(path))
    assert trainer.optimizer.state["k"].item() == 3


@pytest.mark.parametrize(("mode", "fits"), [("add", True), ("replace", False)])
def test_a_checkpoint_that_plans_gave_its_network_is_told_by_them(make_trainer, saved, mode, fits):
    """As nnUNetTrainer writes it on plans with reads: keys and shapes are the same."""
    _, path = saved("nnUNetTrainerXAttnRes")
    checkpoint = torch.load(path, weights_only=False)
    arguments = checkpoint["init_args"]
    arguments["plans"], _ = plans_with_network(arguments["plans"], "nnUNetXAttnResPlans", ReadConfig(skip_mode=mode))
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, path)
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    if fits:
        trainer.load_checkpoint(str(path))
    else:
        with pytest.raises(UserError, match="its network has skip_mode replace"):
            trainer.load_checkpoint(str(path))


def test_upgrade_is_no_way_out_for_what_it_cannot_upgrade(make_trainer, saved):
    """Whatever a block-level network lacks to be, it is no stock network."""
    _, path = saved("nnUNetTrainerXAttnResBlock")
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["network_weights"]
    checkpoint["network_weights"] = {key: value for key, value in weights.items() if not key.startswith("reads.")}
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainerNoSkip"}, path)
    with pytest.raises(UserError) as caught:
        make_trainer("nnUNetTrainerXAttnResBlock").load_checkpoint(str(path))
    assert "xattnres upgrade" not in str(caught.value) and "-tr nnUNetTrainerNoSkip" in str(caught.value)


def test_a_checkpoint_of_other_lengths_of_the_same_trainer_goes_on(make_trainer, saved):
    _, path = saved("nnUNetTrainerXAttnRes_5epochs")
    make_trainer("nnUNetTrainerXAttnRes_20epochs").load_checkpoint(str(path))


def test_a_stock_checkpoint_is_refused_with_the_command_that_upgrades_it(make_trainer, saved):
    trainer, path = saved()
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["network_weights"]
    checkpoint["network_weights"] = {key: value for key, value in weights.items() if not key.startswith("reads.")}
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, path)
    with pytest.raises(
        UserError, match=r"it has no reads.*\n.*It is of nnUNetTrainer,(.|\n)*nnunet-xattnres upgrade"
    ) as caught:
        trainer.load_checkpoint(str(path))
    assert "XAttnResGated" not in str(caught.value), "that mirrors, and this model may not have been mirrored"


def write_again(of, path, start, end, epoch=5):
    """A checkpoint as it is, with the log of a training that began and ended then."""
    content = torch.load(of, weights_only=False)
    log = {"epoch_start_timestamps": [start, start + 1], "epoch_end_timestamps": [start + 1, end]}
    torch.save(content | {"logging": content["logging"] | log, "current_epoch": epoch}, path)


@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_best.pth"])
def test_the_end_of_a_former_training_is_not_taken_for_that_of_one_which_was_killed(saved, name):
    """nnU-Net's --c takes checkpoint_final.pth first, and removes checkpoint_latest.pth at the end."""
    trainer, final = saved(file="checkpoint_final.pth")
    other = final.with_name(name)
    write_again(final, final, 1000, 2000)
    write_again(final, other, 3000, 4000)
    trainer.load_checkpoint(str(final))  # --val may
    with pytest.raises(
        UserError, match=rf"{name} is of a training that was begun(.|\n)*move checkpoint_final.pth away"
    ):
        trainer.on_train_start()
    assert not trainer.training_lock
    trainer.load_checkpoint(str(other))
    assert trainer.no_end is None
    write_again(final, other, 1000, 1900)  # of the training that has ended, though perhaps copied later
    trainer.load_checkpoint(str(final))
    assert trainer.no_end is None
    other.write_bytes(b"damaged")
    trainer.load_checkpoint(str(final))
    assert trainer.no_end is None


def test_a_former_training_that_was_killed_is_not_taken_for_a_later_one(saved):
    """Of which there is a checkpoint_best.pth only, for it was killed before its first checkpoint_latest.pth."""
    trainer, latest = saved()
    best = latest.with_name("checkpoint_best.pth")
    write_again(latest, latest, 1000, 2000)
    write_again(latest, best, 3000, 4000, epoch=2)
    trainer.load_checkpoint(str(latest))
    with pytest.raises(UserError, match=r"checkpoint_best.pth is of a training that was begun(.|\n)*move it away"):
        trainer.on_train_start()
    write_again(latest, best, 1000, 2100, epoch=9)  # of the same, after its last checkpoint_latest.pth
    trainer.load_checkpoint(str(latest))
    assert trainer.no_end is None


def test_what_went_on_from_the_end_is_not_lost(saved):
    """By a trainer that has got more epochs: the log of the end is its own, too."""
    trainer, final = saved(file="checkpoint_final.pth")
    write_again(final, final, 1000, 2000)
    latest = final.with_name("checkpoint_latest.pth")
    write_again(final, latest, 1000, 3000, epoch=8)
    trainer.load_checkpoint(str(final))
    with pytest.raises(UserError, match=r"has gone on from the end to epoch 8, after checkpoint_final.pth"):
        trainer.on_train_start()
    trainer.load_checkpoint(str(latest))
    assert trainer.no_end is None


def test_tables_of_positions_from_before_they_had_the_axes_of_their_grid_go_on(saved):
    trainer, path = saved("nnUNetTrainerUCTransNet")
    images = torch.randn(2, 1, 16, 16)
    sum(o.square().mean() for o in trainer.network(images)).backward()
    trainer.optimizer.step()
    trainer.save_checkpoint(str(path))
    checkpoint = torch.load(path, weights_only=False)
    weights, state = checkpoint["network_weights"], checkpoint["optimizer_state"]["state"]
    old = {k: v.flatten(1, -2) if k.endswith("position") else v for k, v in weights.items()}
    for i, name in enumerate(name for name, _ in trainer.network.named_parameters()):
        if name.endswith("position"):
            state[i]["momentum_buffer"] = state[i]["momentum_buffer"].flatten(1, -2)
    torch.save(checkpoint | {"network_weights": old}, path)
    trainer.load_checkpoint(str(path))
    assert all(torch.equal(trainer.network.state_dict()[key], value) for key, value in weights.items())
    sum(o.square().mean() for o in trainer.network(images)).backward()
    trainer.optimizer.step()


def test_an_upgraded_model_is_not_the_end_of_a_training(saved):
    trainer, final = saved("nnUNetTrainerXAttnResGated", "checkpoint_final.pth")
    changes = {"upgraded_from": {"trainer": "nnUNetTrainer"}, "inference_allowed_mirroring_axes": (0, 1)}
    torch.save(torch.load(final, weights_only=False) | changes, final)
    trainer.load_checkpoint(str(final))
    with pytest.raises(UserError, match=r"nnunet-xattnres upgrade(.|\n)*use --val"):
        trainer.on_train_start()
    trainer.load_checkpoint(str(shutil.copy(final, final.with_name("checkpoint_latest.pth"))))
    assert trainer.no_end is None  # of a training that had not ended, which goes on with reads


@pytest.mark.parametrize(
    "changes",
    [
        {"upgraded_from": {"trainer": "nnUNetTrainerDA5"}, "inference_allowed_mirroring_axes": (0, 1)},
        {"upgraded_from": {"trainer": "nnUNetTrainer_100epochs"}, "inference_allowed_mirroring_axes": None},
    ],
)
def test_an_upgraded_training_of_another_trainer_does_not_go_on_as_ours(saved, changes):
    """nnU-Net's trainer would set the augmentation and the mirroring of prediction to its own."""
    trainer, latest = saved("nnUNetTrainerXAttnResGated", "checkpoint_latest.pth")
    torch.save(torch.load(latest, weights_only=False) | changes, latest)
    trainer.load_checkpoint(str(latest))
    with pytest.raises(UserError, match=r"would go on as nnUNetTrainer trains(.|\n)*to a file"):
        trainer.on_train_start()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_checkpoint_with_the_names_of_wrappers_goes_on(saved, prefix):
    trainer, path = saved()
    checkpoint = torch.load(path, weights_only=False)
    weights = {key: value + 1 for key, value in checkpoint["network_weights"].items()}
    checkpoint["network_weights"] = {f"{prefix}{key}": value for key, value in weights.items()}
    torch.save(checkpoint, path)
    trainer.load_checkpoint(str(path))
    assert all(torch.equal(value, weights[key]) for key, value in trainer.network.state_dict().items())


def test_a_checkpoint_of_another_plan_is_refused(make_trainer, saved):
    trainer, path = saved()
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["network_weights"]
    key = "encoder.stages.0.0.convs.0.conv.weight"
    weights[key] = weights[key][:2]
    checkpoint["init_args"] = {**checkpoint["init_args"], "plans": {"plans_name": "nnUNetOtherPlans"}}
    torch.save(checkpoint, path)
    with pytest.raises(
        UserError, match=r"\(2, 1, 3, 3\).*here \(4, 1, 3, 3\)(.|\n)*plans nnUNetOtherPlans(.|\n)*-p nnUNetO"
    ):
        trainer.load_checkpoint(str(path))


def test_a_checkpoint_of_plans_that_were_changed_since(saved):
    """What it is of and what this is have the same names: to go on under them is what has just failed."""
    trainer, path = saved()
    changed = make_plans()
    changed["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [6, 8, 16]
    again = type(trainer)(changed | {"continue_training": False}, "2d", 0, trainer.dataset_json, trainer.device)
    with pytest.raises(UserError, match="plans nnUNetTestPlans in nnUNet_preprocessed were changed since") as caught:
        again.load_checkpoint(str(path))
    assert str(path.parent.parent / "plans.json") in str(caught.value) and "-tr nnUNet" not in str(caught.value)
    # the way out: the plans of the checkpoint, by another file
    plans = torch.load(path, weights_only=False)["init_args"]["plans"]
    old = type(trainer)(plans | {"continue_training": False}, "2d", 0, trainer.dataset_json, trainer.device)
    old.load_checkpoint(str(path))
    assert old.output_folder == again.output_folder == str(path.parent)


def test_a_checkpoint_of_another_configuration_names_it(saved):
    trainer, path = saved()
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["init_args"] = {**checkpoint["init_args"], "configuration": "3d_fullres"}
    checkpoint["network_weights"].pop("reads.e3.pseudo_query")
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="nnUNetv2_train DATASET 3d_fullres FOLD -tr nnUNetTrainerXAttnRes -p "):
        trainer.load_checkpoint(str(path))


def test_a_write_that_fails_keeps_the_checkpoint_before(saved, monkeypatch):
    trainer, path = saved()
    before = path.read_bytes()

    def half(content, file):
        Path(file).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".partial-*"))


@pytest.fixture
def read_by_another_program(monkeypatch):
    """Windows then replaces no file: so often, as is asked for."""
    waited = []

    def read(times):
        def refusing(replace):
            def refused(path, target):
                if len(waited) < times:
                    raise PermissionError(13, "The process cannot access the file", str(target))
                return replace(path, target)

            return refused

        for owner in (Path, os):
            monkeypatch.setattr(owner, "replace", refusing(owner.replace))
        monkeypatch.setattr(time, "sleep", waited.append)
        return waited

    return read


@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_final.pth"])
def test_a_checkpoint_that_is_read_for_some_seconds_is_replaced_then(saved, read_by_another_program, name):
    trainer, path = saved(file=name)
    trainer.current_epoch = 7
    waited = read_by_another_program(2)
    trainer.save_checkpoint(str(path))
    assert torch.load(path, weights_only=False)["current_epoch"] == 8 and waited == [1, 2]


@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_final.pth"])
def test_a_checkpoint_that_is_read_for_longer_ends_no_training(saved, read_by_another_program, monkeypatch, name):
    """But the last one must be written."""
    monkeypatch.setattr(base, "_WINDOWS", True)
    trainer, path = saved(file=name)
    trainer.best_written, trainer._best_ema = 0.4, 0.5
    before = path.read_bytes()
    waited = read_by_another_program(99)
    said = f"{path} could not be replaced and is still the one before: [Errno 13] The process cannot access the file"
    if name == "checkpoint_final.pth":
        with pytest.raises(PermissionError):
            trainer.save_checkpoint(str(path))
    else:
        trainer.save_checkpoint(str(path))
    assert (said in Path(trainer.log_file).read_text()) == (name != "checkpoint_final.pth")
    assert path.read_bytes() == before and 5 < sum(waited) < 20
    assert not list(path.parent.glob(".partial-*"))
    # an epoch that was not written does not count as the best: the next one that is better than the file is written
    assert trainer._best_ema == (0.4 if name == "checkpoint_best.pth" else 0.5)


@pytest.mark.parametrize("name", ["checkpoint_latest.pth", "checkpoint_best.pth"])
def test_elsewhere_what_may_not_be_written_ends_the_training(saved, read_by_another_program, monkeypatch, name):
    """As in nnU-Net: the permissions have changed, and no checkpoint would be written any more."""
    monkeypatch.setattr(base, "_WINDOWS", False)
    trainer, path = saved(file=name)
    read_by_another_program(99)
    with pytest.raises(PermissionError):
        trainer.save_checkpoint(str(path))


def test_what_a_combined_trainer_writes_beside_a_checkpoint_stays(make_trainer):
    class Averaging:
        def save_checkpoint(self, filename):
            super().save_checkpoint(filename)
            Path(filename.replace(".pth", "_ema.pth")).write_bytes(b"averaged")

    class Combined(TRAINERS["nnUNetTrainerXAttnRes"], Averaging, nnUNetTrainer):
        pass

    trainer = make_trainer(Combined)
    trainer.initialize()
    folder = Path(trainer.output_folder)
    for _ in range(2):  # the second time there are older ones
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
    assert {path.name for path in folder.glob("*.pth")} == {"checkpoint_final.pth", "checkpoint_final_ema.pth"}
    assert (folder / "checkpoint_final_ema.pth").read_bytes() == b"averaged"
    assert not list(folder.glob(".partial-*"))


def test_what_a_combined_trainer_does_with_the_other_processes_it_does_in_all_of_them(make_trainer):
    """It may take the mean of their weights, say, and would wait for those that it does not reach."""
    reached = []

    class Averaging:
        def save_checkpoint(self, filename):
            reached.append(self.local_rank)
            super().save_checkpoint(filename)

    class Combined(TRAINERS["nnUNetTrainerXAttnRes"], Averaging, nnUNetTrainer):
        pass

    trainer = make_trainer(Combined)
    trainer.initialize()
    folder = Path(trainer.output_folder)
    for trainer.local_rank in (1, 0):
        trainer.save_checkpoint(str(folder / "checkpoint_final.pth"))
        assert (folder / "checkpoint_final.pth").exists() == (trainer.local_rank == 0)
    assert reached == [1, 0]


@pytest.mark.parametrize("operators", [True, False])
@pytest.mark.parametrize("name", ["nnUNetTrainerXAttnRes", "nnUNetTrainerEMCAD", "nnUNetTrainerEMCADXAttnRes"])
def test_nothing_is_compiled_without_custom_operators(make_trainer, monkeypatch, name, operators):
    """nnU-Net would give the lowest head the weight 0, as it does where it compiles, and DDP miss its gradients."""
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    for module in (routing_log, emcad):
        monkeypatch.setattr(module, "CUSTOM_OPS", operators)
    assert make_trainer(name)._do_i_compile() is operators


@pytest.mark.parametrize(("trained", "logged"), [(0, False), (1, True)])
def test_memory_is_logged_of_what_was_trained(make_trainer, monkeypatch, trained, logged):
    """And not of a process that only validates, when --c finds a training that has ended."""
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    trainer.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**20)
    for name in ("on_train_start", "on_train_end"):
        monkeypatch.setattr(nnUNetTrainer, name, lambda self: None)
    monkeypatch.setattr(base.GuardedTrainer, "_choose_paths", lambda self: None)
    trainer.current_epoch = 7
    trainer.on_train_start()
    trainer.current_epoch += trained
    trainer.on_train_end()
    assert ("Peak GPU memory: 5 MiB" in Path(trainer.log_file).read_text()) == logged


def test_disabled_checkpointing_still_writes_nothing(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    trainer.disable_checkpointing = True
    path = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    assert not path.exists()
    path.write_text("of the training before")
    half_of_a_killed_training(path)
    trainer.save_checkpoint(str(path))
    assert path.read_text() == "of the training before"


def half_of_a_killed_training(path):
    partial = path.parent / ".partial-0123abcd" / path.name
    partial.parent.mkdir(parents=True)
    partial.write_text("half")
    return partial.parent


@pytest.mark.parametrize("locks", [True, False])
def test_what_killed_trainings_have_half_written_is_removed_by_the_next(make_trainer, monkeypatch, locks):
    """Where the file system has no locks it may be another training's that is writing now."""
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not locks:
        monkeypatch.setattr("fcntl.flock", flock)
    trainer = make_trainer("nnUNetTrainerNoSkip")
    partial = half_of_a_killed_training(Path(trainer.output_folder) / "checkpoint_latest.pth")
    trainer.on_train_start()
    trainer._unlock()
    assert partial.exists() is not locks


def test_a_fold_is_trained_once_at_a_time(tmp_path):
    lock = locked(tmp_path, print)
    with pytest.raises(UserError, match=f"another training is writing to {tmp_path}"):
        locked(tmp_path, print)
    lock.release()
    locked(tmp_path, print).release()


def test_the_lock_is_no_soft_one_and_its_file_stays(tmp_path, monkeypatch):
    """A job that was killed elsewhere must not block, and two trainings must not lock two files of one name."""
    lock = locked(tmp_path, print)
    lock.release()
    assert (tmp_path / "training.lock").exists()

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    said = []
    first, second = locked(tmp_path, said.append), locked(tmp_path, said.append)
    assert len(said) == 2 and "would not be noticed" in said[0] and "(" in said[0]
    first.release(), second.release()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_fails_keeps_nothing_locked_in_its_process(make_trainer, monkeypatch, error):
    """A notebook goes on, and may train the fold again."""

    def fail(self):
        with pytest.raises(UserError):
            locked(Path(self.output_folder), print)
        raise error

    monkeypatch.setattr(nnUNetTrainer, "on_train_start", fail)
    trainer = make_trainer("nnUNetTrainerNoSkip")
    with pytest.raises(error):
        trainer.run_training()
    locked(Path(trainer.output_folder), print).release()


def test_a_file_system_without_locks_is_no_reason_not_to_train(tmp_path, monkeypatch):
    def acquire(self, **_options):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    said = []
    locked(tmp_path, said.append).release()
    assert len(said) == 1 and "No locks available" in said[0]


def validate(trainer, epoch):
    trainer.current_epoch = epoch
    batch = {"data": torch.randn(2, 1, 16, 16), "target": [torch.zeros(2, 1, n, n) for n in (16, 8)]}
    with torch.no_grad():
        return [trainer.validation_step(batch) for _ in range(2)]


def test_the_routing_is_logged_every_tenth_epoch_and_in_the_last_one(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes_20epochs")
    trainer.initialize()
    for epoch in range(20):
        assert len(validate(trainer, epoch)) == 2
    table = (Path(trainer.output_folder) / "xattnres_routing.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in table] == [e for e in ("0", "10", "19") for _ in range(2 + 3 + 4)]
    assert (Path(trainer.output_folder) / "xattnres_routing.png").is_file()


def test_a_log_that_fails_does_not_stop_a_training(make_trainer, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("nnunet_xattnres.training.routing_log.log_routing", fail)
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    assert set(validate(trainer, 0)[0]) == {"loss", "tp_hard", "fp_hard", "fn_hard"}
    log = "".join(file.read_text() for file in Path(trainer.output_folder).glob("training_log_*.txt"))
    assert log.count("The weights of the reads were not logged: OSError: No space left on device") == 1


def test_a_network_without_reads_logs_none(make_trainer):
    trainer = make_trainer("nnUNetTrainerNoSkip")
    trainer.initialize()
    validate(trainer, 0)
    assert not list(Path(trainer.output_folder).glob("xattnres_routing*"))
