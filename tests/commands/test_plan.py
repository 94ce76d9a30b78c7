"""Plans with reads: what is changed, what is not, and that trainers and plans build the same network."""

import json
import os
import pydoc
import shutil
from dataclasses import asdict

import pytest
import torch
from helpers.networks import KINDS as TESTED
from helpers.plans import CLASSES, build, make_plans
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from typer.testing import CliRunner

from nnunet_xattnres.cli import app
from nnunet_xattnres.commands.plan import plans_with_network, write_plans_with_network
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import write_json
from nnunet_xattnres.networks.configs import EMCADConfig, ReadConfig, UNet3PlusConfig
from nnunet_xattnres.networks.registry import KINDS, plan_options
from nnunet_xattnres.training.epochs import TRAINERS

ADD = ReadConfig(skip_mode="add", encoder_reads=True, read_gate="none")


def invoke(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_the_command_changes_the_networks_and_the_name_and_nothing_else(folder):
    before = (folder / "nnUNetPlans.json").read_text()
    done = invoke("-d", 1)
    assert done.exit_code == 0, done.output
    assert "nnUNetv2_train 1 2d 0 -p nnUNetXAttnResPlans" in done.output
    assert (folder / "nnUNetPlans.json").read_text() == before
    old, new = json.loads(before), json.loads((folder / "nnUNetXAttnResPlans.json").read_text())
    assert new["plans_name"] == "nnUNetXAttnResPlans"
    assert "architecture" not in new["configurations"]["3d_cascade_fullres"]
    for name in ("2d", "3d_lowres"):
        architecture = new["configurations"][name]["architecture"]
        assert architecture["network_class_name"] == "nnunet_xattnres.unet.XAttnResUNet"
        architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
        for key, value in asdict(ADD).items():
            assert architecture["arch_kwargs"].pop(key) == value
    assert new | {"plans_name": "nnUNetPlans"} == old


@pytest.mark.parametrize(
    ("options", "trainer"),
    [
        ((), "nnUNetTrainerXAttnRes"),
        (("--skip-mode", "replace"), "nnUNetTrainerXAttnResReplace"),
        (("--decoder-reads-only",), "nnUNetTrainerXAttnResDecoderReads"),
        (("--skip-mode", "none"), "nnUNetTrainerNoSkip"),
        (("--read-gate", "zero"), "nnUNetTrainerXAttnResGated"),
        *(
            (("--network", name), row.trainer)
            for name, kind in KINDS.items()
            for row in TESTED.values()
            if row.config == kind.config()
        ),
    ],
)
@pytest.mark.parametrize("network_class", CLASSES)
def test_the_plans_build_what_the_trainer_builds(folder, options, trainer, network_class):
    (folder / "nnUNetPlans.json").write_text(json.dumps(make_plans(network_class)))
    assert invoke("-d", "Dataset001_Test", "-o", "nnUNetPlansMine", *options).exit_code == 0
    torch.manual_seed(0)
    by_plans = build(nnUNetTrainer, json.loads((folder / "nnUNetPlansMine.json").read_text()))
    torch.manual_seed(0)
    by_trainer = build(TRAINERS[trainer], make_plans(network_class))
    assert type(by_plans) is type(by_trainer) and type(by_plans).__module__.startswith("nnunet_xattnres.networks.")
    x = torch.randn(2, 1, 16, 16)
    for a, b in zip(by_plans.eval()(x), by_trainer.eval()(x), strict=True):
        assert torch.equal(a, b)
    by_plans.load_state_dict(by_trainer.state_dict(), strict=True)


@pytest.mark.parametrize("config", [row.config for name, row in TESTED.items() if name != "plain"])
def test_the_options_that_messages_name_are_the_commands(folder, config):
    assert invoke("-d", 1, "-o", "nnUNetPlansMine", *plan_options(config)).exit_code == 0
    found = json.loads((folder / "nnUNetPlansMine.json").read_text())
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    assert found == json.loads(json.dumps(plans_with_network(plans, "nnUNetPlansMine", config)[0]))


def test_the_options_of_what_no_trainer_of_ours_or_no_plans_have():
    assert plan_options(UNet3PlusConfig(width=8)) == ["--network", "unet3plus", "--width", "8"]
    assert plan_options(EMCADConfig()) is None and plan_options(None) is None


@pytest.mark.parametrize(("network", "kind"), KINDS.items())
def test_plans_of_each_kind_have_a_name_of_their_own_and_a_class_that_is_there(folder, network, kind):
    done = invoke("-d", 1, "--network", network)
    assert done.exit_code == 0, done.output
    plans = json.loads((folder / f"{kind.plans_name}.json").read_text())
    assert plans["plans_name"] == kind.plans_name
    assert pydoc.locate(plans["configurations"]["2d"]["architecture"]["network_class_name"])
    assert f"-p {kind.plans_name}" in done.output
    again = json.loads((folder / "nnUNetPlans.json").read_text())
    with pytest.raises(UserError, match="are ours already"):
        plans_with_network({**again, **plans}, "another", ADD)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("unet3plus", ("--skip-mode", "replace"), "--skip-mode is no option of UNet 3+"),
        ("unet3plus", ("--decoder-reads-only",), "--decoder-reads-only is no option of UNet 3+"),
        ("xattnres", ("--width", 8), "--width is no option of XAttnRes"),
        ("xattnres", ("--encoder-isar",), "--encoder-isar is no option of XAttnRes"),
        ("unet3plus", ("--memory", "all"), "--memory is no option of UNet 3+"),
        ("block", ("--skip-mode", "replace"), "--skip-mode is no option of block-level XAttnRes"),
        ("uctransnet", ("--read-gate", "zero"), "--read-gate is no option of UCTransNet"),
    ],
)
def test_an_option_that_a_network_does_not_have_is_refused(folder, network, options, message):
    done = invoke("-d", 1, "--network", network, *options)
    assert done.exit_code == 1 and message in " ".join(done.output.split())
    assert [file.name for file in folder.iterdir()] == ["nnUNetPlans.json"]


