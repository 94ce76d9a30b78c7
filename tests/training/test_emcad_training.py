"""EMCAD's trainers: the recipe, full-size targets, and weights from ImageNet: there, or an error; never random ones."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import build, make_plans
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from torch import nn

from nnunet_xattnres.commands.plan import plans_with_network
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.networks.configs import ReadConfig
from nnunet_xattnres.training.emcad import WEIGHTS
from nnunet_xattnres.training.emcad_loss import EMCADLoss
from nnunet_xattnres.training.epochs import TRAINERS

B0 = "nnUNetTrainerEMCADB0"
RANDOM = "nnUNetTrainerEMCADB0XAttnResRandomInit"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as timm has it, for PVTv2-b0."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "pvt_v2_b0.pth"
    torch.save(timm.create_model("pvt_v2_b0").state_dict(), path)
    return path


@pytest.fixture
def no_timm(monkeypatch):
    """A machine without a connection; fails for who asks though it may not."""
    import timm

    original, asked = timm.create_model, []

    def create(name, *args, pretrained=False, **options):
        if pretrained and not (options.get("pretrained_cfg_overlay") or {}).get("file"):
            asked.append(name)
            raise OSError("no route to huggingface.co")
        return original(name, *args, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.delenv(WEIGHTS, raising=False)
    return asked


def start(trainer, monkeypatch):
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda _: None)
    try:
        trainer.on_train_start()
    finally:
        trainer._unlock()
    return "".join(file.read_text() for file in Path(trainer.output_folder).glob("training_log_*.txt"))


def has(trainer, path):
    """Whether the encoder's weights are those of the file."""
    there = {k.replace("stages.", "stages_", 1): v for k, v in torch.load(path).items()}
    return all(torch.equal(value, there[key]) for key, value in trainer.network.encoder.state_dict().items())


def test_the_file_that_the_variable_names(make_trainer, monkeypatch, no_timm, weights):
    monkeypatch.setenv(WEIGHTS, str(weights))
    trainer = make_trainer(B0)
    trainer.initialize()
    assert has(trainer, weights) and not no_timm
    log = start(trainer, monkeypatch)
    assert f"pvt_v2_b0 has weights from ImageNet, from {weights}" in log
    assert "This training starts from weights that were loaded" not in log


def test_timm_fetches_them_otherwise(make_trainer, monkeypatch, weights):
    import timm

    original = timm.create_model

    def create(name, *args, pretrained=False, **options):
        model = original(name, *args, **{k: v for k, v in options.items() if k != "pretrained_cfg_overlay"})
        if pretrained:
            assert options["pretrained_cfg_overlay"] is None
            model.load_state_dict(torch.load(weights))
        return model

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.delenv(WEIGHTS, raising=False)
    trainer = make_trainer("nnUNetTrainerEMCADB0XAttnRes")
    trainer.initialize()
    assert has(trainer, weights) and "from ImageNet, from timm" in start(trainer, monkeypatch)


@pytest.mark.parametrize("named", [None, "missing.pth", "other.pth"])
def test_without_weights_the_training_ends_with_both_ways_out(make_trainer, monkeypatch, tmp_path, no_timm, named):
    if named:
        monkeypatch.setenv(WEIGHTS, str(tmp_path / named))
        torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    trainer = make_trainer(B0)
    trainer.initialize()  # -pretrained_weights may come yet
    with pytest.raises(
        UserError, match=rf"needs weights from ImageNet(.|\n)*export {WEIGHTS}=FILE(.|\n)*huggingface"
    ) as e:
        start(trainer, monkeypatch)
    assert (named or "no route to huggingface.co") in str(e.value) and "RandomInit" in str(e.value)
    assert bool(no_timm) == (named is None), "who names a file gets no other weights"


def test_pretrained_weights_of_nnunet_serve(make_trainer, monkeypatch, tmp_path, no_timm):
    trainer = make_trainer(B0)
    trainer.initialize()
    other = build(TRAINERS[B0], make_plans()).state_dict()
    torch.save({"network_weights": other}, tmp_path / "a.pth")
    load_pretrained_weights(trainer.network, tmp_path / "a.pth")
    assert "This training starts from weights that were loaded: " in start(trainer, monkeypatch)


def test_a_decoder_alone_does_not_serve(make_trainer, monkeypatch, no_timm):
    trainer = make_trainer(B0)
    trainer.initialize()
    for parameter in trainer.network.decoder.parameters():
        nn.init.normal_(parameter)
    with pytest.raises(UserError, match="needs weights from ImageNet"):
        start(trainer, monkeypatch)


def test_a_checkpoint_serves_and_nothing_is_fetched(make_trainer, monkeypatch, no_timm, weights):
    """--c and --val; the variable may be gone by then."""
    monkeypatch.setenv(WEIGHTS, str(weights))
    first = make_trainer(B0)
    first.initialize()
    path = Path(first.output_folder) / "checkpoint_latest.pth"
    first.save_checkpoint(str(path))
    monkeypatch.delenv(WEIGHTS)
    again = make_trainer(B0)
    again.load_checkpoint(str(path))
    assert has(again, weights) and not no_timm
    start(again, monkeypatch)


def test_a_checkpoint_that_cannot_be_loaded_leaves_no_random_training(make_trainer, monkeypatch, tmp_path, no_timm):
    trainer = make_trainer(B0)
    (tmp_path / "broken.pth").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        trainer.load_checkpoint(str(tmp_path / "broken.pth"))
    with pytest.raises(UserError, match="a checkpoint was to be loaded, and was not"):
        start(trainer, monkeypatch)


