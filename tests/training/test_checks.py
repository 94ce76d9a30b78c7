"""What a trainer says before it trains, and what it refuses."""

from pathlib import Path

import pytest
import torch
from helpers.plans import build, make_plans
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerTopkLoss import nnUNetTrainerTopk10Loss
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import nnUNetTrainerBN
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.training.epochs import (
    TRAINERS,
    nnUNetTrainerEMCAD,
    nnUNetTrainerUNet3Plus,
    nnUNetTrainerXAttnRes,
    nnUNetTrainerXAttnRes_5epochs,
    nnUNetTrainerXAttnResDecoderReads,
    nnUNetTrainerXAttnResGated,
    nnUNetTrainerXAttnResNoMirroring,
    nnUNetTrainerXAttnResReplace,
)


def start(trainer, monkeypatch):
    """All that happens before nnU-Net's own start; the log."""
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda _: None)
    if not trainer.was_initialized:
        trainer.initialize()
    trainer.on_train_start()
    trainer._unlock()
    return "".join(file.read_text() for file in Path(trainer.output_folder).glob("training_log_*.txt"))


class ReadsFirst(nnUNetTrainerXAttnRes, nnUNetTrainerBN):
    pass


class ReadsSecond(nnUNetTrainerBN, nnUNetTrainerXAttnRes_5epochs):
    pass


class Replacing(nnUNetTrainerXAttnResReplace, nnUNetTrainerBN):
    pass


class Gated(nnUNetTrainerBN, nnUNetTrainerXAttnResGated):
    pass


class InTheDecoder(nnUNetTrainerXAttnResDecoderReads, nnUNetTrainerBN):
    pass


class EveryScale(nnUNetTrainerUNet3Plus, nnUNetTrainerBN):
    pass


class EMCADFirst(nnUNetTrainerEMCAD, nnUNetTrainerBN):
    """Plans cannot have its network."""


class TwoOfOurs(nnUNetTrainerXAttnRes, nnUNetTrainerUNet3Plus):
    pass


class Changed(nnUNetTrainerXAttnRes):
    """What it builds, plans cannot say."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        raise NotImplementedError


class ChangedAndAnother(Changed, nnUNetTrainerBN):
    pass


@pytest.mark.parametrize(
    ("trainer", "options", "plans"),
    [
        (ReadsFirst, "", "nnUNetXAttnResPlans"),
        (ReadsSecond, "", "nnUNetXAttnResPlans"),
        (Replacing, " --skip-mode replace", "nnUNetXAttnResPlans"),
        (Gated, " --read-gate zero", "nnUNetXAttnResPlans"),
        (InTheDecoder, " --decoder-reads-only", "nnUNetXAttnResPlans"),
        (EveryScale, " --network unet3plus", "nnUNetUNet3PlusPlans"),
    ],
)
def test_two_ancestors_that_build_the_network_are_refused(make_trainer, trainer, options, plans):
    """The first one's was taken, without a word: no batch norm, or no reads and a crash."""
    with pytest.raises(UserError, match="two ancestors that build the network") as caught:
        make_trainer(trainer).initialize()
    way_out = f"`nnunet-xattnres plan -d DATASET -p PLANS{options}`, then train with `-tr nnUNetTrainerBN -p {plans}`."
    assert str(caught.value).endswith(way_out)


@pytest.mark.parametrize("trainer", [EMCADFirst, TwoOfOurs, ChangedAndAnother])
def test_two_networks_that_no_plans_combine(make_trainer, trainer):
    with pytest.raises(UserError, match=r"two ancestors.*They cannot be combined: take one of them") as caught:
        make_trainer(trainer).initialize()
    assert "nnunet-xattnres plan" not in str(caught.value)


class Both(nnUNetTrainerXAttnRes, nnUNetTrainerBN):
    """Builds itself, and so says how the two go together."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        return nnUNetTrainerXAttnRes.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )


class TopK(nnUNetTrainerXAttnRes, nnUNetTrainerTopk10Loss):
    pass


class NoDeepSupervision(nnUNetTrainerXAttnResGated, nnUNetTrainerNoDeepSupervision):
    pass


class Adam(nnUNetTrainerXAttnResNoMirroring, nnUNetTrainerAdam):
    pass


@pytest.mark.parametrize("trainer", [Both, TopK, NoDeepSupervision, Adam])
def test_trainers_that_combine_as_before(make_trainer, monkeypatch, trainer):
    log = start(make_trainer(trainer), monkeypatch)
    assert "reads " in log and "NOT TRAINED" not in log and "This training starts from weights" not in log


class EncoderAndDecoder(nnUNetTrainerXAttnResGated):
    """A common recipe for fine-tuning."""

    def configure_optimizers(self):
        named = list(self.network.named_parameters())
        groups = [
            {"params": [p for k, p in named if k.startswith(part)], "lr": lr}
            for part, lr in (("encoder.", 1e-4), ("decoder.", 1e-2))
        ]
        optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.99, nesterov=True)
        return optimizer, LambdaLR(optimizer, lambda epoch: (1 - epoch / self.num_epochs) ** 0.9)


class ReadsFrozen(EncoderAndDecoder):
    """On purpose: nothing is to be said of what asks for no gradient."""

    def configure_optimizers(self):
        self.network.reads.requires_grad_(False)
        return super().configure_optimizers()


def test_the_groups_of_the_recipe_keep_their_own_rates(make_trainer):
    """By nnU-Net's PolyLRScheduler all have one."""
    trainer = make_trainer(EncoderAndDecoder)
    trainer.initialize()
    trainer.current_epoch = trainer.num_epochs // 2
    trainer.on_train_epoch_start()
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([1e-4 * 0.5**0.9, 1e-2 * 0.5**0.9])


