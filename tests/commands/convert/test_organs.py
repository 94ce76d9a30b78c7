"""The order of labels by the sizes of organs: the right one or none, however unusual the patient."""

import re
from pathlib import Path

import numpy as np
import pytest
from helpers.distributed import NUMBERS, OURS
from hypothesis import given
from hypothesis import strategies as st

from nnunet_xattnres.commands.convert.organs import ORDERS, Measured, label_order
from nnunet_xattnres.common.errors import UserError

# About as large as they are in adults, in ml; gallbladders may be missing.
USUAL = {
    "aorta": 95,
    "gallbladder": 27,
    "left_kidney": 160,
    "right_kidney": 155,
    "liver": 1500,
    "pancreas": 80,
    "spleen": 240,
    "stomach": 400,
}


def case_of(distribution, **unusual):
    voxels = np.zeros(14, np.int64)
    for organ, number in zip(OURS, NUMBERS[distribution]):
        voxels[number] = 1000 * (USUAL | unusual)[organ]
    if distribution == "BTCV":
        voxels[[5, 9, 10, 12, 13]] = 15000, 80000, 35000, 4000, 4000
    return Measured("case0001", voxels, np.full((14, 3), np.nan))


def test_the_page_names_every_order():
    text = " ".join((Path(__file__).parents[3] / "docs" / "datasets.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(r"Four orders of labels are in use, and no file says which it has: (.*?)\.", text)
    assert len(ORDERS) == 4 and all(name.split()[0] in named for name in ORDERS)


@pytest.mark.parametrize("distribution", NUMBERS)
def test_usual_patients_have_one_order(distribution):
    assert label_order([case_of(distribution)]).startswith(distribution)
    assert label_order([case_of(distribution, gallbladder=0)]).startswith(distribution)


@pytest.mark.parametrize(
    ("distribution", "unusual"),
    [
        # but for the stomach, EMCAD's order would fit
        ("SAMed", {"stomach": 900, "liver": 800}),
        # but for the gallbladder, SAMed's
        ("TransUNet", {"gallbladder": 100, "spleen": 90, "stomach": 70}),
        # but for the kidneys, SAMed's
        ("TransUNet", {"right_kidney": 20, "spleen": 90, "stomach": 70}),
    ],
)
def test_an_unusual_patient_alone_fits_nothing_and_many_usual_ones_help(distribution, unusual):
    case = case_of(distribution, **unusual)
    with pytest.raises(UserError, match="fit no known order"):
        label_order([case])
    assert label_order([case, *[case_of(distribution)] * 5]).startswith(distribution)


@given(
    distribution=st.sampled_from(sorted(NUMBERS)),
    factors=st.fixed_dictionaries({organ: st.floats(0.5, 2) for organ in USUAL}),
)
def test_organs_of_half_or_twice_the_usual_size_are_never_misread(distribution, factors):
    case = case_of(distribution, **{organ: size * factors[organ] for organ, size in USUAL.items()})
    try:
        found = label_order([case])
    except UserError:
        return
    assert found.startswith(distribution)
