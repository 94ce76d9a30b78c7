"""Shows nnU-Net where our trainers are, from the start of every interpreter of this environment.

nnU-Net looks for trainers in its own package and then in the folders that the environment variable
``nnUNet_extTrainer`` lists. ``nnunet_xattnres.pth`` imports this module when an interpreter starts, and this
module appends the folder ``trainers`` to that variable. It uses the standard library only, changes nothing else
and never raises. ``NNUNET_XATTNRES_AUTOREGISTER=0`` switches it off.
"""

import os

VARIABLE = "nnUNet_extTrainer"
SWITCH = "NNUNET_XATTNRES_AUTOREGISTER"


def trainers_dir() -> str:
    """The absolute path of the folder that nnU-Net must search to find our trainers."""
    package = os.path.dirname(os.path.abspath(__file__))
    shipped = os.path.join(package, "trainers")  # inside an installed wheel
    return shipped if os.path.isdir(shipped) else os.path.join(os.path.dirname(package), "trainers")  # in a checkout


def search_path() -> list[str]:
    """The folders that ``nnUNet_extTrainer`` lists now, in the order in which nnU-Net searches them."""
    return [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder.strip()]


def is_registered() -> bool:
    """Whether nnU-Net, in this process and in those it starts, searches our folder."""
    ours = _canonical(trainers_dir())
    return any(_canonical(folder) == ours for folder in search_path())


def register() -> None:
    """Append our trainers folder to ``nnUNet_extTrainer``, once; what the user has set stays in front."""
    if not is_registered():
        os.environ[VARIABLE] = os.pathsep.join([*search_path(), trainers_dir()])


def _canonical(folder: str) -> str:
    return os.path.normcase(os.path.abspath(folder))


def _register_at_start() -> bool:
    """Whether this start of the interpreter has put our folder there."""
    try:
        if os.environ.get(SWITCH, "1") == "0" or is_registered():
            return False
        register()
    except Exception:  # a broken start of every Python in the environment would be worse than a missing trainer
        return False
    return True


registered_at_start = _register_at_start()
