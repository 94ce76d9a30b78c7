"""What we rely on in nnU-Net and its architectures without it being promised; a test that fails says what changed.

Each of these has a place in our code that would break, or worse, quietly do the wrong thing.
"""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from helpers.networks import ENCODERS, UPSTREAM, plan
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities import find_objects
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_xattnres import autoregister
from nnunet_xattnres.networks.upstream import blocks_of

every_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_build_network_architecture_is_static_and_has_these_parameters():
    expected = [
        "plans_manager",
        "configuration_manager",
        "num_input_channels",
        "num_output_channels",
        "enable_deep_supervision",
    ]
    assert parameters(nnUNetTrainer.build_network_architecture) == expected, (
        "nnU-Net changed the parameters of nnUNetTrainer.build_network_architecture: "
        "training.build.architecture must have the same"
    )
    assert isinstance(inspect.getattr_static(nnUNetTrainer, "build_network_architecture"), staticmethod), (
        "nnU-Net's build_network_architecture is no static method any more: prediction calls it in another way"
    )


def test_a_trainers_init_has_these_parameters():
    assert parameters(nnUNetTrainer.__init__) == ["self", "plans", "configuration", "fold", "dataset_json", "device"], (
        "nnU-Net changed the parameters of nnUNetTrainer.__init__, which become a checkpoint's init_args: "
        "training.epochs._with_epochs must have the same, commands.upgrade reads them"
    )


def test_trainers_have_the_methods_that_we_extend():
    for name, expected in (
        ("initialize", ["self"]),
        ("on_train_start", ["self"]),
        ("on_train_end", ["self"]),
        ("save_checkpoint", ["self", "filename"]),
        ("load_checkpoint", ["self", "filename_or_checkpoint"]),
    ):
        assert parameters(getattr(nnUNetTrainer, name)) == expected, f"nnU-Net changed nnUNetTrainer.{name}"


def test_a_case_is_evaluated_with_these_parameters():
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    expected = ["reference_file", "prediction_file", "image_reader_writer", "labels_or_regions", "ignore_label"]
    assert parameters(compute_metrics) == expected, (
        "nnU-Net changed the parameters of compute_metrics: commands.compare evaluates folders of predictions with it"
    )


def test_the_number_of_processes_is_called_so():
    from nnunetv2 import configuration

    assert configuration.default_num_processes >= 1, "nnunet.pool has as many processes as nnU-Net"


def test_a_checkpoint_has_these_keys():
    source = inspect.getsource(nnUNetTrainer.save_checkpoint)
    keys = ("network_weights", "optimizer_state", "init_args", "trainer_name", "inference_allowed_mirroring_axes")
    for key in keys:
        assert f"'{key}'" in source or f'"{key}"' in source, (
            f"nnU-Net's checkpoints have no {key!r} any more: nnunet/checkpoints.py and commands/upgrade.py read it"
        )


def test_networks_are_found_by_the_class_name_in_the_plans():
    network = get_network_from_plans(
        "nnunet_xattnres.unet.XAttnResUNet",
        {key: value for key, value in plan(2, "plain conv").items() if key not in ("input_channels", "num_classes")},
        [],
        1,
        2,
        deep_supervision=False,
    )
    assert type(network).__name__ == "XAttnResUNet" and network.decoder.deep_supervision is False, (
        "nnU-Net does not build a class from another package any more, or passes deep_supervision otherwise: "
        "plans with reads cannot be trained with its own trainers"
    )


def test_configurations_have_these_properties():
    for name in ("network_arch_class_name", "network_arch_init_kwargs", "network_arch_init_kwargs_req_import"):
        assert isinstance(getattr(ConfigurationManager, name, None), property), (
            f"nnU-Net's ConfigurationManager has no {name}: training.build.build_network needs it"
        )


