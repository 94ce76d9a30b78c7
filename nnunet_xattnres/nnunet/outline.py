"""What a checkpoint says of its network and its training, without running anything that is in the file.

A checkpoint holds a pickle, and a pickle may name any function to be called when it is loaded. torch's own safe way
(``weights_only=True``) refuses nnU-Net's checkpoints for the NumPy numbers in them, and before torch 2.6 it was not
safe. Here every name in the pickle becomes a stand-in that does nothing, and of the tensors only the shapes are read.
"""

import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_xattnres.common.errors import UserError

_LEGACY = 0x1950A86A20F9469CFC6C  # what torch wrote first into a file before it wrote zip files
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: in the weights, and not learned


class Outline(NamedTuple):
    """What a checkpoint says; None for what it does not say, or not in the way that nnU-Net says it."""

    parameters: int | None
    epochs: int | None


def read_outline(path: Path) -> Outline:
    """The number of parameters and of finished epochs, from a checkpoint of nnU-Net's.

    Raises:
        UserError: when there is no such file or it cannot be read, for whatever reason; it names the file without its
            folder.
    """
    if not path.is_file():
        raise UserError(f"there is no {path.name}")
    try:
        content = _content(path)
        if not isinstance(content, dict):
            raise ValueError("it is no checkpoint of nnU-Net's")
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from None
    epochs = content.get("current_epoch")
    return Outline(_n_parameters(content.get("network_weights")), epochs if _is_count(epochs) else None)


def _content(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"), None)
            if name is None:
                raise ValueError("it has no data.pkl")
            with archive.open(name) as file:
                return _Reader(file).load()
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"PK":
            raise ValueError("it breaks off before the end of its zip file")
        if _Reader(file).load() != _LEGACY:
            raise ValueError("it is no file of torch's")
        for _ in ("version of the format", "system"):
            _Reader(file).load()
        return _Reader(file).load()


def _n_parameters(weights: Any) -> int | None:
    """Weights that share their memory count once."""
    if not isinstance(weights, dict):
        return None
    sizes = {}
    for name, tensor in weights.items():
        if not isinstance(tensor, _Tensor) or tensor.size is None:
            return None
        if not str(name).endswith(_BUFFERS):
            sizes[tensor.place] = math.prod(tensor.size)
    return sum(sizes.values()) or None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class _Anything:
    """What stands for every name in the file; it takes everything and does nothing."""

    def __new__(cls, *_arguments: Any, **_named: Any) -> "_Anything":
        return super().__new__(cls)

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _item: Any) -> None:
        pass

    add = append


class _Dict(dict[Any, Any]):
    """An OrderedDict without the attributes that torch gives it."""

    def __setstate__(self, _state: Any) -> None:
        pass


class _Tensor(_Anything):
    """A tensor's place in the file and its shape; ``size`` is None where they are not as torch writes them."""

    def __init__(self, storage: Any = None, offset: Any = None, size: Any = None, *_rest: Any) -> None:
        right = isinstance(storage, str) and _is_count(offset) and isinstance(size, tuple) and all(map(_is_count, size))
        self.place = (storage, offset) if right else None
        self.size = size if right else None


_STAND_INS = {("collections", "OrderedDict"): _Dict, ("torch._utils", "_rebuild_tensor_v2"): _Tensor}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _STAND_INS.get((module, name), _Anything)

    def persistent_load(self, pid: Any) -> Any:
        """Of a storage its key; nothing is read from it."""
        return pid[2] if isinstance(pid, tuple) and len(pid) > 2 and pid[0] == "storage" else None
