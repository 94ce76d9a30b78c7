"""Before any work: a folder that is ours."""

import shutil
from pathlib import Path

from nnunet_xattnres.commands.demo.settings import MARKER, OURS, DemoError


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