def test_the_finder_searches_the_folders_of_its_variable_and_gives_the_class_itself(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from nnunet_xattnres.training.epochs import nnUNetTrainerNoSkip as Other\n")
    monkeypatch.setenv(autoregister.VARIABLE, str(tmp_path))
    from nnunet_xattnres.training.epochs import nnUNetTrainerNoSkip

    assert find_objects.recursive_find_trainer_class_by_name("Other") is nnUNetTrainerNoSkip, (
        f"nnU-Net does not find a re-exported trainer in a folder of {autoregister.VARIABLE} any more: "
        "trainers/ and nnunet_xattnres.pth do nothing"
    )


def test_the_finder_takes_its_own_trainers_first():
    """Ours must not have the name of one of nnU-Net's: it would never be found."""
    from nnunet_xattnres.training.epochs import TRAINERS

    folder = Path(importlib.import_module("nnunetv2.training.nnUNetTrainer").__path__[0])
    theirs = "".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))
    taken = [name for name in TRAINERS if f"class {name}(" in theirs]
    assert not taken, f"nnU-Net has trainers called {taken} now, and finds them before ours"


@every_encoder
def test_the_parts_of_the_networks(encoder):
    network = UPSTREAM[encoder](**plan(3, encoder))
    for name in ("stages", "output_channels", "strides", "conv_op"):
        assert hasattr(network.encoder, name), f"upstream's encoder has no {name}: unet.py reads it"
    for name in ("stages", "transpconvs", "seg_layers", "deep_supervision"):
        assert hasattr(network.decoder, name), f"upstream's decoder has no {name}: unet.py reads it"
    assert isinstance(network.decoder.deep_supervision, bool), "decoder.deep_supervision is no plain bool any more"
    assert len(network.decoder.stages) == len(network.decoder.seg_layers) == len(network.encoder.stages) - 1, (
        "upstream's decoder has another number of stages or of heads: unet.py pairs them with the encoder's"
    )
    heads = [key for key in network.state_dict() if ".seg_layers." in key]
    assert all(key.startswith("decoder.seg_layers.") for key in heads), "upstream's heads have moved"


@every_encoder
def test_the_decoder_concatenates_the_upsampled_map_and_the_skip_in_this_order(encoder):
    network, seen = UPSTREAM[encoder](**plan(2, encoder)), {}
    network.decoder.transpconvs[0].register_forward_hook(lambda _m, _a, out: seen.update(up=out))
    network.decoder.stages[0].register_forward_hook(lambda _m, args, _o: seen.update(stage=args[0]))
    network.encoder.stages[-2].register_forward_hook(lambda _m, _a, out: seen.update(skip=out))
    network(torch.randn(1, 2, 16, 16))
    assert torch.equal(seen["stage"], torch.cat((seen["up"], seen["skip"]), dim=1)), (
        "upstream's decoder joins its two halves in another way: stock weights would mean something else in ours"
    )


@every_encoder
def test_a_stage_is_its_blocks_one_after_the_other(encoder):
    network = UPSTREAM[encoder](**plan(2, encoder, n_blocks=3)).eval()
    network.apply(network.initialize)
    x = getattr(network.encoder, "stem", nn.Identity())(torch.randn(1, 2, 16, 16))
    for stage in network.encoder.stages:
        blocks, expected = blocks_of(stage), stage(x)
        assert len(blocks) == 3 and torch.equal(blocks(x), expected), (
            "a stage of upstream's encoder is more than its blocks now: block_unet.py runs them one by one"
        )
        for block in blocks:
            assert x.shape[1] == block.input_channels, "blocks have no input_channels: block_unet.py reads them"
            x = block(x)
            assert x.shape[1] == block.output_channels
    stage = network.decoder.stages[0]
    x = torch.randn(1, 2 * network.encoder.output_channels[-2], 4, 4)
    assert len(blocks_of(stage)) == 3 and torch.equal(blocks_of(stage)(x), stage(x)), (
        "a stage of upstream's decoder is more than its blocks now: block_unet.py runs them one by one"
    )


