"""Search path of a task's data."""

from pathlib import Path

import pytest

from steelyard import tasks


def test_where_data_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path / "shelf"))
    assert tasks.find_root("food101", tmp_path) == tmp_path
    assert tasks.find_root("food101") == tmp_path / "shelf" / "food101"


def test_without_data_the_world_is_generated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEELYARD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tasks, "WORLD_TRAIN", 200)
    monkeypatch.setattr(tasks, "WORLD_TEST", 64)
    root = tasks.find_root("food101")
    assert root.parent == tmp_path / "steelyard"
    assert len(tasks.load("food101", root).splits["test"]) == 64
    assert tasks.find_root("food101") == root
