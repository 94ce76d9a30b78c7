"""How something is installed into the environment of this interpreter."""

import importlib.machinery
import importlib.metadata
import re
import shutil
import sys

from nnunet_xattnres.common.shell import command

# As in pyproject.toml, for where the metadata are missing.
NEEDED = {
    "nnunetv2": "nnunetv2>=2.8.1,<3",
    "dynamic-network-architectures": "dynamic-network-architectures>=0.4.4",
    "torch": "torch>=2.1.2,!=2.9.*",
}
GET_STARTED = "https://pytorch.org/get-started/locally"


def install(requirement: str, *options: str) -> str:
    """The command that does it; not every environment has pip, and the first pip on PATH may be another one's."""
    if not _has_pip() and shutil.which("uv"):
        return command("uv", "pip", "install", "--python", sys.executable, *options, requirement)
    return command(sys.executable, "-m", "pip", "install", *options, requirement)


def install_extra(name: str) -> str:
    """The command that adds what an extra of this package needs; the package itself is taken as it is installed."""
    return install(f"nnunet-xattnres[{name}]")


def install_torch(requirement: str = NEEDED["torch"], *options: str) -> str:
    """The command that installs another torch.

    In words where the one that is there is for a GPU and not from PyPI, whose torch may be for none: which versions of
    CUDA and ROCm there are for a newer one changes with every release.
    """
    try:
        build = importlib.metadata.version("torch").partition("+")[2]  # such as cu128 or cpu; empty as on PyPI
    except importlib.metadata.PackageNotFoundError:
        build = ""
    if re.match(r"cu\d|rocm|xpu", build):
        return f"install {requirement} for your GPU ({build} now): {GET_STARTED}"
    index = ["--index-url", "https://download.pytorch.org/whl/cpu"] if build == "cpu" else []
    return install(requirement, *options, *index)


def install_nnunet() -> str:
    """The command that puts nnU-Net with its commands into this environment.

    Where this environment sees another one's nnU-Net, pip would do nothing unless it is forced.
    """
    try:
        importlib.metadata.version("nnunetv2")
    except importlib.metadata.PackageNotFoundError:
        return install(NEEDED["nnunetv2"])
    return install(NEEDED["nnunetv2"], "--force-reinstall", "--no-deps")


def _has_pip() -> bool:
    """Not by importlib.util: setuptools takes that for a running pip, and its own import fails from then on."""
    return importlib.machinery.PathFinder.find_spec("pip") is not None