def test_parameters_in_no_group_of_the_optimizer_are_named(make_trainer, monkeypatch):
    trainer = make_trainer(EncoderAndDecoder)
    log = start(trainer, monkeypatch)
    n = sum(p.numel() for p in trainer.network.reads.parameters())
    assert f"NOT TRAINED: {n:,} numbers" in log and "stay as they are: reads.e3, reads.d1, reads.d2. " in log
    assert "NOT TRAINED" not in start(make_trainer(ReadsFrozen), monkeypatch)


def pretrain(trainer, of, path, change=lambda weights: weights):
    """As -pretrained_weights does it."""
    torch.manual_seed(1)
    network = build({**TRAINERS, "nnUNetTrainer": nnUNetTrainer}[of], make_plans())
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)
    torch.save({"network_weights": change(network.state_dict())}, path)
    trainer.initialize()
    load_pretrained_weights(trainer.network, path)


@pytest.mark.parametrize(
    ("of", "trainer", "new"),
    [
        ("nnUNetTrainerXAttnResGated", "nnUNetTrainerXAttnRes", "decoder.seg_layers"),
        ("nnUNetTrainerXAttnRes", "nnUNetTrainerXAttnResDecoderReads", "decoder.seg_layers"),
    ],
)
def test_what_was_trained_before_and_what_is_new(make_trainer, monkeypatch, tmp_path, of, trainer, new):
    trainer = make_trainer(trainer)
    pretrain(trainer, of, tmp_path / "a.pth")
    (line,) = [one for one in start(trainer, monkeypatch).splitlines() if "This training starts from weights" in one]
    before, after = line.split("; new, as initialised: ")
    assert "encoder.stages" in before and "decoder.stages" in before and "reads.d1" in before
    assert after.strip() == new


def test_reads_that_are_new_are_named(make_trainer, monkeypatch):
    """As a trainer of one's own may load a stock network's weights."""
    trainer = make_trainer("nnUNetTrainerXAttnRes")
    trainer.initialize()
    stock = build(nnUNetTrainer, make_plans()).state_dict()
    trainer.network.load_state_dict(stock, strict=False)
    assert "new, as initialised: reads.e3, reads.d1, reads.d2" in start(trainer, monkeypatch)


def test_nothing_is_said_of_a_training_that_goes_on(make_trainer, monkeypatch, tmp_path):
    first = make_trainer("nnUNetTrainerXAttnRes")
    first.initialize()
    first.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    again = make_trainer("nnUNetTrainerXAttnRes")
    again.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert "This training starts from weights" not in start(again, monkeypatch)


class Wrapped(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.encoder, self.decoder = body, body.encoder, body.decoder
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.body(x)


class OfMyOwn(nnUNetTrainerXAttnRes):
    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        network = nnUNetTrainerXAttnRes.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        return Wrapped(network)


def test_a_network_in_a_module_of_the_users_starts_and_logs_its_reads(make_trainer, monkeypatch):
    trainer = make_trainer(OfMyOwn)
    log = start(trainer, monkeypatch)
    n = sum(p.numel() for p in trainer.network.body.reads.parameters())
    assert f", reads {n:,} (+" in log and ", this network " in log
    batch = {"data": torch.randn(2, 1, 16, 16), "target": [torch.zeros(2, 1, n, n) for n in (16, 8)]}
    with torch.no_grad():
        trainer.validation_step(batch)
    assert (Path(trainer.output_folder) / "xattnres_routing.csv").read_text().count("\n0,") == 9


class Broken(OfMyOwn):
    def _parameter_line(self):
        raise AttributeError("a network of another kind")


def test_a_line_of_the_log_stops_no_training(make_trainer, monkeypatch):
    log = start(make_trainer(Broken), monkeypatch)
    assert "A line of this log could not be made: AttributeError: a network of another kind" in log
