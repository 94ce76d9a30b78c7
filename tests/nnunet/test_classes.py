"""What the values in a mask stand for."""

import numpy as np

from nnunet_xattnres.nnunet.classes import Classes


def test_labels_stand_for_themselves():
    classes = Classes.of({"background": 0, "b": 2, "a": 1, "ignore": 3})
    assert classes.names == {1: "a", 2: "b", 3: "ignore"} and classes.ignored == 3 and not classes.same
    mask = np.arange(4)
    assert classes.merged(mask).tolist() == [0, 1, 2, 3]


def test_values_of_the_same_regions_are_one_class():
    classes = Classes.of({"background": 0, "whole": [1, 2, 3, 4], "core": [1, 3], "rim": 4})
    assert classes.names == {1: "whole and core", 2: "whole", 4: "whole and rim"} and classes.ignored is None
    mask = np.arange(5, dtype=np.float32)
    assert classes.merged(mask).tolist() == [0, 1, 2, 1, 4]
    assert mask.tolist() == [0, 1, 2, 3, 4]  # as it was


def test_a_label_whose_name_is_that_of_two():
    assert Classes.of({"background": 0, "a": [1, 2], "b": 1, "a and b": 3}).same == {}
