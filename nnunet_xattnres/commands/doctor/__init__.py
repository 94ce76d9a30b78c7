"""What `nnunet-xattnres doctor` looks at: each check is a function that returns findings and changes nothing."""

from collections.abc import Iterator

from nnunet_xattnres.commands.doctor.asking import ask, users_environment
from nnunet_xattnres.commands.doctor.findings import Finding, grouped
from nnunet_xattnres.commands.doctor.installation import check_origins, check_versions
from nnunet_xattnres.commands.doctor.machine import check_device, check_paths, check_reads
from nnunet_xattnres.commands.doctor.on_path import check_command
from nnunet_xattnres.commands.doctor.trainers import check_registration, check_trainers

__all__ = ["Finding", "diagnose"]


def diagnose() -> Iterator[Finding]:
    """Every finding about this environment, as it is for the commands that nnU-Net installs in it."""
    yield from check_versions()
    yield from check_command()
    environment = users_environment()
    answer = ask(environment)
    without = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    installed = ask(without, "origins")
    if "origins" in answer and "origins" in installed:
        yield from check_origins(answer["origins"], installed["origins"])
    yield from check_registration(answer)
    yield from grouped(check_trainers(answer))
    yield from check_paths()
    yield from check_device()
    yield from check_reads()