def test_the_width_stands_in_the_plans(folder):
    assert invoke("-d", 1, "--network", "unet3plus", "--width", 6).exit_code == 0
    plans = json.loads((folder / "nnUNetUNet3PlusPlans.json").read_text())
    assert build(nnUNetTrainer, plans).width == 6


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), ("all", False)), (("--memory", "as_published", "--encoder-isar"), ("as_published", True))],
)
def test_what_blocks_read_stands_in_the_plans(folder, options, expected):
    assert invoke("-d", 1, "--network", "block", *options).exit_code == 0
    network = build(nnUNetTrainer, json.loads((folder / "nnUNetXAttnResBlockPlans.json").read_text()))
    assert (network.memory, network.encoder_isar) == expected


def test_the_patch_size_stands_in_the_plans_also_where_a_configuration_inherits_its_network_or_its_patch(folder):
    plans = make_plans()
    plans["configurations"]["2d_larger"] = {"inherits_from": "2d", "patch_size": [32, 16]}
    other = plans["configurations"]["2d_renormed"] = {"inherits_from": "2d_larger"}
    other["architecture"] = plans["configurations"]["2d"]["architecture"]
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    assert invoke("-d", 1, "--network", "uctransnet").exit_code == 0
    new = json.loads((folder / "nnUNetUCTransNetPlans.json").read_text())
    assert [build(nnUNetTrainer, new, configuration=name).cct.grid for name in ("2d", "2d_larger", "2d_renormed")] == [
        (4, 4),
        (8, 4),
        (8, 4),
    ]
    by_trainer = build(TRAINERS["nnUNetTrainerUCTransNet"], plans, configuration="2d_larger")
    build(nnUNetTrainer, new, configuration="2d_larger").load_state_dict(by_trainer.state_dict(), strict=True)


def test_a_cascade_follows_the_configuration_that_it_inherits_from(folder):
    assert invoke("-d", 1).exit_code == 0
    manager = PlansManager(str(folder / "nnUNetXAttnResPlans.json"))
    configuration = manager.get_configuration("3d_cascade_fullres")
    assert configuration.previous_stage_name == "3d_lowres"
    network = nnUNetTrainer.build_network_architecture(manager, configuration, 2, 2, False)
    assert type(network).__name__ == "XAttnResUNet" and list(network.reads) == ["e3", "d1", "d2"]


def test_a_network_that_cannot_have_reads_stays_as_it_is(folder):
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "my.nets.Transformer"
    new, outcome = plans_with_network(plans, "new", ADD)
    assert outcome["2d"].startswith("stays as it is: my.nets.Transformer")
    assert outcome["3d_lowres"] == "nnunet_xattnres.unet.XAttnResUNet"
    assert new["configurations"]["2d"] == plans["configurations"]["2d"]


