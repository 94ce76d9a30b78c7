"""What a checkpoint that cannot be used is called: damaged is only what ends too early."""

import sys
import types
import zipfile

import pytest
import torch

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.checkpoints import network_weights, read_checkpoint

CONTENT = {"network_weights": {"encoder.weight": torch.arange(4.0)}, "trainer_name": "T", "init_args": {}}


def save(path, content=CONTENT, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_containers_are_read(tmp_path, zipped):
    path = save(tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_checkpoint(path)["network_weights"]["encoder.weight"], torch.arange(4.0))


def test_a_file_system_without_mmap(tmp_path, monkeypatch):
    original = torch.load

    def load(*arguments, mmap=False, **options):
        if mmap:
            raise RuntimeError("unable to mmap 448 bytes from file <a.pth>: Operation not supported (95)")
        return original(*arguments, **options)

    monkeypatch.setattr(torch, "load", load)
    found = read_checkpoint(save(tmp_path / "a.pth"))
    assert torch.equal(found["network_weights"]["encoder.weight"], torch.arange(4.0))


def test_what_is_not_mapped_stays_what_it_was_when_the_file_is_written_again(tmp_path):
    """nnU-Net's own training writes into the file that is there; of a mapped one a shorter file would be a crash."""
    path = save(tmp_path / "a.pth")
    found = read_checkpoint(path, mapped=False)
    path.write_bytes(b"")
    assert torch.equal(found["network_weights"]["encoder.weight"], torch.arange(4.0))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, 0.999])
def test_what_ends_too_early_is_damaged(tmp_path, zipped, left):
    path = save(tmp_path / "checkpoint_final.pth", _use_new_zipfile_serialization=zipped)
    (tmp_path / "checkpoint_best.pth").touch()
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(UserError, match=r"damaged, probably cut off.*beside it there is checkpoint_best.pth") as caught:
        read_checkpoint(path)
    assert "Remove" not in str(caught.value) and "move it away" in str(caught.value)


def foreign(name):
    """An object of a module that is gone when the checkpoint is read."""
    module = types.ModuleType(name)
    module.Log = type("Log", (), {"__module__": name})
    sys.modules[name] = module
    return module.Log()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_module_that_is_not_here_is_named(tmp_path, zipped):
    path = save(tmp_path / "a.pth", {**CONTENT, "logging": foreign("lab_logging")},
                _use_new_zipfile_serialization=zipped)  # fmt: skip
    del sys.modules["lab_logging"]
    with pytest.raises(UserError, match=r"No module named 'lab_logging'. Install the package that has 'lab_logging'"):
        read_checkpoint(path)


def test_a_name_that_is_not_in_its_module_any_more(tmp_path):
    path = save(tmp_path / "a.pth", {**CONTENT, "logging": foreign("lab_logging2")})
    del sys.modules["lab_logging2"].Log
    with pytest.raises(UserError, match=r"cannot be loaded here.*Log.*Install the version of that package"):
        read_checkpoint(path)
    del sys.modules["lab_logging2"]


def test_numpy_2_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.pth")

    def load(*_, **__):
        raise ModuleNotFoundError("No module named 'numpy._core'", name="numpy._core")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(UserError, match=r"written with numpy 2.*pip install -U numpy"):
        read_checkpoint(path)


def test_what_the_system_refuses_is_said_as_it_is(tmp_path, monkeypatch):
    path = save(tmp_path / "a.pth")

    def load(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(PermissionError, match=r"Permission denied"):
        read_checkpoint(path)


def test_files_of_another_kind(tmp_path):
    text = tmp_path / "a.pth"
    text.write_text("hello")
    with pytest.raises(UserError, match=r"is no checkpoint: torch did not write such a file"):
        read_checkpoint(text)
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Dataset001/plans.json", "{}")
    with pytest.raises(UserError, match=r"nnUNetv2_install_pretrained_model_from_zip model.zip"):
        read_checkpoint(archive)
    with pytest.raises(UserError, match=r"no checkpoint of nnU-Net v2"):
        read_checkpoint(save(tmp_path / "b.pth", {"state_dict": {}}))


def test_a_byte_that_has_changed_is_not_called_cut_off(tmp_path):
    path = save(tmp_path / "a.pth")
    content = bytearray(path.read_bytes())
    at = content.index(b"trainer_name")
    content[at - 3 : at] = b"\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.pth cannot be read: "):
        read_checkpoint(path)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_names_of_wrappers_are_taken_off(prefix):
    found = network_weights({"network_weights": {f"{prefix}encoder.weight": 1, "module.own": 2}}, {"module.own"})
    assert found == {"encoder.weight": 1, "module.own": 2}
