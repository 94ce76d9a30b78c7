"""A training's life on several GPUs, as nnU-Net starts one there: here two processes on the CPU, with gloo.

The network's gradients are test_ddp.py's.
"""

import csv
import io
import json
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from filelock import FileLock, Timeout
from helpers.plans import make_plans
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.nn.parallel import DistributedDataParallel

from benchmarks.study.scheduled import TRAINERS as STUDY_TRAINERS
from nnunet_xattnres.commands.demo.synthetic import write_dataset
from nnunet_xattnres.nnunet.checkpoints import read_checkpoint
from nnunet_xattnres.training.epochs import nnUNetTrainerNoSkip, nnUNetTrainerXAttnRes

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")

DATASET = "Dataset001_Test"
VALIDATION = ["case_000", "case_001", "case_002"]  # rank 0 gets two of them, rank 1 the other


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory):
    """Five small cases as nnUNetv2_plan_and_preprocess leaves them."""
    raw = write_dataset(tmp_path_factory.mktemp("raw"), DATASET, n_train=5, n_test=0, shape=(16, 16, 16), seed=1)
    folder = tmp_path_factory.mktemp("preprocessed")
    dataset = folder / DATASET
    cases = sorted(file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir())
    description = json.loads((raw / "dataset.json").read_text())
    plans = planned()
    configuration = PlansManager(plans).get_configuration("2d")
    (dataset / configuration.data_identifier).mkdir(parents=True)
    for case in cases:
        DefaultPreprocessor(verbose=False).run_case_save(
            str(dataset / configuration.data_identifier / case),
            [str(raw / "imagesTr" / f"{case}_0000.nii.gz")],
            str(raw / "labelsTr" / f"{case}.nii.gz"),
            PlansManager(plans),
            configuration,
            description,
        )
    (raw / "labelsTr").rename(dataset / "gt_segmentations")
    split = {"train": [case for case in cases if case not in VALIDATION], "val": VALIDATION}
    for name, content in (("dataset", description), ("dataset_fingerprint", {}), ("splits_final", [split])):
        (dataset / f"{name}.json").write_text(json.dumps(content))
    return folder


def planned():
    plans = make_plans()
    plans |= {
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "study": {"epochs": 2, "iterations": 1, "validation_iterations": 1, "mirroring": True},
    }
    plans["configurations"]["2d"] |= {"preprocessor_name": "DefaultPreprocessor", "spacing": [1, 1],
                                      "use_mask_for_norm": [False]}  # fmt: skip
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        options = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        plans["configurations"]["2d"] |= {
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape",
            f"resampling_fn_{what}_kwargs": options,
        }
    return plans


@pytest.fixture
def folders(preprocessed, tmp_path, monkeypatch):
    """nnU-Net's, for this process and those that it starts; the results' folder."""
    results = tmp_path / "results"
    for name, value in (
        ("raw", tmp_path),
        ("preprocessed", preprocessed),
        ("results", results),
        ("n_proc_DA", 0),
        ("def_n_proc", 1),  # each further process first imports torch, for seconds
    ):
        monkeypatch.setenv(f"nnUNet_{name}", str(value))
    return results


def make_trainer(trainer, continue_training=False):
    """As nnUNetv2_train does it."""
    description = json.loads((Path(nnUNet_preprocessed) / DATASET / "dataset.json").read_text())
    plans = planned() | {"continue_training": continue_training}
    return trainer(plans, "2d", 0, description, torch.device("cpu"))


