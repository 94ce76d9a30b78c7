"""A file and a folder are replaced whole or not at all."""

from pathlib import Path

import pytest

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import replacing, replacing_folder


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


@pytest.mark.parametrize("name", ["folder", ".", "folder/.."])
def test_a_folder_is_no_file(tmp_path, monkeypatch, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is a folder; name a file"), replacing(name):
        pass


# --- a folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder, text):
    for name in ("a", "sub/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_the_new_content_takes_the_place_of_the_old(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "folder"
    for text in ("one", "two"):
        with replacing_folder(folder) as partial:
            assert not list(partial.iterdir())
            write(partial, text)
        assert content(folder) == {"a": text, "sub/b": text} and list(folder.parent.iterdir()) == [folder]
    (folder / "surplus").touch()
    monkeypatch.chdir(folder)
    with replacing_folder(".") as partial:
        write(partial, "three")
    assert content(Path.cwd()) == {"a": "three", "sub/b": "three"}, "the folder that the user is in stays the same one"


def test_only_what_is_named_gives_way(tmp_path):
    folder = tmp_path / "folder"
    write(folder, "old")
    (folder / "notes").write_text("mine")
    with replacing_folder(folder, ["a", "nothing"]) as partial:
        (partial / "c").write_text("new")
    assert content(folder) == {"c": "new", "sub/b": "old", "notes": "mine"}
    with replacing_folder(folder, []) as partial:
        write(partial, "new")
    assert content(folder) == {"a": "new", "c": "new", "sub/b": "new", "notes": "mine"}


@pytest.mark.parametrize(("there", "fails_at"), [*((True, n) for n in range(5)), *((False, n) for n in range(3))])
def test_what_fails_leaves_the_old_content(tmp_path, monkeypatch, there, fails_at):
    """In the block, or at one of the moves."""
    folder = tmp_path / "folder"
    if there:
        write(folder, "old")
    rename, calls = Path.rename, []

    def broken(path, target):
        calls.append(path)
        if len(calls) == fails_at:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError), replacing_folder(folder) as partial:
        write(partial, "new")
        if fails_at == 0:
            raise OSError(28, "No space left on device")
    assert content(tmp_path) == ({"folder/a": "old", "folder/sub/b": "old"} if there else {})
    assert list(tmp_path.iterdir()) == ([folder] if there else [])


def test_what_cannot_be_removed_of_the_old_content_costs_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    write(folder, "old")

    def half(path, ignore_errors=False):
        if (Path(path) / "a").exists():
            (Path(path) / "a").unlink()
            if not ignore_errors:
                raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("shutil.rmtree", half)
    with replacing_folder(folder) as partial:
        write(partial, "new")
    assert content(folder) == {"a": "new", "sub/b": "new"}
