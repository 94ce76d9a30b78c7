"""A file and a folder are replaced whole or not at all."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from nnunet_xattnres.common.errors import ExistsError, UserError
from nnunet_xattnres.common.files import content_of, refuse_existing, remove_partials, replacing, replacing_folder


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "ä file.json"
    for content in ("one", "two"):
        with replacing(path) as partial:
            partial.write_text(content)
        assert path.read_text() == content
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_beside_a_file_takes_its_place_after_it(tmp_path):
    def write(text, **options):
        with replacing(tmp_path / "a.pth", **options) as partial:
            partial.write_text(text)
            partial.with_name("a_ema.pth").write_text(text)

    for text in ("one", "two"):
        write(text)
    with pytest.raises(ExistsError):
        write("three", overwrite=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.pth": "two", "a_ema.pth": "two"}


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


def killed(path):
    """What a process leaves behind that is killed while it writes a file or a folder."""
    writer = replacing_folder(path) if path.is_dir() else replacing(path)
    partial = writer.__enter__()
    (partial / "half" if path.is_dir() else partial).write_text("half")
    return writer  # for as long as it is referred to nothing is removed


def test_what_a_killed_process_left_behind_is_not_taken_for_the_new_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    process = killed(path)
    with replacing(path):
        pass
    assert path.read_text() == "old" and content_of(tmp_path) == [path]
    assert len(list(tmp_path.iterdir())) == 2 and process
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_two_at_once_do_not_touch_each_others_work(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as two:
            assert one != two and not two.exists()
            two.write_text("two")
        assert one.read_text() == "one" and path.read_text() == "two"
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_do_not_overwrite_the_second_fails(tmp_path, monkeypatch, links):
    """Both have begun before there was a file."""
    if not links:

        def link(*_):
            raise PermissionError(1, "Operation not permitted")  # as on FAT

        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "start.pth"
    with pytest.raises(ExistsError, match=r"start\.pth exists: name another"), replacing(path, overwrite=False) as one:
        one.write_text("one")
        with replacing(path, overwrite=False) as two:
            two.write_text("two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]


def test_what_was_written_and_is_gone_is_no_success(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file") as partial:
        partial.write_text("new")
        shutil.rmtree(partial.parent)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="permissions of Unix")
@pytest.mark.parametrize("overwrite", [True, False])
def test_others_may_read_it_where_they_usually_may(tmp_path, overwrite):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file", overwrite=overwrite) as partial:
            partial.write_text("new")
        with replacing_folder(tmp_path / "folder") as partial:
            write(partial, "new")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"file": 0o640, "folder": 0o750, "a": 0o640, "sub": 0o750, "b": 0o640}


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
    assert {path.name for path in content_of(folder)} == {"a", "sub"} and (folder / "sub" / "b").read_text() == "new"


def test_all_is_written_and_moved_within_the_folder_itself(tmp_path):
    """It may be a mount point, what is beside it somebody else's, and the folder above read-only."""
    folder = tmp_path / "folder"
    write(folder, "old")
    write(tmp_path / "folder.partial", "mine")
    with replacing_folder(folder) as partial:
        assert partial.parent == folder
        write(partial, "new")
        assert {path.name for path in tmp_path.iterdir()} == {"folder", "folder.partial"}
    assert content(folder) == {"a": "new", "sub/b": "new"}
    assert content(tmp_path / "folder.partial") == {"a": "mine", "sub/b": "mine"}


def test_two_jobs_with_one_folder(tmp_path):
    folder = tmp_path / "folder"
    with replacing_folder(folder) as one:
        write(one, "one")
        refuse_existing(folder, force=False)
        with replacing_folder(folder, overwrite=False) as two:
            write(two, "two")
        assert content(one) == {"a": "one", "sub/b": "one"} and content_of(folder)
        with pytest.raises(ExistsError, match="folder exists: name another"):
            refuse_existing(folder, force=False)
    assert content(folder) == {"a": "one", "sub/b": "one"}
    with pytest.raises(ExistsError), replacing_folder(folder, overwrite=False) as three:
        write(three, "three")
    assert content(folder) == {"a": "one", "sub/b": "one"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("damaged"), KeyboardInterrupt()]
)
def test_what_was_finished_is_kept_and_named(tmp_path, error):
    folder = tmp_path / "folder"
    with pytest.raises(type(error)), replacing_folder(folder, keep=True) as partial:
        (partial / "predictions").mkdir()
        raise error
    assert not folder.exists(), "there was nothing to keep"
    said = {"OSError": "No space left", "RuntimeError": "RuntimeError: damaged", "KeyboardInterrupt": "stopped"}
    failed = pytest.raises(UserError, match=said[type(error).__name__])
    with failed as found, replacing_folder(folder, keep=True) as partial:
        write(partial, "hours")
        raise error
    assert str(partial) in str(found.value) and content(partial) == {"a": "hours", "sub/b": "hours"}
    refuse_existing(folder, force=False)
    with replacing_folder(folder) as other:
        write(other, "new")
    assert content(partial) == {"a": "hours", "sub/b": "hours"} and (folder / "a").read_text() == "new"


def test_what_could_not_be_put_in_place_is_kept(tmp_path):
    folder = tmp_path / "folder"
    failed = pytest.raises(UserError, match="folder exists: name another")
    with failed as found, replacing_folder(folder, overwrite=False, keep=True) as partial:
        write(partial, "hours")
        (folder / "a").write_text("another's")
    assert str(partial) in str(found.value) and content(partial) == {"a": "hours", "sub/b": "hours"}
    assert (folder / "a").read_text() == "another's"


def test_a_link_that_was_made_is_no_other_file(tmp_path, monkeypatch):
    """NFS: the server's answer is lost, the client asks again, and the name is taken: by itself."""
    link = os.link

    def twice(*paths):
        link(*paths)
        link(*paths)

    monkeypatch.setattr(os, "link", twice)
    with replacing(tmp_path / "a", overwrite=False) as partial:
        partial.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    with pytest.raises(ExistsError, match="a exists"), replacing(tmp_path / "a", overwrite=False) as partial:
        partial.write_text("newer")
    assert (tmp_path / "a").read_text() == "new"


def test_folders_that_were_made_for_nothing_are_removed(tmp_path):
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "reports" / "2025" / "a"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
