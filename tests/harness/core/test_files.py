"""Atomic files and folders: complete, readable by others, or absent."""

import fcntl
import inspect
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def leftovers(folder: Path) -> list[Path]:
    """Leave what a killed process leaves, and files that only look alike."""
    names = (f"{files.PREFIX}a{files.SUFFIX}", f"{files.PREFIX}b{files.SUFFIX}")
    (folder / names[0]).write_text("half of a fi")
    (folder / names[1] / "data").mkdir(parents=True)
    (folder / names[1] / "data" / "half.txt").touch()
    others = [folder / f"mine{files.SUFFIX}", folder / ".steelyard-elsewhere-c.part"]
    for path in others:
        path.touch()
    return others


def written(folder: Path) -> Path:
    return files.write_atomic(folder / "a.txt", "a")


def published(folder: Path) -> Path:
    with files.publish_folder(folder / "new") as path:
        path.mkdir()
    return folder / "new"


@pytest.mark.parametrize("write", [written, published])
def test_what_a_killed_process_has_left_is_removed_and_nothing_else(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    others = leftovers(tmp_path)
    used = tmp_path / f"{files.PREFIX}used{files.SUFFIX}"
    with used.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a process that is writing it
        path = write(tmp_path)
        assert set(tmp_path.iterdir()) == {*others, used, path}


def test_a_temporary_file_taken_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove it before it has its lock."""
    create, names = tempfile.mkstemp, []

    def race(*args: str) -> tuple[int, str]:
        descriptor, name = create(*args)
        names.append(name)
        if len(names) == 1:
            Path(name).unlink()
        return descriptor, name

    monkeypatch.setattr(tempfile, "mkstemp", race)
    assert files.write_atomic(tmp_path / "a.txt", "a").read_text() == "a" and len(names) == 2


def test_two_that_need_a_folder_for_themselves_take_turns(tmp_path: Path) -> None:
    steps: list[str] = []

    def use(name: str) -> None:
        with files.exclusive(tmp_path / "run"):
            steps.append(f"{name} begins")
            time.sleep(0.1)
            steps.append(f"{name} ends")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(use, "abc"))
    assert [step[2:] for step in steps] == ["begins", "ends"] * 3
    assert all(begins[0] == ends[0] for begins, ends in zip(steps[::2], steps[1::2], strict=True))


def test_more_than_is_free_is_refused(tmp_path: Path) -> None:
    files.check_output(tmp_path / "runs", size=1000)
    with pytest.raises(UserError, match=r"will get about 1e\+09 GB, and .* GB are free there"):
        files.check_output(tmp_path / "runs", size=10**18)
