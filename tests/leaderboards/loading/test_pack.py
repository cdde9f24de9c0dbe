"""Packed runs give the boards and the findings of their folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from board_factory import entry, make_answered, make_run, profile
from paths import ROOT

from steelyard.harness.core.errors import UserError
from steelyard.leaderboards.loading import memo
from steelyard.leaderboards.loading.pack import pack
from steelyard.leaderboards.loading.packed import (
    FILES,
    ITEMS,
    RECORDS,
    ROWS,
    _column,
    _opened,
    _places,
)
from steelyard.leaderboards.publish import publish
from steelyard.leaderboards.validate import validate


def board(runs: Path, out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in publish([runs], out, html=True).files}


def forget() -> None:
    """Read Parquet files anew, which a process reads once."""
    for cached in (_column, _opened, _places):
        cached.cache_clear()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in range(2):
        make_run(folder / "deep" / "er", "joint", profile(7, 5, 4 + seed), seed=seed)
        make_run(folder, "mine", profile(8, 6, 5 - seed), seed=seed)
        make_answered(folder, "sft", entry(20 + seed), seed=seed)
        make_answered(folder, "dpo", entry(25 + seed), seed=seed)
    make_answered(folder, "gone", entry(3), failed=True)
    return folder


@pytest.fixture
def packed(runs: Path, tmp_path: Path) -> Path:
    forget()
    (tmp_path / "elsewhere").mkdir()
    # Of the same name: the page names the folder.
    assert pack(runs, tmp_path / "elsewhere" / "runs") == 9
    return tmp_path / "elsewhere" / "runs"


def test_boards_have_the_same_bytes(
    runs: Path, packed: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = sorted(path.relative_to(packed).as_posix() for path in packed.rglob("*.parquet"))
    assert len(tables) == 3 and RECORDS in tables  # one file for each kind of items
    expected = board(runs, runs.parent / "one")
    assert board(packed, runs.parent / "two") == expected
    monkeypatch.setattr(memo, "SETTLED", -1)
    monkeypatch.setattr(memo, "FEWEST", 1)
    for _ in range(2):
        assert board(packed, runs.parent / "two") == expected


def test_published_records_validate_and_rank_alike(tmp_path: Path) -> None:
    records = ROOT / "leaderboards" / "records" / "food101_photos"
    forget()
    pack(records, tmp_path / "food101_photos")
    names = [set(map(str, validate(path).findings)) for path in (records, tmp_path)]
    assert {text.replace(str(tmp_path), str(records.parent)) for text in names[1]} == names[0]
    assert {*board(tmp_path / "food101_photos", tmp_path / "two").items()} == {
        *board(records, tmp_path / "one").items()
    }


def edit(path: Path, column: str, change: Callable[[Any], Any]) -> None:
    """Change the first row of a packed file."""
    table = parquet.read_table(path)
    rows = table.to_pylist()
    rows[0][column] = change(rows[0][column])
    edited = type(table).from_pylist(rows, table.schema)
    parquet.write_table(edited, path, row_group_size=ROWS)
    forget()


def test_edits_of_packed_runs_are_findings(tmp_path: Path) -> None:
    forget()
    packed = tmp_path / "packed"
    pack(ROOT / "leaderboards" / "records" / "food101_photos", packed)
    assert not validate(packed).findings
    (items,) = (packed / ITEMS).iterdir()
    edit(items, "confidence", lambda values: [*values[:-1], values[-1] / 2])
    (finding,) = validate(packed).findings
    assert finding.message == "items.parquet was changed after it was packed"
    edit(packed / RECORDS, "record", lambda text: text.replace('"steps": ', '"steps": 1'))
    assert any("edited: checksum" in finding.message for finding in validate(packed).findings)
    with pytest.raises(UserError, match="was changed after it was written"):
        publish([packed], tmp_path / "board")


def test_missing_modality_tables_are_packed(runs: Path, tmp_path: Path) -> None:
    table = next(runs.glob("0*")) / "missing" / "toy-test-image-missing.csv"
    table.parent.mkdir()
    table.write_bytes(b"id,missing\n1,image\n")
    forget()
    pack(runs, tmp_path / "packed")
    (row,) = parquet.read_table(tmp_path / "packed" / FILES).to_pylist()
    assert row == {"path": table.relative_to(runs).as_posix(), "content": table.read_bytes()}


def test_what_cannot_be_packed_is_refused(runs: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No record under"):
        pack(tmp_path / "elsewhere" / "nothing", tmp_path / "new")
    with pytest.raises(UserError, match="are packed: give folders of runs"):
        pack(packed, tmp_path / "new")
    with pytest.raises(UserError, match="not empty"):
        pack(runs, packed)
    assert not (tmp_path / "new").exists()
    (packed / RECORDS).write_bytes(b"PAR1")
    forget()
    with pytest.raises(UserError, match="not a complete Parquet file"):
        publish([packed], tmp_path / "board")
