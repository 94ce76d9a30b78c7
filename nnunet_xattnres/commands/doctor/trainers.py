"""Whether nnU-Net's own finder, in a process as its commands are, finds our trainers, and by what."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_xattnres import autoregister
from nnunet_xattnres.commands.doctor.asking import folders_of_others, is_ours
from nnunet_xattnres.commands.doctor.findings import Finding
from nnunet_xattnres.commands.doctor.installation import reinstall
from nnunet_xattnres.common.installing import NEEDED, install
from nnunet_xattnres.common.shell import export, unset


def check_registration(answer: dict[str, Any]) -> Iterator[Finding]:
    """Whether nnU-Net's commands have our folder on nnUNet_extTrainer, who put it there, and whether all exist."""
    topic, ours = autoregister.VARIABLE, autoregister.trainers_dir()
    if not Path(ours).is_dir():
        yield Finding("error", "trainers folder", f"{ours} is missing", reinstall())
    if "variable" not in answer:
        return
    folders = [folder for folder in answer["variable"].split(os.pathsep) if folder.strip()]
    registered = any(map(is_ours, folders))
    if registered and answer.get("registered_at_start"):
        yield Finding("ok", topic, f"{ours} (put there by nnunet_xattnres.pth when Python started)")
    elif registered:
        yield Finding("ok", topic, f"{ours} (from the environment)")
    elif os.environ.get(autoregister.SWITCH, "1") == "0":
        message = f"our folder is not on it: {autoregister.SWITCH}=0 switches that off"
        yield Finding("error", topic, message, register_by_hand())
    else:
        yield Finding("error", topic, "our folder is not on it: nnunet_xattnres.pth did not run", register_by_hand())
    for folder in folders:
        if not Path(folder).is_dir() and not is_ours(folder):
            rest = [f for f in folders_of_others() if Path(f).is_dir()]
            remedy = export(topic, os.pathsep.join(rest)) if rest else unset(topic)
            yield Finding("warning", topic, f"{folder} is listed but does not exist; nnU-Net skips it", remedy)


def check_trainers(answer: dict[str, Any]) -> Iterator[Finding]:
    """The file that each of our trainers comes from when nnU-Net's own finder looks for it."""
    broken, why = answer.get("broken"), answer.get("why", "")
    if broken == "nnunetv2":
        remedy = install(NEEDED["nnunetv2"], "--force-reinstall")
        yield Finding("error", "trainers", f"nnunetv2 cannot be imported: {why}", remedy)
    elif broken == "nnunet_xattnres":
        message = f"nnU-Net's commands cannot import nnunet_xattnres: {why}"
        yield Finding("error", "trainers", message, reinstall())
    elif broken:
        yield Finding("error", "trainers", f"a new Python could not be asked: {why}", reinstall())
    for name, found in answer.get("trainers", {}).items():
        yield _judged(name, found)


def _judged(name: str, found: dict[str, Any]) -> Finding:
    if "file" not in found:
        reason = f"nnU-Net's search fails: {found['why']}" if found["why"] else "nnU-Net does not find it"
        return Finding("error", name, reason, register_by_hand(keep_others=not found["why"]))
    if found["ours"]:
        return Finding("ok", name, found["file"])
    remedy = f"rename that class, or take its folder off {autoregister.VARIABLE}"
    return Finding("warning", name, f"{found['file']} comes before ours and is used instead", remedy)


def register_by_hand(keep_others: bool = True) -> str:
    """The command that puts our folder on nnU-Net's list in this shell, whatever Python does at its start."""
    if not Path(autoregister.trainers_dir()).is_dir():
        return reinstall()
    others = [folder for folder in folders_of_others() if Path(folder).is_dir()] if keep_others else []
    return export(autoregister.VARIABLE, os.pathsep.join([*others, autoregister.trainers_dir()]))