@every_encoder
def test_outputs_are_highest_resolution_first(encoder):
    outputs = UPSTREAM[encoder](**plan(2, encoder))(torch.randn(1, 2, 16, 16))
    assert [o.shape[-1] for o in outputs] == [16, 8, 4], "upstream returns deep supervision in another order"


@pytest.mark.parametrize("network_class", [PlainConvUNet, ResidualEncoderUNet])
def test_initialize_is_static_and_spares_bare_parameters(network_class):
    assert isinstance(inspect.getattr_static(network_class, "initialize"), staticmethod), "initialize is not static"
    module = nn.Module()
    module.w = nn.Parameter(torch.full((3,), 7.0))
    module.apply(network_class.initialize)
    assert (module.w == 7).all(), (
        "upstream's initialize touches bare parameters now: pseudo-queries and gates would not start at zero"
    )


def test_pretrained_weights_wants_every_key_but_the_heads(tmp_path, capsys):
    """The rules that `nnunet-xattnres upgrade` writes for."""
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "d": nn.ModuleDict({"seg_layers": nn.Linear(2, 2)})})
    file = tmp_path / "checkpoint.pth"

    def load(weights):
        torch.save({"network_weights": weights}, file)
        load_pretrained_weights(network, file)

    other = {key: value + 1 for key, value in network.state_dict().items()}
    before = network.d.seg_layers.weight.clone()
    load({key: value for key, value in other.items() if ".seg_layers." not in key})
    assert torch.equal(network.a.weight, other["a.weight"]) and torch.equal(network.d.seg_layers.weight, before), (
        "-pretrained_weights treats the heads otherwise: docs/warm-start.md says that they start anew"
    )
    load({**other, "surplus": torch.zeros(1)})
    for wrong in ({"a.bias": other["a.bias"]}, {**other, "a.weight": torch.zeros(3, 3)}):
        with pytest.raises(AssertionError):
            load(wrong)


def test_prediction_asks_the_trainer_for_the_network():
    source = inspect.getsource(nnUNetPredictor.initialize_from_trained_model_folder)
    for needed in (
        "recursive_find_trainer_class_by_name",
        "build_network_architecture",
        "enable_deep_supervision=False",
    ):
        assert needed in source, f"nnUNetPredictor builds networks otherwise (no {needed}): ours may not be built"


def test_training_compiles_on_cuda_only_and_wraps_without_find_unused_parameters():
    assert "find_unused_parameters" not in inspect.getsource(nnUNetTrainer.initialize), (
        "nnU-Net wraps networks for several GPUs otherwise: networks.upstream.with_idle_heads may have become needless"
    )
    assert hasattr(nnUNetTrainer, "_do_i_compile"), "nnU-Net decides on torch.compile elsewhere: doctor tells of it"


def test_the_sliding_window_hands_every_patch_to_one_method_in_order():
    """What commands/inspect/predictor.py extends."""
    window = nnUNetPredictor._internal_predict_sliding_window_return_logits
    assert parameters(window) == ["self", "data", "slicers", "do_on_device"], (
        "nnU-Net's sliding window takes other arguments: WatchedPredictor would not know where a patch is"
    )
    assert "self._internal_maybe_mirror_and_predict(workon)[0]" in inspect.getsource(window), (
        "nnU-Net's sliding window predicts its patches by another method: inspect would see none"
    )
    source = inspect.getsource(nnUNetPredictor._internal_maybe_mirror_and_predict)
    assert source.index("self.network(x)") < source.index("torch.flip"), (
        "nnU-Net predicts mirrored patches before the unmirrored one: inspect would record the wrong pass"
    )
    assert "compute_gaussian" in inspect.getsource(window) and "value_scaling_factor=10" in inspect.getsource(window), (
        "nnU-Net weighs patches in another way: inspect's importance would be another"
    )


def test_validation_gets_its_images_as_data():
    assert "batch['data']" in inspect.getsource(nnUNetTrainer.validation_step), (
        "nnU-Net's batches have other keys: our trainers could not log what the reads read"
    )
