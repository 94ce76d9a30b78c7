"""The names of labels by the keys of a summary.json, as nnU-Net writes them."""

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_xattnres.nnunet.results import label_names


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "tumor": 1}, None),
        ({"background": 0, "tumor": [1], "liver": [2]}, None),
        ({"background": 0, "tumor": [1], "liver": 2, "ignore": 3}, None),
        ({"background": 0, "tumor": [1], "liver": [1, 2]}, [1, 2]),
        ({"background": 0, "tumor": 1, "liver": [1, 2]}, [1, 2]),
    ],
)
def test_every_key_has_its_name(labels, order):
    """A list of one number is a region only where another one is longer."""
    manager = LabelManager(labels, order)
    keys = map(str, manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    names = label_names(labels)
    assert {names[key] for key in keys} == {"tumor"} | ({"liver"} & labels.keys())