@pytest.mark.parametrize("network_class", CLASSES)
def test_plans_of_the_old_format_are_those_that_nnunet_makes_of_them(network_class):
    """As nnU-Net wrote them before 2.4, and as it still trains them."""
    plans = make_plans(network_class)
    configuration = plans["configurations"]["2d"]
    kwargs = configuration.pop("architecture")["arch_kwargs"]
    blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in kwargs else "n_conv_per_stage"
    configuration |= {
        "UNet_class_name": network_class.rpartition(".")[2],
        "UNet_base_num_features": 4,
        "unet_max_num_features": 16,
        "n_conv_per_stage_encoder": kwargs[blocks],
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [2, 2],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }
    plans["configurations"] |= {
        "wide": {"inherits_from": "2d", "UNet_base_num_features": 8},
        "small": {"inherits_from": "2d", "batch_size": 1},
    }
    before = json.dumps(plans)
    new, outcome = plans_with_network(plans, "new", ADD)
    assert json.dumps(plans) == before and list(outcome) == ["2d", "wide"]
    for name in plans["configurations"]:
        stock, ours = (build(nnUNetTrainer, p, configuration=name).state_dict() for p in (plans, new))
        assert stock.keys() < ours.keys() and all(ours[key].shape == value.shape for key, value in stock.items()), name


def only(change):
    plans = make_plans()
    change(plans["configurations"])
    return plans


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        (
            make_plans("my.nets.Transformer"),
            "no configuration of the plans 'nnUNetTestPlans' can have a network of XAttnRes.*'2d' stays",
        ),
        (only(lambda c: c["2d"].update(UNet_class_name=c["2d"].pop("architecture"))), "old.*nnUNetv2_plan_experiment"),
        (only(lambda c: c["2d"]["architecture"].pop("arch_kwargs")), "lack arch_kwargs.*'2d'"),
        (plans_with_network(make_plans(), "nnUNetXAttnResPlans", ADD)[0], "are ours already.*-p"),
    ],
)
def test_plans_that_cannot_have_reads_are_refused(folder, plans, message):
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match=message):
        write_plans_with_network(folder, "nnUNetPlans", "nnUNetXAttnResPlans", ADD)
    assert [file.name for file in folder.iterdir()] == ["nnUNetPlans.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("-d", 1, "-p", "nnUNetOtherPlans"),
            r"nnUNetOtherPlans.json does not exist; in that folder there are: nnUNetPlans",
        ),
        (("-d", 1, "-o", "nnUNetPlans"), "would replace"),
        (("-d", 1, "-o", "dataset", "--force"), "nnU-Net keeps something else in dataset.json"),
        (("-d", 7), "Could not find a dataset with the ID 7"),
        (("-d", "hippocampus"), "hippocampus"),
        (("-d", "Dataset007_No"), "nnUNetv2_plan_and_preprocess -d 7`"),
        (("-d", 1, "--skip-mode", "replace", "--read-gate", "zero"), "needs skip_mode 'add'"),
    ],
)
def test_what_the_command_refuses(folder, arguments, message):
    done = invoke(*arguments)
    assert done.exit_code == 1 and message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert [file.name for file in folder.iterdir()] == ["nnUNetPlans.json"]


NO_NAMES = ("a folder/x", "../x", r"C:\x", "x:y", "x?", " ", "..", "two\nlines", "my__plans", "_plans", "plans_")


@pytest.mark.parametrize("name", NO_NAMES)
def test_the_new_plans_have_a_name_and_no_path(folder, name):
    done = invoke("-d", 1, "-o", name)
    assert done.exit_code == 1 and "name of the new plans, not a path" in done.output
    assert [file.name for file in folder.iterdir()] == ["nnUNetPlans.json"]


def test_the_old_plans_under_another_name_are_not_replaced(folder):
    """As where the file system does not tell small letters from capitals."""
    old = folder / "nnUNetPlans.json"
    content = old.read_text()
    os.link(old, folder / "nnunetplans.json")
    done = invoke("-d", 1, "-o", "nnunetplans", "--force")
    assert done.exit_code == 1 and "the new plans would replace 'nnUNetPlans'" in " ".join(done.output.split())
    assert old.read_text() == content


def test_plans_of_another_make_are_not_overwritten(folder):
    mine = folder / "nnUNetXAttnResPlans.json"
    mine.write_text((folder / "nnUNetPlans.json").read_text())
    done = invoke("-d", 1)
    assert done.exit_code == 1 and "skip_mode is None there" in " ".join(done.output.split())


