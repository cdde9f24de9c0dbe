"""Atomic files and folders: complete, readable by others, or absent."""

import os
from pathlib import Path

import pytest

from steelyard.harness.core import files
from steelyard.harness.core.errors import UserError


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)


def test_a_file_is_written_into_a_new_folder_and_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "text.txt"
    assert files.write_atomic(path, "ä\n") == path
    assert path.read_bytes() == "ä\n".encode() and path.stat().st_mode & 0o777 == 0o644
    files.write_atomic(path, b"\xff")
    assert path.read_bytes() == b"\xff" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, full_disk: None) -> None:
    (tmp_path / "old.json").write_text("{}")
    for name in ("old.json", "new.json"):
        with pytest.raises(UserError, match=rf"^Could not write .*{name}: No space left on dev"):
            files.write_json(tmp_path / name, {"schema": 1})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["{}"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with files.publish_folder(path) as folder:
        folder.mkdir()
        (folder / "a.txt").touch()
        assert not path.exists()
    assert [inner.name for inner in path.iterdir()] == ["a.txt"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.publish_folder(tmp_path / "data") as folder:
        folder.mkdir()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    folder = files.publish_folder(tmp_path / "file" / "data")
    with pytest.raises(UserError, match=r"^Could not write .*data: "), folder:
        pass


def test_a_folder_published_meanwhile_by_another_process_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "data"

    def publish(complete: bool) -> None:
        with files.publish_folder(path, lambda: complete) as folder:
            folder.mkdir()
            path.mkdir()
            (path / "theirs.txt").touch()

    publish(complete=True)
    assert [inner.name for inner in path.iterdir()] == ["theirs.txt"]
    (path / "theirs.txt").unlink()
    path.rmdir()
    with pytest.raises(UserError, match="Could not write"):
        publish(complete=False)
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_is_tried_before_there_is_anything_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    for good in ("folder", "new/deep", ".", "a [x] #1"):
        files.check_output(Path(good))
    for good in ("file", "folder/file.json", "new/deep.json"):
        files.check_output(Path(good), is_file=True)
    for wrong in ("file", "file/below", "gone/below"):
        with pytest.raises(UserError, match=f"{wrong} cannot be written"):
            files.check_output(Path(wrong))
    with pytest.raises(UserError, match="folder is a folder: give the name of a file"):
        files.check_output(Path("folder"), is_file=True)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder", "gone"}


def test_a_full_disk_is_found_by_trying(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(UserError, match="No space left"):
        files.check_output(tmp_path)


def test_the_users_home_is_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.user_path("~/a b") == tmp_path / "a b"
    assert files.user_path("~no-such-user/a") == Path("~no-such-user/a")
    assert files.cache_folder() == tmp_path / ".cache" / "steelyard"
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        files.cache_folder()
