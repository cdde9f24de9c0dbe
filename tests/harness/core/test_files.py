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
