"""Listings of folders as they come from other systems."""

from pathlib import Path

import pytest

from steelyard.harness.core import folders

LITTER = ("._b.txt", ".DS_Store", "Thumbs.db", "Desktop.ini", "~$c.csv", ".~lock.c.csv#",
          "__MACOSX/b.txt", ".ipynb_checkpoints/b-checkpoint.txt")  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.txt", "A.TXT", "c.csv", "in/d.txt", *LITTER, *(f"in/{n}" for n in LITTER)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_listing_has_no_litter(root: Path) -> None:
    assert [path.name for path in folders.listing(root)] == ["A.TXT", "b.txt", "c.csv", "in"]
    assert [path.name for path in folders.listing(root, ".txt")] == ["A.TXT", "b.txt"]
    assert folders.listing(root / "absent") == folders.listing(root / "b.txt") == []


def test_a_tree_has_no_litter_and_each_folder_once(root: Path) -> None:
    (root / "in" / "loop").symlink_to(root)
    assert list(folders.walk(root)) == ["A.TXT", "b.txt", "c.csv", "in/d.txt"]
    assert [path.name for path in folders.find(root, ".txt")] == ["A.TXT", "b.txt", "d.txt"]
