"""The device that a command computes on."""

from typing import TYPE_CHECKING

from nnunet_xattnres.common.errors import UserError

if TYPE_CHECKING:
    import torch


def device_of(name: str | None) -> "torch.device":
    """The device of ``--device NAME``; cuda if there is one, else cpu, if none is named.

    Raises:
        UserError: when torch does not see such a device; it says which there are.
    """
    import torch  # seconds, which a command's --help need not wait

    there = ["cpu"]
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    if name is None:
        return torch.device("cuda" if "cuda" in there else "cpu")
    if torch.device(name).type not in there:
        built = "" if name != "cuda" or torch.version.cuda else " (this torch is built without CUDA)"
        raise UserError(
            f"--device {name}: torch sees no such device here{built}; there is {' and '.join(there)}. Take "
            f"--device cpu, or see what `nnunet-xattnres doctor` says"
        )
    return torch.device(name)
