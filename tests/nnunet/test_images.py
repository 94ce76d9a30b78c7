"""Which files of a folder are images and masks, and how nnU-Net clips a CT."""

import pytest

from nnunet_xattnres.nnunet.images import images_in, masks_in, window_of

CT = {"normalization_schemes": ["CTNormalization"]}


@pytest.mark.parametrize("key", ["per_channel", "by_modality"])
def test_the_window_of_a_ct_in_new_and_in_old_plans(key):
    plans = {f"foreground_intensity_properties_{key}": {"0": {"percentile_00_5": -900, "percentile_99_5": 300}}}
    assert window_of(plans, CT) == (-900, 300)
    assert window_of(plans, {"normalization_schemes": ["ZScoreNormalization"]}) is None


def test_what_macos_puts_beside_the_files_is_none_of_them(tmp_path):
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "._a_0000.nii.gz", "b.c_0000.nii.gz", ".DS_Store"):
        (tmp_path / name).touch()
    a, b = [str(tmp_path / f"a_000{i}.nii.gz") for i in range(2)], [str(tmp_path / "b.c_0000.nii.gz")]
    assert images_in(tmp_path, ".nii.gz") == {"a": a, "b.c": b}
    (tmp_path / "masks").mkdir()
    for name in ("a.nii.gz", "._a.nii.gz"):
        (tmp_path / "masks" / name).touch()
    assert masks_in(tmp_path / "masks", ".nii.gz") == {"a": tmp_path / "masks" / "a.nii.gz"}
