import pytest
from helpers.trainings import DATASET


@pytest.fixture
def results(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.setattr(f"nnunetv2.paths.{name}", PathOf(tmp_path / name))
    folder = tmp_path / "nnUNet_results" / DATASET
    folder.mkdir(parents=True)
    (tmp_path / "nnUNet_raw" / DATASET).mkdir(parents=True)
    (tmp_path / "nnUNet_preprocessed" / DATASET).mkdir(parents=True)
    monkeypatch.setattr(
        "nnunetv2.utilities.dataset_name_id_conversion.maybe_convert_to_dataset_name", lambda _dataset: DATASET
    )
    return folder


class PathOf(str):
    """As nnU-Net's paths: a string that knows whether it is set."""

    def is_set(self):
        return True
