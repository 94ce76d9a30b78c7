"""Plans files of nnU-Net's: what is in one, and how repeats are called."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import UserError

REPEAT = re.compile(r"_rep\d+$")  # at the end of the name of plans that `nnunet-xattnres repeat` wrote


def read_plans(path: Path) -> dict[str, Any]:
    """The content of a plans file.

    Raises:
        UserError: when the file is missing or no plans file.
    """
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = sorted(file.stem for file in path.parent.glob("*Plans*.json"))
        hint = f"; in that folder there are: {', '.join(there)}" if there else ""
        raise UserError(f"{path} does not exist{hint}. Plan with `nnUNetv2_plan_experiment`, or name others.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as plans: {error}") from None
    if not isinstance(plans, dict) or not isinstance(plans.get("configurations"), dict):
        raise UserError(f"{path} is no plans file: it has no 'configurations'")
    return plans


def resolved(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of plans with what it inherits; empty where there is none of that name."""
    configuration = plans.get("configurations", {}).get(name, {})
    parent = configuration.get("inherits_from")
    return {**(resolved(plans, parent) if parent else {}), **configuration}


def network_class_of(plans: Mapping[str, Any], configuration: str) -> str:
    """The ``network_class_name`` of a configuration; empty where it names none.

    Raises:
        UserError: when the plans have no such configuration.
    """
    if configuration not in plans["configurations"]:
        raise UserError(f"the plans have no {configuration!r}; they have {', '.join(plans['configurations'])}")
    return str(resolved(plans, configuration).get("architecture", {}).get("network_class_name", ""))
