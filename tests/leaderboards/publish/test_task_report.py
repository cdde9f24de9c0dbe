"""Boards of several tasks, built in one process and in several."""

from pathlib import Path

import pytest
from board_factory import entry, make_answered, make_run, profile

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import ITEMS
from steelyard.leaderboards.publish import publish


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Write records of boards on two tasks and a profile."""
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


def test_boards_built_in_parallel_have_the_same_bytes(several: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, float]] = []
    serial = publish([several], tmp_path / "one", html=True)
    parallel = publish(
        [several], tmp_path / "two", html=True, jobs=3, report=lambda *step: steps.append(step)
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [path.name for path in serial.files] == [path.name for path in parallel.files]
    assert [board.task for board in parallel.boards] == ["pool", "toy", "toys"]
    # Resamples, which only the task's own files need, would fill the memory.
    assert not any(board.measured or board.groups for board in serial.boards)
    names, fractions = zip(*steps, strict=True)
    assert list(fractions) == sorted(fractions) and fractions[-1] == 1.0
    assert {"toy: resampling items", "pool: figures", "toys: done"} <= set(names)


def test_an_error_in_one_of_several_tasks_is_one_line(several: Path, tmp_path: Path) -> None:
    path = next((several / "toys").rglob(ITEMS))
    path.unlink()
    with pytest.raises(UserError, match="intervals need a run's items") as caught:
        publish([several], tmp_path / "out", jobs=2)
    assert str(path) in str(caught.value)
