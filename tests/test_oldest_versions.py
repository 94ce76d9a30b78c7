"""What pyproject.toml admits is what .ci/oldest tries."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def lower_bound(text):
    """The name, and the version that it must have at least: exactly one is stated."""
    requirement = Requirement(text)
    (bound,) = [s.version for s in requirement.specifier if s.operator == ">="]
    return canonicalize_name(requirement.name), Version(bound)


def tried():
    lines = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, _, version in pins}


def test_every_lower_bound_is_tried_and_nothing_else():
    own = "nnunet-xattnres[convert,metrics]"
    assert own in EXTRAS["test"]
    extras = [*(text for text in EXTRAS["test"] if text != own), *EXTRAS["convert"], *EXTRAS["metrics"]]
    stated = dict(map(lower_bound, PYPROJECT["build-system"]["requires"] + extras))
    assert tried() == stated | dict(map(lower_bound, PYPROJECT["project"]["dependencies"]))


@pytest.mark.parametrize("text", EXTRAS["onnx"])
def test_what_the_export_needs_is_tried(text):
    name, bound = lower_bound(text)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert f'"{bound}.0"' in workflow if name == "torch" else tried()[name] == bound