def test_plans_of_another_mode_are_not_replaced_silently(folder):
    """A trained model would run in a different network with the same keys."""
    mine = folder / "nnUNetXAttnResPlans.json"
    assert invoke("-d", 1).exit_code == 0 and invoke("-d", 1).exit_code == 0  # the same again
    before = mine.read_text()
    done = invoke("-d", 1, "--skip-mode", "replace")
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and mine.read_text() == before
    assert "in '2d' skip_mode is 'add' there, and would be 'replace'" in said
    assert "-o nnUNetXAttnResPlans2, or replace those there with --force" in said
    assert invoke("-d", 1, "--skip-mode", "replace", "-o", "nnUNetXAttnResPlans2").exit_code == 0
    assert "-o nnUNetXAttnResPlans3" in " ".join(invoke("-d", 1, "--decoder-reads-only").output.split())
    assert invoke("-d", 1, "--skip-mode", "replace", "--force").exit_code == 0
    kwargs = json.loads(mine.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert kwargs["skip_mode"] == "replace"


def test_plans_that_differ_elsewhere_are_not_replaced_either(folder):
    assert invoke("-d", 1).exit_code == 0
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["batch_size"] = 7
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    done = invoke("-d", 1)
    assert done.exit_code == 1 and "the configuration '2d' differs" in " ".join(done.output.split())


def test_without_nnunets_folders(folder, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    done = invoke("-d", 1)
    assert done.exit_code == 1 and "nnUNet_preprocessed is not set" in " ".join(done.output.split())


@pytest.mark.parametrize("content", ["{", "[]", '{"plans_name": "x"}'])
def test_a_file_that_is_no_plans_file(folder, content):
    (folder / "nnUNetPlans.json").write_text(content)
    done = invoke("-d", 1)
    assert (
        done.exit_code == 1 and "nnUNetPlans.json" in done.output.replace("\n", "") and "Traceback" not in done.output
    )


def test_a_full_disk_leaves_the_plans_that_are_there(folder, disk_full_at):
    assert invoke("-d", 1).exit_code == 0
    before = (folder / "nnUNetXAttnResPlans.json").read_text()
    with disk_full_at(500):
        done = invoke("-d", 1, "--skip-mode", "replace", "--force")
    assert done.exit_code == 1 and "File too large" in done.output
    assert (folder / "nnUNetXAttnResPlans.json").read_text() == before and not list(folder.glob(".partial-*"))


@pytest.mark.parametrize("command", ["plan", "repeat"])
def test_another_that_writes_the_same_name_at_once_is_not_overwritten(folder, monkeypatch, command):
    """Before there was a file; the same content is no conflict."""
    name = {"plan": "nnUNetXAttnResPlans", "repeat": "nnUNetPlans_rep1"}[command]
    arguments = {"plan": (), "repeat": ("-n", 1)}[command]

    def run(changed):
        def meanwhile(content, path, **options):
            path.write_text(json.dumps({**content, **changed}))
            write_json(content, path, **options)

        (folder / f"{name}.json").unlink(missing_ok=True)
        monkeypatch.setattr(f"nnunet_xattnres.commands.{command}.write_json", meanwhile)
        return CliRunner().invoke(app, [command, "-d", "1", *map(str, arguments)])

    assert run({}).exit_code == 0
    done = run({"original_median_shape_after_transp": [1, 2, 3]})
    assert done.exit_code == 1 and f"{name}.json exists" in done.output.replace("\n", ""), done.output
    assert json.loads((folder / f"{name}.json").read_text())["original_median_shape_after_transp"] == [1, 2, 3]


def repeat(*arguments):
    return CliRunner().invoke(app, ["repeat", *map(str, arguments)])


def test_repeats_are_copies_under_other_names(folder):
    done = repeat("-d", 1, "-n", 2)
    assert done.exit_code == 0, done.output
    original = json.loads((folder / "nnUNetPlans.json").read_text())
    for i in (1, 2):
        copy = json.loads((folder / f"nnUNetPlans_rep{i}.json").read_text())
        assert copy["plans_name"] == f"nnUNetPlans_rep{i}" and copy | {"plans_name": "nnUNetPlans"} == original
    assert not (folder / "nnUNetPlans_rep3.json").exists()
    assert repeat("-d", 1, "-n", 3).exit_code == 0  # more of them, and the others as they were
    assert (folder / "nnUNetPlans_rep3.json").exists()


def test_what_cannot_be_repeated(folder):
    assert "nnUNetOther.json does not exist" in repeat("-d", 1, "-p", "nnUNetOther").output.replace("\n", "")
    shutil.copy(folder / "nnUNetPlans.json", folder / "mine_.json")
    assert "takes the names of its folders apart at __" in repeat("-d", 1, "-p", "mine_").output.replace("\n", " ")
    (folder / "mine_.json").unlink()
    repeat("-d", 1, "-n", 1)
    assert "is a repeat already" in repeat("-d", 1, "-p", "nnUNetPlans_rep1").output
    file = folder / "nnUNetPlans_rep1.json"
    file.write_text(file.read_text().replace('"batch_size": 2', '"batch_size": 3'))
    before = file.read_text()
    done = repeat("-d", 1, "-n", 2)
    assert done.exit_code == 1 and "is no copy of nnUNetPlans" in " ".join(done.output.split())
    assert file.read_text() == before and not (folder / "nnUNetPlans_rep2.json").exists()
    assert repeat("-d", 1, "-n", 2, "--force").exit_code == 0
    assert file.read_text() != before and (folder / "nnUNetPlans_rep2.json").exists()
