"""What nnU-Net does with images."""

import pytest

from nnunet_xattnres.nnunet.images import window_of

CT = {"normalization_schemes": ["CTNormalization"]}


@pytest.mark.parametrize("key", ["per_channel", "by_modality"])
def test_the_window_of_a_ct_in_new_and_in_old_plans(key):
    plans = {f"foreground_intensity_properties_{key}": {"0": {"percentile_00_5": -900, "percentile_99_5": 300}}}
    assert window_of(plans, CT) == (-900, 300)
    assert window_of(plans, {"normalization_schemes": ["ZScoreNormalization"]}) is None