class Quick:
    """Of a few steps. What rank 0 writes takes a while, and rank 1 comes to it in the middle."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch, self.save_every = 2, 1, 1
        self.logger.plot_progress_png = lambda _: None  # takes a second
        self.wrote: list[tuple[str, int]] = []  # this process, and the epoch that it says

    def on_epoch_end(self):
        self._best_ema = None  # this epoch is the best
        super().on_epoch_end()

    def save_checkpoint(self, filename):
        path = Path(filename)
        if self.local_rank == 0:
            with mock.patch("torch.save", in_two_halves(lambda: time.sleep(0.4))):
                super().save_checkpoint(filename)
            self.wrote.append((path.name, epochs_done(path)))
        else:
            time.sleep(0.1)
            super().save_checkpoint(filename)
            if path.exists():
                read_checkpoint(path)  # or there would be nothing to go on from, were the training killed now
            assert is_locked(path.parent), "a second training would not be noticed"

    def _log_routing(self, images):
        super()._log_routing(images)
        self.wrote.append(("routing", self.current_epoch))


class XAttnRes(Quick, nnUNetTrainerXAttnRes):
    pass


class NoSkip(Quick, nnUNetTrainerNoSkip):
    pass


class NoSkipOnAFullDisk(NoSkip):
    def save_checkpoint(self, filename):
        if self.current_epoch == 0:
            super().save_checkpoint(filename)
        else:
            with mock.patch("torch.save", in_two_halves(fail)):
                nnUNetTrainerNoSkip.save_checkpoint(self, filename)


NoSkipOnAFullDisk.__name__ = "NoSkip"  # its folder and its checkpoints are NoSkip's


def fail():
    raise OSError(28, "No space left on device")


def is_locked(folder):
    lock = FileLock(folder / "training.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def in_two_halves(in_between, save=torch.save):
    """torch.save, and something that happens while it writes."""

    def half_and_half(content, path):
        buffer = io.BytesIO()
        save(content, buffer)
        written = buffer.getvalue()
        with open(path, "wb") as file:
            file.write(written[: len(written) // 2])
            file.flush()
            in_between()
            file.write(written[len(written) // 2 :])

    return half_and_half


def train(rank, folder, trainer_class, commands):
    """What nnU-Net's run_ddp does in each process, with CPUs in the place of GPUs, for one command after the other.

    Args:
        commands: the epoch until which to train, whether with --c, whether to validate the best checkpoint at the end.
    """
    torch.set_num_threads(1)
    for epochs, continue_training, val_best in commands:
        trainer = make_trainer(trainer_class, continue_training)  # before the process group is there: it would set cuda
        trainer.local_rank, trainer.is_ddp, trainer.num_epochs = rank, True, epochs
        meeting_point = f"file://{folder}/{trainer_class.__qualname__}-{epochs}"
        dist.init_process_group("gloo", meeting_point, timedelta(seconds=120), world_size=2, rank=rank)
        with mock.patch(f"{nnUNetTrainer.__module__}.DDP", wrapped):
            try:
                maybe_load_checkpoint(trainer, continue_training, validation_only=False)
                trainer.run_training()
                found = {"trained": weights(trainer)}
                if val_best:
                    trainer.load_checkpoint(str(fold(trainer_class) / "checkpoint_best.pth"))
                    found["validated"] = weights(trainer)
                    trainer.perform_actual_validation()
            except OSError as error:
                Path(folder, f"error-{rank}.txt").write_text(str(error))
                raise
        dist.destroy_process_group()
        torch.save({**found, "wrote": trainer.wrote}, f"{folder}/{epochs}-{rank}.pt")


def wrapped(network, device_ids):
    return DistributedDataParallel(network)  # there are no devices


def weights(trainer):
    return {key: value.clone() for key, value in trainer.network.module.state_dict().items()}


def run(*args, seconds=300):
    """``train`` in two processes as nnU-Net starts them: if one fails, the other is ended and this raises."""
    processes = mp.spawn(train, args=args, nprocs=2, join=False)
    deadline = time.monotonic() + seconds
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, "the processes wait for ever"
    finally:
        for process in processes.processes:
            process.kill()


def fold(trainer):
    return Path(nnUNet_results) / DATASET / f"{trainer.__name__}__nnUNetTestPlans__2d" / "fold_0"


def epochs_done(path):
    return read_checkpoint(path)["current_epoch"]


def checkpoints(folder):
    return {file.name: epochs_done(file) for file in folder.glob("checkpoint_*.pth")}


@pytest.mark.parametrize(
    "trainer", [nnUNetTrainerXAttnRes, STUDY_TRAINERS["nnUNetTrainer"], STUDY_TRAINERS["nnUNetTrainerXAttnRes"]]
)
def test_while_rank_0_writes_a_checkpoint_another_rank_leaves_it_alone(folders, trainer):
    writer, other = make_trainer(trainer), make_trainer(trainer)
    writer.initialize()
    other.initialize()
    other.local_rank = 1
    path = fold(trainer) / "checkpoint_latest.pth"

    def meanwhile():
        other.save_checkpoint(str(path))
        assert checkpoints(path.parent).get(path.name, 0) == writer.current_epoch, "it is not the one before any more"

    for writer.current_epoch in (0, 1):
        with mock.patch("torch.save", in_two_halves(meanwhile)):
            writer.save_checkpoint(str(path))
        assert epochs_done(path) == writer.current_epoch + 1
    assert not list(path.parent.glob(".partial-*"))


def test_two_epochs_then_two_more_then_the_validation(folders, tmp_path):
    run(str(tmp_path), XAttnRes, [(2, False, False), (4, True, True)])
    ranks = {epochs: [torch.load(tmp_path / f"{epochs}-{rank}.pt") for rank in (0, 1)] for epochs in (2, 4)}
    best, latest, final = (f"checkpoint_{which}.pth" for which in ("best", "latest", "final"))
    assert ranks[2][0]["wrote"] == [("routing", 0), (latest, 1), (best, 1), ("routing", 1), (best, 2), (final, 2)]
    assert ranks[4][0]["wrote"] == [(latest, 3), (best, 3), ("routing", 3), (best, 4), (final, 4)]
    assert ranks[2][1]["wrote"] == ranks[4][1]["wrote"] == []

    here = fold(XAttnRes)
    assert checkpoints(here) == {best: 4, final: 4}
    assert not list(here.glob(".partial-*")) and not is_locked(here)
    saved = read_checkpoint(here / final)["network_weights"]
    for rank in (0, 1):
        for when in ("trained", "validated"):  # the last epoch is the best
            torch.testing.assert_close(ranks[4][rank][when], saved, rtol=0, atol=0, msg=f"rank {rank}, {when}")

    log = "".join(file.read_text() for file in here.glob("training_log_*.txt"))
    assert log.count("Parameters: plain network") == log.count("Training done.") == 2
    with (here / "xattnres_routing.csv").open(newline="") as file:
        rows = [(row["epoch"], row["read"], row["source"]) for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) == 3 * (2 + 3 + 4) and {epoch for epoch, *_ in rows} == {"0", "1", "3"}
    summary = json.loads((here / "validation" / "summary.json").read_text())
    predicted = sorted(Path(case["prediction_file"]).name for case in summary["metric_per_case"])
    assert predicted == [f"{case}.nii.gz" for case in VALIDATION]


def test_a_failure_of_rank_0_ends_the_others_and_one_process_can_go_on(folders, tmp_path):
    with pytest.raises(mp.ProcessRaisedException):
        run(str(tmp_path), NoSkipOnAFullDisk, [(3, False, False)])
    assert "No space left on device" in (tmp_path / "error-0.txt").read_text()
    here = fold(NoSkip)
    assert checkpoints(here) == {"checkpoint_latest.pth": 1, "checkpoint_best.pth": 1}
    assert not list(here.glob(".partial-*")) and not is_locked(here)

    trainer = make_trainer(NoSkip, continue_training=True)
    trainer.num_epochs = 3
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    trainer.run_training()
    assert trainer.wrote[0] == ("checkpoint_latest.pth", 2)
    assert checkpoints(here) == {"checkpoint_best.pth": 3, "checkpoint_final.pth": 3}
    assert not list(here.glob(".partial-*")) and not is_locked(here)
