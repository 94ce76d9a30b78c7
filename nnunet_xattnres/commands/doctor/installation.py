"""What is installed, from where, and how it is installed again."""

import importlib.machinery
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

from nnunet_xattnres.commands.doctor.findings import Finding
from nnunet_xattnres.common.installing import NEEDED, install, install_torch
from nnunet_xattnres.common.shell import command, unset

OURS = "nnunet-xattnres"
_REPOSITORY = ("repository", "source", "source code", "github", "homepage")  # labels of a Project-URL


def check_versions() -> Iterator[Finding]:
    """Versions of Python, of this package and of what it stands on, against what this package requires."""
    yield Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")
    yield _installed(Requirement(OURS), reinstall())
    for requirement in _requirements():
        how = install_torch if requirement.name == "torch" else install
        yield _installed(requirement, how(str(requirement)))


def _requirements() -> list[Requirement]:
    """What this package needs, without its extras."""
    try:
        stated = importlib.metadata.requires(OURS)
    except importlib.metadata.PackageNotFoundError:
        stated = None
    found = [Requirement(text) for text in stated or NEEDED.values()]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _installed(requirement: Requirement, remedy: str) -> Finding:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("error", requirement.name, "not installed", remedy)
    try:
        fits = requirement.specifier.contains(version, prereleases=True)  # the torch of NVIDIA's images is one
    except InvalidVersion:
        fits = False
    if fits:
        return Finding("ok", requirement.name, version)
    return Finding("error", requirement.name, f"{version}; this package needs {requirement.specifier}", remedy)


def check_origins(imported: dict[str, Any], installed: dict[str, Any]) -> Iterator[Finding]:
    """Where nnU-Net's commands import both packages from, and whether that is what is installed.

    Args:
        imported, installed: the file of each package or None, with PYTHONPATH and without.
    """
    gone = _editable_folder_that_is_gone()
    for name in ("nnunetv2", "nnunet_xattnres"):
        here, there = imported.get(name), installed.get(name)
        if name == "nnunet_xattnres" and gone and not there:
            message = f"it was installed with -e from {gone}, and that is not there any more"
            yield Finding("warning" if here else "error", name, message, reinstall())
        elif here is None:
            remedy = install(NEEDED[name]) if name in NEEDED else reinstall()
            yield Finding("error", name, "nnU-Net's commands cannot import it", remedy)
        elif there and os.path.realpath(here) != os.path.realpath(there):
            message = f"PYTHONPATH puts {os.path.dirname(here)} before the installed one, {os.path.dirname(there)}"
            yield Finding("warning", name, message, unset("PYTHONPATH"))
        elif not there and "PYTHONPATH" in os.environ:
            yield Finding("ok", name, f"from {os.path.dirname(here)}, by PYTHONPATH")
        else:
            yield Finding("ok", name, f"from {os.path.dirname(here)}")
    current = importlib.machinery.PathFinder.find_spec("nnunetv2", [os.getcwd()])
    used = imported.get("nnunetv2")
    if used and current and current.origin and os.path.realpath(current.origin) != os.path.realpath(used):
        message = (
            f"`python -m nnunetv2...` in this folder takes {os.path.dirname(current.origin)}, nnU-Net's commands not"
        )
        yield Finding("warning", "nnunetv2", message, command("cd", os.path.dirname(os.getcwd())))


def reinstall() -> str:
    """The command that installs this package again: no index need have it, so from where it came from."""
    for options, source in _sources():
        return install(source, "--force-reinstall", "--no-deps", *options)
    return "install it again from the file or the clone that you have it from"


def _sources() -> Iterator[tuple[list[str], str]]:
    """Options and requirement of each place that this package can be installed from, the best first."""
    origin = _direct_url()
    url, vcs = origin.get("url", ""), origin.get("vcs_info")
    folder = _path_of(url)
    if vcs:
        at = f"@{vcs['requested_revision']}" if vcs.get("requested_revision") else ""
        yield [], f"{OURS} @ {vcs['vcs']}+{url}{at}"
    elif folder is not None and folder.exists():
        yield ["-e"] if origin.get("dir_info", {}).get("editable") else [], str(folder)
    elif url and folder is None:
        yield [], f"{OURS} @ {url}"
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").is_file():
        yield ["-e"], str(checkout)
    for label, address in _project_urls():
        if label in _REPOSITORY:
            yield [], f"{OURS} @ git+{address}"


def _direct_url() -> dict[str, Any]:
    """Where pip (or uv) says that this package was installed from; empty when from an index."""
    try:
        found: dict[str, Any] = json.loads(importlib.metadata.distribution(OURS).read_text("direct_url.json") or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return {}
    return found


def _path_of(url: str) -> Path | None:
    parsed = urlparse(url)
    return Path(url2pathname(parsed.path)) if parsed.scheme == "file" else None


def _project_urls() -> Iterator[tuple[str, str]]:
    try:
        lines = importlib.metadata.metadata(OURS).get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return
    pairs = [(label.strip().lower(), address.strip()) for label, _, address in (line.partition(",") for line in lines)]
    yield from sorted(pairs, key=lambda pair: _REPOSITORY.index(pair[0]) if pair[0] in _REPOSITORY else 99)


def _editable_folder_that_is_gone() -> Path | None:
    origin = _direct_url()
    folder = _path_of(origin.get("url", ""))
    editable = origin.get("dir_info", {}).get("editable", False)
    return folder if editable and folder is not None and not folder.exists() else None
