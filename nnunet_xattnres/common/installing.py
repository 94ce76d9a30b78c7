"""How something is installed into the environment of this interpreter."""

import importlib.machinery
import shutil
import sys

from nnunet_xattnres.common.shell import command


def install(requirement: str, *options: str) -> str:
    """The command that does it; not every environment has pip, and the first pip on PATH may be another one's."""
    if not _has_pip() and shutil.which("uv"):
        return command("uv", "pip", "install", "--python", sys.executable, *options, requirement)
    return command(sys.executable, "-m", "pip", "install", *options, requirement)


def install_extra(name: str) -> str:
    """The command that adds what an extra of this package needs; the package itself is taken as it is installed."""
    return install(f"nnunet-xattnres[{name}]")


def _has_pip() -> bool:
    """Not by importlib.util: setuptools takes that for a running pip, and its own import fails from then on."""
    return importlib.machinery.PathFinder.find_spec("pip") is not None
