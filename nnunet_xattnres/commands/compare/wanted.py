"""Which measures are wanted beside the Dice, and whether they can be had."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata

from packaging.requirements import Requirement

from nnunet_xattnres.commands.compare.measure import PREDICTED_IN_VAIN, Measure
from nnunet_xattnres.commands.compare.surfaces import Compute, hd95, surface_dice, synapse_dice, synapse_hd95
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.installing import install_extra

METRICS = {"hd95": "HD95", "nsd": "surface Dice"}
CONVENTIONS = ("synapse",)
TOLERANCE = 2.0
KEYS = (*METRICS, "synapse_dice", "synapse_hd95")  # of all measures that there are beside the Dice


@dataclass(frozen=True)
class Wanted:
    """What is measured beside the Dice.

    Attributes:
        metrics: some of ``METRICS``.
        tolerance: of the surface Dice, in mm, or in pixels for pictures.
        convention: one of ``CONVENTIONS``, or None.
        notes: what a reader must know: which measures are left out, and why.
    """

    metrics: Sequence[str]
    tolerance: float
    convention: str | None
    notes: Sequence[str]

    @classmethod
    def of(
        cls, metrics: Sequence[str] = (), tolerance: float | None = None, convention: str | None = None
    ) -> "Wanted | None":
        """None where nothing is wanted.

        Args:
            tolerance: by default ``TOLERANCE``.

        Raises:
            UserError: for what there is not, and where MONAI is missing that ``metrics`` need. Where the one that is
                installed does not go with this torch, a note says so. What is published stands beside HD95 in mm,
                which is left out with a note, too, where MONAI is missing.
        """
        _refuse_unknown(metrics, tolerance, convention)
        if not (metrics or convention):
            return None
        chosen = [name for name in METRICS if name in metrics or (convention and name == "hd95")]
        reason, missing = _why_not_monai(), not _version("monai")
        if missing and metrics:
            raise UserError(f"--metrics {' '.join(metrics)} needs MONAI: {install_extra('metrics')}")
        names = " and ".join(METRICS[name] for name in chosen)
        notes = [f"Without {names}: {reason}."] if reason else []
        return cls([] if reason else chosen, TOLERANCE if tolerance is None else tolerance, convention, notes)

    def published(self) -> Mapping[Measure, Compute]:
        """Each measure of the convention, and what computes it."""
        return {SYNAPSE_DICE: synapse_dice, SYNAPSE_HD95: synapse_hd95} if self.convention == "synapse" else {}

    def measures(self, pictures: bool) -> Mapping[Measure, Compute]:
        """Each of the metrics, and what computes it.

        Args:
            pictures: whether distances are in pixels, not in mm.
        """
        unit = "pixels" if pictures else "mm"
        found: dict[Measure, Compute] = {}
        if "hd95" in self.metrics:
            found[_hd95(unit)] = hd95
        if "nsd" in self.metrics:
            found[_surface_dice(f"{self.tolerance:g} {unit}")] = partial(surface_dice, tolerance=self.tolerance)
        return found


SYNAPSE_DICE = Measure(
    "synapse_dice",
    "Dice as published",
    "a Dice as published",
    "Dice as published: as the Synapse papers' code has it, 1 for a prediction where the label is not, and 0 where "
    "nothing is predicted, also where nothing is to be found.",
)
SYNAPSE_HD95 = Measure(
    "synapse_hd95",
    "HD95 as published",
    "an HD95 as published",
    "HD95 as published: as the Synapse papers' code has it, by medpy's definition, the 95th percentile of the "
    "distances in both directions taken together, in voxels (a step to the next slice counts as one, however far it "
    "is), and 0 where one of the two masks is empty.",
    "voxels",
    less_is_better=True,
    digits=2,
)


def _hd95(unit: str) -> Measure:
    how = (
        f"HD95: the 95th percentile of the distances from the surface of each mask to the other's, of the two "
        f"directions the larger, in {unit} (MONAI {_version('monai')}); none where one of the two masks is empty."
    )
    found = "found a label that is there"
    return Measure("hd95", "HD95", "an HD95", how, unit, less_is_better=True, digits=2, has_one=found)


def _surface_dice(tolerance: str) -> Measure:
    name = f"surface Dice at {tolerance}"
    how = (
        f"Normalised surface Dice: the part of both masks' surface voxels that is not farther than {tolerance} from "
        f"the other surface (MONAI {_version('monai')}, voxels are counted, not areas); 0 where one of the two masks "
        f"is empty, none where both are."
    )
    return Measure("nsd", name, f"a {name}", how, has_one=PREDICTED_IN_VAIN)


def _refuse_unknown(metrics: Sequence[str], tolerance: float | None, convention: str | None) -> None:
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"--metrics {name}: there is no such metric; there are {', '.join(METRICS)}")
    if convention is not None and convention not in CONVENTIONS:
        raise UserError(f"--as-published {convention}: there is no such convention; there is {', '.join(CONVENTIONS)}")
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UserError(f"--tolerance {tolerance:g}: it must be a distance, 0 or more")
    if tolerance is not None and "nsd" not in metrics:
        raise UserError("--tolerance is that of the surface Dice: add --metrics nsd")


def _why_not_monai() -> str | None:
    """Why MONAI cannot be used here, in words; None where it can. It is not imported."""
    version = _version("monai")
    if version is None:
        return "MONAI is not installed (nnunet-xattnres[metrics] has it)"
    torch = _version("torch")
    for text in metadata.requires("monai") or ():
        needed = Requirement(text)
        applies = needed.name == "torch" and (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        if applies and not needed.specifier.contains(torch or "0", prereleases=True):
            return f"MONAI {version} needs torch{needed.specifier}, and torch {torch} is installed"
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
