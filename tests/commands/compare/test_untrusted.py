"""A results folder from somebody else: nothing in a checkpoint is run, and a damaged one stops nothing."""

import os
import pathlib
import sys
import types

import pytest
import torch
from helpers.trainings import A, B, compared, dice_of, write_fold
from torch import nn

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.outline import read_outline


class Evil:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.makedirs, (str(self.folder),)


WHERE = {
    "in the logging": lambda content, evil: {**content, "logging": {"train_losses": [evil]}},
    "as the logging": lambda content, evil: {**content, "logging": evil},
    "among the weights": lambda content, evil: {**content, "network_weights": {"a": torch.zeros(2), "b": evil}},
    "as a key": lambda content, evil: {evil: 0, **content},
    "as the epoch": lambda content, evil: {**content, "current_epoch": evil},
    "as a whole": lambda content, evil: evil,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", WHERE)
def test_a_malicious_checkpoint_is_not_executed(results, tmp_path, where, zipped):
    write_fold(results, A, 0, dice_of(0))
    checkpoint = write_fold(results, B, 0, dice_of(1)) / "fold_0" / "checkpoint_final.pth"
    content, made = torch.load(checkpoint), tmp_path / "made"
    torch.save(WHERE[where](content, Evil(made)), checkpoint, _use_new_zipfile_serialization=zipped)
    torch.load(checkpoint, weights_only=False)
    assert made.is_dir()  # what torch does with such a file
    made.rmdir()

    _, screen = compared(tmp_path, "-tr", A, B)
    assert not made.exists()
    page = (tmp_path / "out" / "comparison.md").read_text()
    known = where in ("in the logging", "as the logging", "as a key", "as the epoch")
    assert (f"| {B} | 25 | 10.0 | 1234 |" in page) == known  # else of the log:
    assert (f"| {B} | 2,345 | 10.0 | 1234 |" in page) != known
    assert ("cannot be read: ValueError: it is no checkpoint" in " ".join(screen.split())) == (where == "as a whole")


def test_a_pickle_by_hand_that_names_functions_is_not_executed(tmp_path):
    for text in ("cos\nmakedirs\n(S'{0}'\ntR.", "(S'{0}'\nios\nmakedirs\n.", "(cos\nmakedirs\nS'{0}'\no."):
        file, made = tmp_path / "checkpoint_final.pth", tmp_path / "made"
        file.write_bytes(text.format(made).encode())
        with pytest.raises(
            UserError, match=r"checkpoint_final\.pth cannot be read: ValueError: it is no file of torch"
        ):
            read_outline(file)
        assert not made.exists()


def test_nothing_of_torchs_or_pickles_loads_the_file(results, tmp_path, monkeypatch):
    def refuse(*_arguments, **_named):
        raise AssertionError("the checkpoint is loaded")

    for trainer, seed in ((A, 0), (B, 1)):
        write_fold(results, trainer, 0, dice_of(seed))
    for name in ("torch.load", "pickle.load", "pickle.loads"):
        monkeypatch.setattr(name, refuse)
    compared(tmp_path, "-tr", A, B)
    assert f"| {A} | 23 | 10.0 |" in (tmp_path / "out" / "comparison.md").read_text()


def cut_off(file):
    file.write_bytes(file.read_bytes()[:300])


def make_legacy(file):
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "there is no checkpoint_final.pth"),
        (lambda file: (file.unlink(), file.mkdir()), "there is no checkpoint_final.pth"),
        (lambda file: file.write_bytes(b""), "checkpoint_final.pth cannot be read"),
        (lambda file: file.write_text("no checkpoint"), "checkpoint_final.pth cannot be read"),
        (cut_off, "checkpoint_final.pth cannot be read: ValueError: it breaks off before the end of its zip file"),
        (lambda file: (make_legacy(file), cut_off(file)), "checkpoint_final.pth cannot be read"),
        (lambda file: torch.save([1], file), "checkpoint_final.pth cannot be read: ValueError: it is no checkpoint"),
        (lambda file: torch.save({"current_epoch": 5}, file), "not known: the number of parameters."),
    ],
)
def test_without_its_checkpoint_a_training_is_compared_and_the_table_says_what_is_not_known(
    results, tmp_path, damage, message
):
    write_fold(results, B, 0, dice_of(0))
    damage(write_fold(results, A, 0, dice_of(1)) / "fold_0" / "checkpoint_final.pth")
    _, screen = compared(tmp_path, "-tr", B, A)
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| {A} | not known | 10.0 | not known |" in page and f"| {B} | 25 | 10.0 | 1234 |" in page
    for said in (page, " ".join(screen.split())):
        assert f"{A}__nnUNetPlans__2d, fold 0: not known: the number of parameters" in said and message in said


def test_a_legacy_container_is_read(results, tmp_path):
    for trainer, seed in ((A, 0), (B, 1)):
        make_legacy(write_fold(results, trainer, 0, dice_of(seed)) / "fold_0" / "checkpoint_final.pth")
    _, screen = compared(tmp_path, "-tr", A, B)
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| {A} | 23 | 10.0 |" in page and f"| {B} | 25 | 10.0 |" in page and "not known:" not in screen


def test_a_checkpoint_that_the_system_does_not_let_read(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint_final.pth"
    torch.save({}, file)

    def refuse(*_arguments, **_named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("zipfile.is_zipfile", lambda _path: False)  # what it answers there
    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(UserError, match="cannot be read: PermissionError"):
        read_outline(file)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        self.again = self.body[2]  # its weights are twice in the state dict


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_a_network_learns_is_counted_once(tmp_path, zipped, monkeypatch):
    lab = types.ModuleType("lab_logging")
    lab.Log = type("Log", (), {"__module__": "lab_logging"})
    monkeypatch.setitem(sys.modules, "lab_logging", lab)
    network = Network()
    content = {"network_weights": network.state_dict(), "current_epoch": 7, "logging": lab.Log(), "more": {1, 2}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "lab_logging")  # the package is not installed here
    n_learned = sum(p.numel() for p in network.parameters())
    assert read_outline(tmp_path / "a.pth") == (n_learned, 7)
