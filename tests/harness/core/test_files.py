"""Atomic files and folders: complete, readable by others, or absent."""

import inspect
import os
import re
from pathlib import Path
from typing import get_type_hints

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


@pytest.mark.parametrize("name", ["01.py", "json.py", "torch.py", "a b#[x].py"])
def test_a_file_is_a_module_of_its_own(name: str, tmp_path: Path) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True, slots=True)\nclass Config:\n    value: int = {}\n"
    )
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / name).write_text(source.format(number))
    first, second = (files.import_file(tmp_path / str(number) / name) for number in (1, 2))
    assert (first.Config().value, second.Config().value) == (1, 2)
    assert inspect.getsource(first.Config) != inspect.getsource(second.Config)
    assert get_type_hints(first.Config) == {"value": int}


def test_a_changed_file_is_read_again_within_the_second_and_of_equal_size(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    values = []
    for value in (1, 2):
        path.write_text(f"VALUE = {value}\n")
        os.utime(path, (1e9, 1e9))
        values.append(files.import_file(path).VALUE)
    assert values == [1, 2] and list(tmp_path.iterdir()) == [path]


def test_names_of_files_are_allowed_everywhere_and_differ_as_texts_do() -> None:
    kept = ["food101", "tuning-world_vlm-S", "a=0.5"]
    assert [files.file_name(text) for text in kept] == kept
    assert files.file_name("stock/pope") == "stock_pope"
    odd = ["a:b", "a*b", 'a"b', "a|b", "a b", "aéb", "ae\u0301b", "x" * 200, "x" * 201, "a\ud800b"]
    names = [files.file_name(text) for text in odd]
    assert len({*names}) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_.=-]{1,120}", name) for name in names)