def test_random_weights_by_name_only(make_trainer, monkeypatch, no_timm):
    trainer = make_trainer(RANDOM)
    trainer.initialize()
    start(trainer, monkeypatch)
    assert not no_timm
    random = {name for name, trainer in TRAINERS.items() if getattr(trainer, "pretrained", None) is False}
    assert random == {name for name in TRAINERS if "RandomInit" in name} and len(random) == 24


@pytest.mark.parametrize("name", [RANDOM, "nnUNetTrainerEMCADB0RandomInit_5epochs"])
def test_the_recipe(make_trainer, name):
    trainer = make_trainer(name)
    trainer.initialize()
    optimizer = trainer.optimizer
    assert type(optimizer) is torch.optim.AdamW and trainer.initial_lr == trainer.weight_decay == 1e-4
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == set(map(id, trainer.network.parameters()))
    for epoch in (0, 1, trainer.num_epochs - 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants a step of the optimizer first
            trainer.lr_scheduler.step(epoch)
        assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(1e-4, 1e-4)]
    assert type(trainer.loss) is EMCADLoss


def test_all_heads_have_targets_at_full_size_and_a_step_trains(make_trainer):
    trainer = make_trainer(RANDOM)
    trainer.initialize()
    scales = trainer._get_deep_supervision_scales()
    transforms = trainer.get_validation_transforms(scales, foreground_labels=[1])
    seg = torch.randint(0, 2, (1, 16, 16)).to(torch.int16)
    targets = transforms(image=torch.randn(1, 16, 16), segmentation=seg)["segmentation"]
    outputs = trainer.network(torch.randn(2, 1, 16, 16))
    assert [t.shape[1:] for t in targets] == [o.shape[2:] for o in outputs]
    batch = {"data": torch.randn(2, 1, 16, 16), "target": [torch.stack([t, t]) for t in targets]}
    losses = [trainer.train_step(batch)["loss"].item() for _ in range(30)]
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        trainer.network.eval()
        assert np.isfinite(trainer.validation_step(batch)["loss"])
    table = (Path(trainer.output_folder) / "xattnres_routing.csv").read_text()
    assert table.count("\n0,") == 5 + 6 + 7


class NNUNetsLoss(TRAINERS[RANDOM]):
    _build_loss = nnUNetTrainer._build_loss


class NoDeepSupervision(TRAINERS[RANDOM], nnUNetTrainerNoDeepSupervision):
    pass


@pytest.mark.parametrize("trainer", [NNUNetsLoss, NoDeepSupervision])
def test_nnunets_loss_and_no_deep_supervision(make_trainer, trainer):
    trainer = make_trainer(trainer)
    trainer.initialize()
    target = torch.randint(0, 2, (2, 1, 16, 16))
    target = [target] * 4 if trainer.enable_deep_supervision else target
    assert np.isfinite(trainer.train_step({"data": torch.randn(2, 1, 16, 16), "target": target})["loss"])
    idle = {name for name, p in trainer.network.named_parameters() if p.grad is None}
    # nnU-Net leaves the coarsest head out, but gives it some weight on several GPUs
    assert idle == (
        {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"} if type(trainer) is NNUNetsLoss else set()
    )


def test_a_3d_configuration_is_refused():
    plans = make_plans()
    plans["configurations"]["2d"]["patch_size"] = [8, 16, 16]
    with pytest.raises(UserError, match=r"2D images.*\[8, 16, 16\].*Take the configuration 2d\."):
        build(TRAINERS[B0], plans)


def test_plans_with_another_network_of_ours_are_refused():
    plans, _ = plans_with_network(make_plans(), "nnUNetXAttnResPlans", ReadConfig(skip_mode="add"))
    with pytest.raises(ValueError, match=r"'nnUNetXAttnResPlans'.*Drop one of the two"):
        build(TRAINERS[B0], plans)


def test_features_and_strides_of_the_plans_have_no_effect():
    small, large = make_plans(), make_plans()
    large["configurations"]["2d"]["architecture"]["arch_kwargs"] |= {"features_per_stage": [99] * 3, "n_stages": 7}
    keys = [{k: v.shape for k, v in build(TRAINERS[B0], plans).state_dict().items()} for plans in (small, large)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("name", "encoder", "reads"),
    [
        ("nnUNetTrainerEMCAD", "pvt_v2_b2", False),
        ("nnUNetTrainerEMCADXAttnRes", "pvt_v2_b2", True),
        ("nnUNetTrainerEMCADB0", "pvt_v2_b0", False),
        ("nnUNetTrainerEMCADB0XAttnRes", "pvt_v2_b0", True),
    ],
)
def test_which_network_a_trainer_has(name, encoder, reads):
    for trainer in (name, f"{name}RandomInit", f"{name}_100epochs", f"{name}RandomInit_5epochs"):
        network = build(TRAINERS[trainer], make_plans())
        assert network.encoder_name == encoder and bool(network.reads) == reads


def test_nothing_of_it_leaks_into_other_trainers(make_trainer):
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.SGD and trainer.initial_lr == 1e-2
    assert trainer._get_deep_supervision_scales() == [[1, 1], [0.5, 0.5]] and not hasattr(trainer, "pretrained")
