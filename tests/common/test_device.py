"""Which device is taken, and what is said of one that is not there."""

import pytest
import torch

from nnunet_xattnres.common.device import device_of
from nnunet_xattnres.common.errors import UserError


@pytest.fixture
def there(monkeypatch):
    def set_to(*names):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return set_to


def test_what_is_taken(there):
    there("cuda", "mps")
    assert [device_of(name).type for name in (None, "cpu", "cuda", "mps")] == ["cuda", "cpu", "cuda", "mps"]
    there("mps")
    assert device_of(None).type == "cpu"


@pytest.mark.parametrize(
    ("name", "others", "message"),
    [
        ("cuda", [], "--device cuda: torch sees no such device here.*; there is cpu. Take --device cpu"),
        ("cuda", ["mps"], "there is cpu and mps"),
        ("mps", ["cuda"], "--device mps: torch sees no such device here; there is cpu and cuda"),
    ],
)
def test_what_is_not_there(there, name, others, message):
    there(*others)
    with pytest.raises(UserError, match=message):
        device_of(name)


def test_a_torch_without_cuda_is_named(there, monkeypatch):
    there()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="built without CUDA"):
        device_of("cuda")
