"""nnU-Net's own commands on tiny data, each in a process of its own with a clean environment."""

import json
import os
import shutil
import subprocess
import sysconfig
import time
from pathlib import Path

import numpy as np
import SimpleITK
from helpers.forked import ForkedCommands

SHAPE = (20, 28, 24)

# The user's own trainers, in a folder that the user has put on nnUNet_extTrainer: short enough for a test.
QUICK_TRAINERS = '''
import io
import os
import signal
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from unittest.mock import patch

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
import nnunet_xattnres.nnunet_trainer as ours
import torch

class _Quick:
    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 2, 1
        self.save_every = 1

    def perform_actual_validation(self, save_probabilities: bool = False):
        """In threads: of nnU-Net's two pools here, each process would first import torch, for ten seconds."""
        with patch("multiprocessing.get_context", lambda method: SimpleNamespace(Pool=ThreadPool)):
            super().perform_actual_validation(save_probabilities)

class nnUNetTrainer_quick(_Quick, nnUNetTrainer): pass
for trainer in ours.TRAINERS.values():
    name = f"{trainer.__name__}_quick"
    globals()[name] = type(name, (_Quick, trainer), {"__module__": __name__})

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerDiceLoss import nnUNetTrainerDiceCELoss_noSmooth

class nnUNetTrainerDA5_quick(_Quick, nnUNetTrainerDA5): pass
class nnUNetTrainerNoMirroring_quick(_Quick, nnUNetTrainerNoMirroring): pass
class nnUNetTrainerDiceCELoss_noSmooth_quick(_Quick, nnUNetTrainerDiceCELoss_noSmooth): pass

class nnUNetTrainerXAttnRes_slow(nnUNetTrainerXAttnRes_quick):
    """Long enough to be interrupted; validates in processes, as nnU-Net does."""
    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.save_every = 8, 3

    def perform_actual_validation(self, save_probabilities: bool = False):
        super(_Quick, self).perform_actual_validation(save_probabilities)

    def save_checkpoint(self, filename):
        """With TEST_DIES set, killed in the middle of writing the second checkpoint_latest."""
        if "TEST_DIES" in os.environ and self.current_epoch == 5:
            def half(content, file):
                buffer = io.BytesIO()
                save(content, buffer)
                with open(file, "wb") as f:
                    f.write(buffer.getvalue()[: buffer.tell() // 2])
                os.kill(os.getpid(), signal.SIGKILL)

            save, torch.save = torch.save, half
        super().save_checkpoint(filename)
'''


