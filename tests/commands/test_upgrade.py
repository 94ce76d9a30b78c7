"""A stock checkpoint that has been given reads: what nnU-Net's own loaders make of it."""

import copy
import json
import math
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from helpers.plans import CLASSES, build, make_plans
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.upgrade import trainer_for, upgrade_checkpoint
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import content_of
from nnunet_xattnres.networks.registry import KINDS
from nnunet_xattnres.training.epochs import TRAINERS
from nnunet_xattnres.training.lock import locked

DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
every_class = pytest.mark.parametrize("network_class", CLASSES)


def invoke(*arguments):
    return CliRunner().invoke(app, ["upgrade", *map(str, arguments)])


def save_stock(path, network_class="dynamic_network_architectures.architectures.unet.PlainConvUNet", change=None):
    """A checkpoint as nnUNetTrainer.save_checkpoint writes it, of a network with random weights."""
    torch.manual_seed(7)
    plans = make_plans(network_class)
    network = build(nnUNetTrainer, plans)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99)
    sum(o.square().mean() for o in network(torch.randn(2, 1, 16, 16))).backward()
    optimizer.step()
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": 0.5,
        "current_epoch": 1000,
        "init_args": {"plans": plans, "configuration": "2d", "fold": 0, "dataset_json": DATASET,
                      "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }  # fmt: skip
    if change is not None:
        change(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return network.eval()


def load(path):
    return torch.load(path, weights_only=False)


@every_class
def test_a_gated_network_computes_what_the_stock_network_computed(tmp_path, network_class):
    stock = save_stock(tmp_path / "checkpoint_final.pth", network_class)
    done = invoke(tmp_path / "checkpoint_final.pth", tmp_path / "new" / "upgraded.pth")
    assert done.exit_code == 0, done.output
    checkpoint = load(tmp_path / "new" / "upgraded.pth")
    network = build(TRAINERS["nnUNetTrainerXAttnResGated"], make_plans(network_class)).eval()
    network.load_state_dict(checkpoint["network_weights"], strict=True)
    x = torch.randn(2, 1, 32, 16)
    with torch.inference_mode():
        for a, b in zip(network(x), stock(x), strict=True):
            assert torch.equal(a, b)
    assert checkpoint["trainer_name"] == "nnUNetTrainerXAttnResGated"
    kept = ("_best_ema", "current_epoch", "inference_allowed_mirroring_axes", "init_args")
    original = load(tmp_path / "checkpoint_final.pth")
    assert {key: checkpoint[key] for key in kept} == {key: original[key] for key in kept}
    assert all(value.device.type == "cpu" for value in checkpoint["network_weights"].values())


@pytest.mark.parametrize(
    ("options", "trainer"),
    [
        ((), "nnUNetTrainerXAttnResGated"),
        (("--read-gate", "none"), "nnUNetTrainerXAttnRes"),
        (("--skip-mode", "replace"), "nnUNetTrainerXAttnResReplace"),
    ],
)
@every_class
def test_pretrained_weights_takes_it(tmp_path, capsys, options, trainer, network_class):
    """nnU-Net's own loader: every key but the heads' must be there, in the right shape."""
    stock = save_stock(tmp_path / "stock.pth", network_class).state_dict()
    assert invoke(tmp_path / "stock.pth", tmp_path / "up.pth", *options).exit_code == 0
    network = build(TRAINERS[trainer], make_plans(network_class))
    load_pretrained_weights(network, tmp_path / "up.pth")
    loaded = network.state_dict()
    for key, value in stock.items():
        assert torch.equal(loaded[key], value) != (".seg_layers." in key), key
    sum(o.square().mean() for o in network(torch.randn(2, 1, 16, 16))).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_trainer_goes_on_with_it_and_validates(tmp_path, monkeypatch):
    """What --c and --val do: the optimizer's state fits, too."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda _: None)
    save_stock(tmp_path / "stock.pth", change=lambda c: c.update(logging=_log()))
    assert invoke(tmp_path / "stock.pth", tmp_path / "up.pth").exit_code == 0
    plans = make_plans() | {"continue_training": True}
    trainer = TRAINERS["nnUNetTrainerXAttnResGated"](plans, "2d", 0, DATASET, torch.device("cpu"))
    trainer.load_checkpoint(str(tmp_path / "up.pth"))
    sum(o.square().mean() for o in trainer.network(torch.randn(2, 1, 16, 16))).backward()
    trainer.optimizer.step()
    gates = [read.gate for read in trainer.network.reads.values()]
    assert all(gate.any() for gate in gates), "a gate was not trained"


def _log():
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    return LocalLogger().get_checkpoint()


@pytest.mark.parametrize(
    "keep",
    [
        lambda key: not key.startswith("decoder.encoder."),
        lambda key: ".all_modules." not in key,
        lambda key: not (key.startswith("encoder.") or ".conv." in key),
    ],
    ids=["no decoder.encoder", "no all_modules", "only under the other names"],
)
def test_duplicate_keys_may_be_missing(tmp_path, keep):
    def drop(checkpoint):
        checkpoint["network_weights"] = {k: v for k, v in checkpoint["network_weights"].items() if keep(k)}
        assert len(checkpoint["network_weights"]) < 80

    save_stock(tmp_path / "all.pth")
    save_stock(tmp_path / "some.pth", change=drop)
    full, some = (upgrade_checkpoint(tmp_path / f"{n}.pth", "nnUNetTrainerXAttnResGated") for n in ("all", "some"))
    a, b = full.checkpoint["network_weights"], some.checkpoint["network_weights"]
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_of_several_gpus(tmp_path):
    def prefix(checkpoint):
        checkpoint["network_weights"] = {f"module.{k}": v for k, v in checkpoint["network_weights"].items()}

    save_stock(tmp_path / "ddp.pth", change=prefix)
    upgraded = upgrade_checkpoint(tmp_path / "ddp.pth", "nnUNetTrainerXAttnResGated")
    assert not any(key.startswith("module.") for key in upgraded.checkpoint["network_weights"])
    assert upgraded.difference == 0


def test_the_same_bits_each_time_and_the_callers_random_numbers_untouched(tmp_path):
    save_stock(tmp_path / "stock.pth")
    torch.manual_seed(5)
    first = upgrade_checkpoint(tmp_path / "stock.pth", "nnUNetTrainerXAttnRes")
    drawn = torch.rand(1)
    second = upgrade_checkpoint(tmp_path / "stock.pth", "nnUNetTrainerXAttnRes")
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    a, b = (u.checkpoint["network_weights"] for u in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_stock_checkpoint_is_not_changed(tmp_path):
    save_stock(tmp_path / "stock.pth")
    before = (tmp_path / "stock.pth").read_bytes()
    assert invoke(tmp_path / "stock.pth", tmp_path / "up.pth").exit_code == 0
    assert (tmp_path / "stock.pth").read_bytes() == before


class WithGELU(nnUNetTrainer):
    """Another activation: the same keys, the same shapes, other numbers."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        network = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.LeakyReLU):
                    setattr(module, name, torch.nn.GELU())
        return network


class InANewClass(nnUNetTrainer):
    """What it changes changes no number."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )


class OfTheOlderSignature(nnUNetTrainer):
    """As nnU-Net's trainers built their networks before; it still takes them."""

    @staticmethod
    def build_network_architecture(
        architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels,
        num_output_channels, enable_deep_supervision=True,
    ):  # fmt: skip
        return get_network_from_plans(
            architecture_class_name, arch_init_kwargs, arch_init_kwargs_req_import, num_input_channels,
            num_output_channels, deep_supervision=enable_deep_supervision,
        )  # fmt: skip


@pytest.fixture
def found(monkeypatch):
    """Trainers of a user's that nnU-Net finds."""
    there = {trainer.__name__: trainer for trainer in (WithGELU, InANewClass, OfTheOlderSignature)}

    def find(name):
        if name not in there:
            raise RuntimeError(f"Could not find requested nnunet trainer {name} in")
        return there[name]

    monkeypatch.setattr("nnunet_xattnres.nnunet.trainers.recursive_find_trainer_class_by_name", find)


def trained_by(name):
    return lambda checkpoint: checkpoint.update(trainer_name=name)


@pytest.mark.parametrize("options", [(), ("--skip-mode", "replace")])
def test_a_model_whose_trainer_changes_what_the_network_computes_is_refused(tmp_path, found, options):
    """By keys and shapes it is nnU-Net's own network."""
    save_stock(tmp_path / "stock.pth", change=trained_by("WithGELU"))
    done = invoke(tmp_path / "stock.pth", tmp_path / "up.pth", *options)
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and "was trained by WithGELU, whose network computes something else" in said
    assert not (tmp_path / "up.pth").exists()


@pytest.mark.parametrize("trainer", [InANewClass, OfTheOlderSignature])
def test_a_trainer_that_builds_the_same_network_anew_is_checked(tmp_path, found, trainer):
    save_stock(tmp_path / "stock.pth", change=trained_by(trainer.__name__))
    upgraded = upgrade_checkpoint(tmp_path / "stock.pth", "nnUNetTrainerXAttnResGated")
    assert upgraded.difference == 0 and not upgraded.unchecked


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_names_of_wrappers_do_not_matter(tmp_path, prefix):
    def wrap(checkpoint):
        checkpoint["network_weights"] = {f"{prefix}{k}": v for k, v in checkpoint["network_weights"].items()}

    save_stock(tmp_path / "stock.pth", change=wrap)
    assert upgrade_checkpoint(tmp_path / "stock.pth", "nnUNetTrainerXAttnResGated").difference == 0


def test_the_whole_command_for_the_training_is_printed(tmp_path):
    def of_other_plans(checkpoint):
        arguments = checkpoint["init_args"]
        arguments["plans"] = {
            **arguments["plans"],
            "plans_name": "nnUNetResEncUNetMPlans",
            "dataset_name": "Dataset007_X",
        }
        arguments["fold"] = 3

    save_stock(tmp_path / "stock.pth", change=of_other_plans)
    done = invoke(tmp_path / "stock.pth", tmp_path / "my model" / "up.pth")
    command = (
        f"Train with: nnUNetv2_train Dataset007_X 2d 3 -tr nnUNetTrainerXAttnResGated -p nnUNetResEncUNetMPlans "
        f"-pretrained_weights '{tmp_path / 'my model' / 'up.pth'}'"
    )
    assert done.exit_code == 0 and command in done.output


@pytest.mark.parametrize(
    ("trainer", "trains"),
    [
        ("nnUNetTrainer_250epochs", "nnUNetTrainerXAttnResGated__nnUNetTestPlans"),
        ("nnUNetTrainerDA5", "nnUNetTrainerDA5__nnUNetTestPlansXAttnResGated"),
    ],
)
def test_the_second_stage_of_a_cascade_needs_the_masks_of_the_first(tmp_path, trainer, trains):
    """nnU-Net looks for them under the names of the training that needs them, and its workers die without them."""

    def second(checkpoint):
        plans = copy.deepcopy(checkpoint["init_args"]["plans"])
        plans["configurations"]["2d"]["previous_stage"] = "2d_low"
        plans["dataset_name"] = "Dataset007_X"
        dataset = DATASET | {"channel_names": {}}  # the network's one input is the first stage's label
        checkpoint["init_args"] = {**checkpoint["init_args"], "plans": plans, "dataset_json": dataset}
        checkpoint["trainer_name"] = trainer

    save_stock(tmp_path / "stock.pth", change=second)
    done = invoke(tmp_path / "stock.pth", tmp_path / "up.pth")
    masks = "__2d_low/predicted_next_stage"
    said = f"copy Dataset007_X/{trainer}__nnUNetTestPlans{masks} to Dataset007_X/{trains}{masks}."
    assert done.exit_code == 0 and said in done.output
    save_stock(tmp_path / "single.pth")
    assert "first stage" not in invoke(tmp_path / "single.pth", tmp_path / "up2.pth").output


def test_a_checkpoint_is_named_from_within_its_folder(tmp_path, monkeypatch):
    save_stock(tmp_path / "fold_0" / "checkpoint_final.pth", change=lambda c: c["init_args"].pop("plans"))
    (tmp_path / "plans.json").write_text(json.dumps(make_plans()))
    monkeypatch.chdir(tmp_path / "fold_0")
    done = invoke("checkpoint_final.pth", "up.pth")
    assert done.exit_code == 0, done.output


def of(trainer, axes=(0, 1)):
    return lambda checkpoint: checkpoint.update(trainer_name=trainer, inference_allowed_mirroring_axes=axes)


@pytest.mark.parametrize(
    ("stock", "axes"),
    [
        ("nnUNetTrainerNoMirroring", None),
        ("nnUNetTrainer_250epochs_NoMirroring", None),
        ("nnUNetTrainer_onlyMirror01", (0, 1)),
        ("nnUNetTrainerDA5", (0, 1)),
        ("nnUNetTrainer", None),
        ("nnUNetTrainer_5epochs", (0,)),
    ],
)
def test_a_model_of_another_trainer_keeps_it(tmp_path, stock, axes):
    """nnUNetTrainerXAttnResGated mirrors in all axes, also where left and right are different labels."""
    save_stock(tmp_path / "stock.pth", change=of(stock, axes))
    done = invoke(tmp_path / "stock.pth", tmp_path / "up.pth")
    plan = "nnunet-xattnres plan -d Dataset001_Test -p nnUNetTestPlans -o nnUNetTestPlansXAttnResGated --read-gate zero"
    train = f"-tr {stock} -p nnUNetTestPlansXAttnResGated -pretrained_weights {tmp_path / 'up.pth'}"
    assert done.exit_code == 0 and done.output.splitlines()[-2:] == [
        f"Train with: {plan}",
        f"then: nnUNetv2_train Dataset001_Test 2d 0 {train}",
    ]


@pytest.mark.parametrize("stock", ["nnUNetTrainer", "nnUNetTrainer_1epoch", "nnUNetTrainer_250epochs"])
def test_a_model_of_nnunets_own_trainer_takes_ours(tmp_path, stock):
    save_stock(tmp_path / "stock.pth", change=of(stock))
    done = invoke(tmp_path / "stock.pth", tmp_path / "up.pth")
    assert "Train with: nnUNetv2_train Dataset001_Test 2d 0 -tr nnUNetTrainerXAttnResGated " in done.output


@pytest.mark.parametrize("options", [(), ("--read-gate", "none"), ("--skip-mode", "replace")])
@every_class
def test_the_plans_that_are_named_take_the_weights(tmp_path, monkeypatch, options, network_class):
    folder = tmp_path / "Dataset001_Test"
    folder.mkdir()
    (folder / "nnUNetTestPlans.json").write_text(json.dumps(make_plans(network_class)))
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    stock = save_stock(tmp_path / "stock.pth", network_class, of("nnUNetTrainerNoMirroring", None)).state_dict()
    said = invoke(tmp_path / "stock.pth", tmp_path / "up.pth", *options).output.splitlines()
    plan, train = (shlex.split(line.partition(": ")[2]) for line in said[-2:])
    assert CliRunner().invoke(app, plan[1:]).exit_code == 0
    plans = json.loads((folder / f"{train[train.index('-p') + 1]}.json").read_text())
    network = build(nnUNetTrainerNoMirroring, plans)
    load_pretrained_weights(network, train[-1])
    upgraded, loaded = load(tmp_path / "up.pth")["network_weights"], network.state_dict()
    assert upgraded.keys() == loaded.keys() > stock.keys()
    for key, value in upgraded.items():
        assert torch.equal(loaded[key], value) != (".seg_layers." in key), key


# --- a model folder


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "nnU Net results" / "nnUNetTrainer__nnUNetPlans__2d"
    for fold in ("0", "3"):
        for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
            save_stock(folder / f"fold_{fold}" / name)
    masks = ("fold_0/validation/a.nii.gz", "fold_0/validation/a.npz", "fold_0/validation/a.pkl")
    results = ("fold_0/validation/summary.json", "fold_0/progress.png", "crossval_results_folds_0_3/postprocessing.pkl")
    for name in (*masks, *results):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of the stock network")
    (folder / "plans.json").write_text(json.dumps(make_plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


@pytest.mark.parametrize("gated", [True, False])
def test_a_model_folder(model, tmp_path, gated):
    trainer = "nnUNetTrainerXAttnResGated" if gated else "nnUNetTrainerXAttnResReplace"
    out = tmp_path / f"{trainer}__nnUNetPlans__2d"
    done = invoke(model, out, "--model-folder", "--skip-mode", "add" if gated else "replace")
    assert done.exit_code == 0, done.output
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    checkpoints = {f"fold_{fold}/checkpoint_{name}.pth" for fold in (0, 3) for name in ("best", "final")}
    results = {"fold_0/validation/summary.json", "fold_0/progress.png", "crossval_results_folds_0_3/postprocessing.pkl"}
    results.add("fold_0/validation/a.nii.gz")  # a summary without its masks breaks nnU-Net's commands for all folds
    # of a network that computes something else, the stock network's results would be a lie
    assert names == checkpoints | {"plans.json", "dataset.json"} | (results if gated else set())
    for name in checkpoints:
        assert load(out / name)["trainer_name"] == trainer
        assert name in done.output


def test_a_trainer_that_is_not_found_is_said_and_no_results_are_copied(model, tmp_path, found):
    """The claim that the new network computes the same could not be checked."""
    done = invoke(model, tmp_path / "out", "--model-folder")
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and "could not be checked: nnU-Net finds no trainer 'nnUNetTrainer' here" in said
    assert "logits differ" not in said and "The results of the trained model were not copied" in said
    upgraded = upgrade_checkpoint(model / "fold_0" / "checkpoint_final.pth", "nnUNetTrainerXAttnResGated")
    assert math.isnan(upgraded.difference)
    assert not list((tmp_path / "out").rglob("summary.json")) and not list((tmp_path / "out").rglob("*.pkl"))
    assert (tmp_path / "out" / "fold_0" / "progress.png").is_file(), "without it nnU-Net's export fails"


def test_slim_checkpoints_take_plans_and_dataset_from_their_folder(model, tmp_path):
    """As nnU-Net's prediction does."""
    for file in model.rglob("checkpoint_*.pth"):
        content = load(file)
        slim = {"network_weights": content["network_weights"], "trainer_name": "nnUNetTrainer",
                "init_args": {"configuration": "2d"}}  # fmt: skip
        torch.save(slim, file)
    assert invoke(model, tmp_path / "out", "--model-folder").exit_code == 0
    done = invoke(model / "fold_3" / "checkpoint_final.pth", tmp_path / "up.pth")
    assert done.exit_code == 0 and "-p nnUNetTestPlans" in done.output
    assert load(tmp_path / "up.pth")["init_args"]["plans"]["plans_name"] == "nnUNetTestPlans"
    (model / "plans.json").unlink()
    done = invoke(model / "fold_3" / "checkpoint_final.pth", tmp_path / "up2.pth")
    assert done.exit_code == 1 and "lack 'plans'" in done.output


def test_force_replaces_a_model_and_nothing_else(model, tmp_path):
    out = tmp_path / "out"
    assert invoke(model, out, "--model-folder").exit_code == 0
    (out / "fold_9").mkdir()
    assert invoke(model, out, "--model-folder").exit_code == 1
    assert invoke(model, out, "--model-folder", "--force").exit_code == 0
    assert not (out / "fold_9").exists()
    (out / "notes.txt").write_text("years")
    assert invoke(model, out, "--model-folder", "--force").exit_code == 0
    assert (out / "notes.txt").read_text() == "years"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years")
    done = invoke(model, mine, "--model-folder", "--force")
    assert done.exit_code == 1 and "is no folder of a trained model" in " ".join(done.output.split())
    assert (mine / "thesis.tex").read_text() == "years"


def test_a_model_that_is_being_trained_or_has_given_masks_is_not_replaced(model, tmp_path):
    out = tmp_path / "out"
    assert invoke(model, out, "--model-folder").exit_code == 0
    names = whole(out)
    lock = locked(out / "fold_3", print)
    done = invoke(model, out, "--model-folder", "--force")
    assert done.exit_code == 1 and "another training is writing to" in done.output
    lock.release()
    (out / "predicted_next_stage").mkdir()
    done = invoke(model, out, "--model-folder", "--force")
    assert done.exit_code == 1 and "predicted_next_stage holds masks by the model" in " ".join(done.output.split())
    assert set(names) < set(whole(out))
    (out / "predicted_next_stage").rmdir()
    assert invoke(model, out, "--model-folder", "--force").exit_code == 0 and whole(out) == names


def test_a_model_is_not_lost_while_it_is_replaced(model, tmp_path, monkeypatch):
    """Another process holds a file of it, say."""
    out = tmp_path / "out"
    assert invoke(model, out, "--model-folder").exit_code == 0
    names = whole(out)

    def half(path, ignore_errors=False):
        if (Path(path) / "plans.json").exists():
            (Path(path) / "plans.json").unlink()
            if not ignore_errors:
                raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", half)
        invoke(model, out, "--model-folder", "--force")
    assert whole(out) == names


def whole(folder):
    """What is in it and no rest of what was."""
    return sorted(path for entry in content_of(folder) for path in (entry, *entry.rglob("*")))


def test_what_is_read_is_not_replaced(model, tmp_path):
    """Neither under another name nor with a folder around it."""
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    link = tmp_path / "link"
    link.symlink_to(model)
    inner = model / "fold_0" / "inner"
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy").rename(inner)
    checkpoint = Path("fold_0") / "checkpoint_final.pth"
    for source, out, *options in (
        (model, model, "--model-folder"),
        (model, link, "--model-folder"),
        (inner, model, "--model-folder"),
        (model / checkpoint, model / checkpoint),
        (model / checkpoint, link / checkpoint),
    ):
        done = invoke(source, out, *options, "--force")
        assert done.exit_code == 1 and "which is to be read; name another" in " ".join(done.output.split())
        assert "--force" not in invoke(source, out, *options).output
    assert {path: path.read_bytes() for path in before} == before


def test_the_current_folder_as_the_new_one(model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = invoke(model, ".", "--model-folder")
    assert done.exit_code == 0 and Path("fold_0/checkpoint_final.pth").is_file() and Path("plans.json").is_file()
    done = invoke(model / "fold_0" / "checkpoint_final.pth", ".", "--force")
    assert done.exit_code == 1 and "is a folder; name a file" in done.output


def test_a_folder_without_the_option(model, tmp_path):
    done = invoke(model, tmp_path / "up.pth")
    assert done.exit_code == 1
    assert "name one of them, or upgrade the folder with --model-folder" in " ".join(done.output.split())
    (model / "fold_3" / "checkpoint_final.pth").unlink()
    assert invoke(model, tmp_path / "up.pth").exit_code == 0
    assert load(tmp_path / "up.pth")["upgraded_from"]["file"] == str(model / "fold_0" / "checkpoint_final.pth")


def test_a_folder_is_written_whole_or_not_at_all(model, tmp_path):
    damaged = model / "fold_3" / "checkpoint_final.pth"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    done = invoke(model, tmp_path / "out", "--model-folder")
    assert done.exit_code == 1 and "fold_3/checkpoint_final.pth is damaged" in done.output.replace("\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {model.parent.name}


# --- what is refused


@pytest.mark.parametrize("options", [(), ("--model-folder",)])
def test_a_full_disk_leaves_nothing_behind(model, tmp_path, disk_full_at, options):
    source = model if options else model / "fold_0" / "checkpoint_final.pth"
    with disk_full_at(10_000):
        done = invoke(source, tmp_path / "out", *options)
    assert done.exit_code == 1 and "is the disk full?" in done.output, done.output
    assert {path.name for path in tmp_path.iterdir()} == {model.parent.name}


def test_what_exists_is_not_overwritten(model, tmp_path):
    out = tmp_path / "mine"
    out.write_text("mine")
    for options in ((), ("--model-folder",)):
        source = model if options else model / "fold_0" / "checkpoint_final.pth"
        done = invoke(source, out, *options)
        assert done.exit_code == 1 and "exists: name another, or replace it with --force" in " ".join(
            done.output.split()
        )
    assert out.read_text() == "mine"


def test_of_jobs_that_write_one_file_at_once_the_first_wins_and_the_others_say_so(model, tmp_path, monkeypatch):
    """Else a fold starts from the weights of another one, which has seen its validation cases."""
    out = tmp_path / "start.pth"

    def meanwhile(checkpoint, path):
        monkeypatch.undo()
        done = invoke(model / "fold_0" / "checkpoint_final.pth", out)
        assert done.exit_code == 0, done.output
        torch.save(checkpoint, path)

    monkeypatch.setattr("nnunet_xattnres.commands.upgrade._save", meanwhile)
    done = invoke(model / "fold_3" / "checkpoint_final.pth", out)
    assert done.exit_code == 1 and "start.pth exists: name another" in " ".join(done.output.split()), done.output
    assert "fold_0" in load(out)["upgraded_from"]["file"]
    assert {path.name for path in tmp_path.iterdir()} == {model.parent.name, "start.pth"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("network_weights"), "no checkpoint of nnU-Net v2"),
        (lambda c: c["init_args"].pop("configuration"), "does not say which training it is of"),
        (lambda c: c["init_args"].update(configuration="3d"), "nnU-Net makes no network of the configuration '3d'"),
        (lambda c: c["network_weights"].pop("decoder.seg_layers.0.weight"), "it lacks decoder.seg_layers.0.weight"),
        (lambda c: c["network_weights"].update(extra=torch.zeros(1)), "no extra"),
        (lambda c: c["network_weights"].update({"reads.e3.pseudo_query": torch.zeros(8)}), "has reads already"),
        (
            lambda c: c["network_weights"].update({"decoder.transpconvs.0.bias": torch.zeros(3)}),
            r"has \(3,\), not \(8,\)",
        ),
    ],
)
def test_another_network(tmp_path, change, message):
    save_stock(tmp_path / "stock.pth", change=change)
    with pytest.raises(UserError, match=message):
        upgrade_checkpoint(tmp_path / "stock.pth", "nnUNetTrainerXAttnResGated")


def test_what_the_command_refuses(tmp_path):
    save_stock(tmp_path / "stock.pth")
    for arguments, message in (
        ((tmp_path / "no.pth", tmp_path / "up.pth"), "does not exist"),
        ((tmp_path / "stock.pth", tmp_path / "up", "--model-folder"), "is a file"),
        ((tmp_path, tmp_path / "up", "--model-folder"), "is no folder of a trained model"),
        (
            (tmp_path / "stock.pth", tmp_path / "up.pth", "--skip-mode", "replace", "--read-gate", "zero"),
            "cannot start",
        ),
        *(
            (
                (tmp_path / "stock.pth", tmp_path / "up.pth", "--network", name),
                f"{kind.title} cannot start from a stock",
            )
            for name, kind in KINDS.items()
            if name != "xattnres"
        ),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 1 and message in " ".join(done.output.split()), done.output
        assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["stock.pth"]


def test_every_trainer_for_a_warm_start_exists():
    for skip_mode, gate in (("add", "zero"), ("add", "none"), ("replace", "none")):
        assert trainer_for(skip_mode, gate) in TRAINERS


DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "warm-start.md"
TRAINERS_OF_THE_TABLE = ("nnUNetTrainer", "nnUNetTrainerXAttnRes", "nnUNetTrainerXAttnResReplace",
                         "nnUNetTrainerXAttnResDecoderReads", "nnUNetTrainerXAttnResGated",
                         "nnUNetTrainerNoSkip", "nnUNetTrainerXAttnResBlock")  # fmt: skip


def what_is_left_out(network, path):
    """What nnU-Net's loader makes of a file, in the words of the table."""
    there = torch.load(path)["network_weights"].keys() - network.state_dict().keys()
    try:
        load_pretrained_weights(network, path)
    except AssertionError:
        return "error"
    if not getattr(network, "reads", {}):
        left = ["reads"] if there else []
    else:
        left = ["encoder reads"] if "reads.e3.pseudo_query" in there else []
        left += ["gates"] if any(key.endswith("d1.gate") for key in there) else []
    assert bool(left) == bool(there)
    return f"without {' and '.join(left)}" if left else "all"


def test_the_table_of_which_weights_fit_which_trainer(tmp_path):
    rows = [line.strip("| ").split(" | ") for line in DOCUMENTED.read_text(encoding="utf-8").splitlines()
            if line.startswith("| `nnUNetTrainer")]  # fmt: skip
    assert [row[0].strip("`") for row in rows] == list(TRAINERS_OF_THE_TABLE)
    trainers = {**TRAINERS, "nnUNetTrainer": nnUNetTrainer}
    for of, *said in rows:
        torch.save({"network_weights": build(trainers[of.strip("`")], make_plans()).state_dict()}, tmp_path / "a.pth")
        found = [
            what_is_left_out(build(trainers[to], make_plans()), tmp_path / "a.pth") for to in TRAINERS_OF_THE_TABLE
        ]
        assert found == said, of
