"""Boards of several tasks, made here and by helpers at a time."""

import gc
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from board_factory import entry, make_answered, make_run, profile

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import ITEMS
from steelyard.leaderboards.publish import publish


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A board on two tasks and a profile."""
    runs = tmp_path / "runs"
    for task, gain in (("toy", 1), ("toys", 2)):
        for seed in (0, 1):
            make_run(runs / task, "joint", profile(7, 4, 5), seed=seed, task=task)
            make_run(runs / task, "other", profile(7, 4 + gain, 5), seed=seed, task=task)
    for label, right in (("sft", 36), ("weak", 30)):
        make_answered(runs / "pool", label, entry(right), seed=0)
    return runs


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_boards_made_at_a_time_are_those_made_in_turn(several: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    one = publish([several], tmp_path / "one", html=True)
    two = publish(
        [several], tmp_path / "two", html=True, jobs=3, report=lambda *said: heard.append(said)
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [path.name for path in one.files] == [path.name for path in two.files]
    assert [board.task for board in two.boards] == ["toy", "toys"] and len(two.profiles) == 1
    # What only a chapter's own files are made of would fill the memory were it kept.
    assert not any(board.entry_scores for board in one.boards) and not one.profiles[0].groups
    doings, shares = zip(*heard, strict=True)
    assert list(shares) == sorted(shares) and shares[-1] == 1.0
    assert {"toy: resampling items", "pool: figures", "toys: done"} <= set(doings)


def test_a_mistake_in_one_of_several_is_said_in_a_line(several: Path, tmp_path: Path) -> None:
    lost = next((several / "toys").rglob(ITEMS))
    lost.unlink()
    with pytest.raises(UserError, match="intervals need a run's items") as caught:
        publish([several], tmp_path / "out", jobs=2)
    assert str(lost) in str(caught.value)


def test_a_killed_process_is_no_traceback(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(pool: ProcessPoolExecutor, work: Callable[..., Any], *given: Any) -> Future[Any]:
        ended: Future[Any] = Future()
        ended.set_exception(BrokenProcessPool())
        return ended

    monkeypatch.setattr(ProcessPoolExecutor, "submit", killed)
    with pytest.raises(UserError, match="try --jobs 1"):
        publish([several], tmp_path / "out", jobs=2)


def test_the_search_for_garbage_goes_on_afterwards(several: Path, tmp_path: Path) -> None:
    publish([several], tmp_path / "out")
    assert gc.isenabled() and gc.get_freeze_count() == 0
    (several / "toy" / "stray").mkdir()
    (several / "toy" / "stray" / "record.json").write_text("{")
    with pytest.raises(UserError, match="is not a steelyard record"):
        publish([several], tmp_path / "out")
    assert gc.isenabled() and gc.get_freeze_count() == 0