class Workspace:
    """The three folders of an nnU-Net user, and the commands run in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw, self.preprocessed, self.results = (root / n for n in ("raw", "preprocessed", "results"))
        self.own_trainers = root / "own_trainers"
        for folder in (self.raw, self.preprocessed, self.results, self.own_trainers):
            folder.mkdir(parents=True)
        (self.own_trainers / "quick_trainers.py").write_text(QUICK_TRAINERS)
        self._forked: ForkedCommands | None = None
        self._trained: set[tuple] = set()
        self._predicted: dict[tuple, Path] = {}

    def environment(self, **changes: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.lower().startswith("nnunet")}
        return clean | {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": str(self.own_trainers),
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": "1",  # each further process first imports torch, for seconds
            **changes,
        }

    def start(self, command: str, *args: object, preexec_fn=None, **environment: str) -> subprocess.Popen:
        return subprocess.Popen(
            [program(command), *map(str, args)],
            env=self.environment(**environment),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=preexec_fn,
        )

    def fail(self, command: str, *args: object, preexec_fn=None, **environment: str) -> str:
        """What a command says that must not end well."""
        if preexec_fn is None:
            returncode, output = self._outcome(command, *args, **environment)
        else:
            process = self.start(command, *args, preexec_fn=preexec_fn, **environment)
            output, _ = process.communicate(timeout=300)
            returncode = process.returncode
        assert returncode != 0, output[-6000:]
        return output

    def run(self, command: str, *args: object, **environment: str) -> str:
        returncode, output = self._outcome(command, *args, **environment)
        assert returncode == 0, f"{command} {' '.join(map(str, args))}\n{output[-6000:]}"
        return output

    def _outcome(self, command: str, *args: object, **environment: str) -> tuple[int, str]:
        if not ForkedCommands.available or "NNUNET_XATTNRES_AUTOREGISTER" in environment:  # read at Python's start
            process = self.start(command, *args, **environment)
            output, _ = process.communicate(timeout=300)
            return process.returncode, output
        if self._forked is None:
            self._forked = ForkedCommands(self.environment(), self.root)
        return self._forked.run([program(command), *map(str, args)], environment, seconds=300)

    def train(
        self, dataset: int, configuration: str, trainer: str, plans: str = "nnUNetPlans", fold: object = 0
    ) -> Path:
        """The model folder of a training; one that has run in this test session does not run again."""
        if (dataset, configuration, trainer, plans, fold) not in self._trained:
            self.train_anew(dataset, configuration, trainer, "--npz", plans=plans, fold=fold)
        (folder,) = self.results.glob(f"Dataset{dataset:03d}_*/{trainer}__{plans}__{configuration}")
        return folder

    def train_anew(
        self,
        dataset: int,
        configuration: str,
        trainer: str,
        *options: object,
        plans: str = "nnUNetPlans",
        fold: object = 0,
    ) -> str:
        """What a training says; it takes the place of an earlier one, for ``train``, too."""
        what = (dataset, configuration, fold, "-tr", trainer, "-p", plans, "-device", "cpu")
        output = self.run("nnUNetv2_train", *what, *options, nnUNet_n_proc_DA="0")
        self._trained.add((dataset, configuration, trainer, plans, fold))
        self._predicted.clear()
        return output

    def log(self, model_folder: Path, fold: object = 0) -> str:
        return "".join(f.read_text() for f in sorted((model_folder / f"fold_{fold}").glob("training_log_*.txt")))

    def predict(self, name: str, *args: object, cases: Path, **environment: str) -> dict[str, np.ndarray]:
        """The masks that nnUNetv2_predict (or what ``args`` starts with) writes, by case; twice the same is a copy."""
        out = self.root / "predictions" / name
        what = (*args, cases, *environment.items())
        earlier = self._predicted.get(what)
        if earlier is not None and earlier.is_dir():
            shutil.copytree(earlier, out)
            return read_masks(out)
        command, rest = (args[0], args[1:]) if str(args[0]).startswith("nnUNetv2_") else ("nnUNetv2_predict", args)
        # without worker processes, each of which would first import torch; the other commands cannot do without
        workers = 0 if command == "nnUNetv2_predict" else 1
        options = ("-i", cases, "-o", out, "-device", "cpu", "-npp", workers, "-nps", workers)
        self.run(str(command), *options, *rest, **environment)
        self._predicted[what] = out
        return read_masks(out)


def program(command: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / command)


def read_masks(folder: Path) -> dict[str, np.ndarray]:
    return {f.name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(f))) for f in folder.glob("*.nii.gz")}


def assert_same_masks(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a and a.keys() == b.keys()
    for case in a:
        np.testing.assert_array_equal(a[case], b[case], err_msg=case)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shrink(plans_file: Path) -> None:
    """The planner's networks with an eighth of their features: these tests are about commands, not about masks."""

    def fewer_features(plans):
        for configuration in plans["configurations"].values():
            configuration["batch_size"] = 2
            kwargs = configuration["architecture"]["arch_kwargs"]
            kwargs["features_per_stage"] = [max(4, f // 8) for f in kwargs["features_per_stage"]]
            if "n_blocks_per_stage" in kwargs:
                kwargs["n_blocks_per_stage"] = [1] * kwargs["n_stages"]

    edit_json(plans_file, fewer_features)


def wait_for(condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
