"""A file is replaced whole or not at all."""

import pytest

from nnunet_xattnres.common.files import replacing


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "ä file.json"
    for content in ("one", "two"):
        with replacing(path) as partial:
            partial.write_text(content)
        assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, disk_full_at):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with disk_full_at(50_000), pytest.raises(OSError, match="File too large"), replacing(path) as partial:
        partial.write_bytes(bytes(100_000))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_nothing_written_is_nothing_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path):
        pass
    assert path.read_text() == "old"


def test_what_a_killed_process_left_behind_is_not_taken_for_the_new_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.with_name("file.partial").write_text("half")
    with replacing(path):
        pass
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
