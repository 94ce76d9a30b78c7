"""Before any work: the device, and a folder that is ours."""

import shutil
from pathlib import Path

from nnunet_xattnres.commands.demo.settings import MARKER, OURS, DemoError


def resolve_device(device: str | None) -> str:
    """The device to run on.

    Raises:
        DemoError: when torch does not have the device that was asked for.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"  # nnU-Net on mps is no match for 3D
    if device == "cuda" and not torch.cuda.is_available():
        raise DemoError("--device cuda: torch sees no CUDA device here. Try --device cpu, or install torch with CUDA.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise DemoError("--device mps: torch sees no mps device here. Try --device cpu.")
    return device


def prepare_folder(out: Path, force: bool) -> None:
    """Make ``out`` a folder that holds our marker and nothing else of ours.

    Raises:
        DemoError: when ``out`` is a file, cannot be written, holds an earlier demo and ``force`` is not set, or holds
            anything that the demo did not make.
    """
    try:
        if out.exists() and not out.is_dir():
            raise DemoError(f"{out} is a file. Choose another folder with --out.")
        if (out / MARKER).is_file():
            if not force:
                raise DemoError(f"{out} holds an earlier demo. Add --force to remove and rebuild it, or choose --out.")
            for name in OURS:
                _remove(out / name)
        elif out.exists() and any(out.iterdir()):
            raise DemoError(
                f"{out} is not empty and the demo did not make it; nothing in it was touched. "
                "Choose another folder with --out."
            )
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text("Made by: nnunet-xattnres demo\n", encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise DemoError(f"cannot write to {out}: {reason}. Choose another folder with --out.") from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
