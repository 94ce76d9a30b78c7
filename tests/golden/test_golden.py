"""Plans, checkpoints, subclasses and scripts from before the package's files were moved: they still serve."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from golden.stored import CONFIGURATIONS, assert_golden, read_checkpoint, stored_plans
from helpers.networks import KINDS
from helpers.plans import build
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

every_network = pytest.mark.parametrize(
    ("kind", "configuration"), [(kind, configuration) for kind in KINDS for configuration in CONFIGURATIONS]
)


@every_network
def test_old_checkpoints_give_the_same_logits_through_their_trainer(kind, configuration):
    checkpoint = read_checkpoint(kind, configuration)
    trainer = recursive_find_trainer_class_by_name(checkpoint["trainer_name"])
    network = build(trainer, checkpoint["init_args"]["plans"], configuration=configuration, channels=(2, 3))
    network.load_state_dict(checkpoint["network_weights"], strict=True)
    assert_golden(network, kind, configuration)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_model_folder_is_loaded_for_prediction(kind, tmp_path):
    """What nnUNetv2_predict does."""
    configuration = CONFIGURATIONS[-1]
    checkpoint = read_checkpoint(kind, configuration)
    (tmp_path / "fold_0").mkdir()
    torch.save(checkpoint, tmp_path / "fold_0" / "checkpoint_final.pth")
    for name, content in (("plans", "plans"), ("dataset", "dataset_json")):
        (tmp_path / f"{name}.json").write_text(json.dumps(checkpoint["init_args"][content]))
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path), use_folds=(0,))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    assert_golden(predictor.network, kind, configuration)


def test_a_trainer_subclassed_in_a_folder_of_the_user(tmp_path, monkeypatch):
    """As CONTRIBUTING has always shown it; also a user's own reads."""
    (tmp_path / "my_trainers.py").write_text(
        "from nnunet_xattnres.nnunet_trainer import Reads, build_network, nnUNetTrainerXAttnRes\n"
        "class nnUNetTrainerMine(nnUNetTrainerXAttnRes):\n"
        "    pass\n"
        "class nnUNetTrainerMyReads(nnUNetTrainerXAttnRes):\n"
        "    @staticmethod\n"
        "    def build_network_architecture(plans_manager, configuration_manager, num_input_channels,\n"
        "                                   num_output_channels, enable_deep_supervision=True):\n"
        "        return build_network(plans_manager, configuration_manager, num_input_channels, num_output_channels,\n"
        "                             enable_deep_supervision, reads=Reads('replace', encoder_reads=False))\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    plans = read_checkpoint("add", "2d_plain")["init_args"]["plans"]
    planned = {"plans": plans, "configuration": "2d_plain", "channels": (2, 3)}
    mine = build(recursive_find_trainer_class_by_name("nnUNetTrainerMine"), **planned)
    assert (mine.skip_mode, list(mine.reads)) == ("add", ["e3", "d1", "d2"])
    network = build(recursive_find_trainer_class_by_name("nnUNetTrainerMyReads"), **planned)
    assert (network.skip_mode, list(network.reads)) == ("replace", ["d1", "d2"])


def test_an_old_script():
    """Every public name, from where it has always been; a network pickled whole names its module, too."""
    code = (
        "from nnunet_xattnres import HistoryRead, XAttnResResidualEncoderUNet, XAttnResUNet, history_read\n"
        "from nnunet_xattnres import history, nnunet_trainer, unet, warm_start\n"
        "assert unet.XAttnResUNet is XAttnResUNet\n"
        "assert unet.XAttnResResidualEncoderUNet is XAttnResResidualEncoderUNet\n"
        "assert unet.SKIP_MODES == ('add', 'replace', 'none', 'plain') and unet.READ_GATES == ('none', 'zero')\n"
        "unet.check_reads('add', 'zero')\n"
        "assert history.HistoryRead is HistoryRead\n"
        "assert len(nnunet_trainer.TRAINERS) == 98 and set(nnunet_trainer.TRAINERS) == set(nnunet_trainer.__all__)\n"
        "assert all(getattr(nnunet_trainer, name) is t for name, t in nnunet_trainer.TRAINERS.items())\n"
        "from nnunet_xattnres.warm_start import checkpoints_of, only_checkpoint, trainer_for, upgrade_checkpoint\n"
        "from nnunet_xattnres.warm_start import Upgraded, write_upgraded, write_upgraded_folder\n"
        "assert trainer_for('add', 'zero') == 'nnUNetTrainerXAttnResGated'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_network_pickled_whole_before_names_modules_that_are_still_there():
    """``torch.save(network)``: the pickle has the module and the name of every class."""
    import nnunet_xattnres.history
    import nnunet_xattnres.unet

    network = build(nnUNetTrainer, stored_plans("add"), configuration="2d_plain", channels=(2, 3))
    ours = set(map(type, network.modules()))
    before = {"XAttnResUNet": nnunet_xattnres.unet, "HistoryRead": nnunet_xattnres.history}
    for name, module in before.items():
        assert getattr(module, name) in ours
    assert pickle.loads(pickle.dumps(network)).skip_mode == "add"
