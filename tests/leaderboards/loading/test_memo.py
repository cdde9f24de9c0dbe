"""Boards read records and items that did not change from a memo; their bytes are the same."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from board_factory import make_run, profile
from matplotlib.figure import Figure

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import cache_folder
from steelyard.harness.records.record import RECORD
from steelyard.leaderboards.boards import measure
from steelyard.leaderboards.loading import memo
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.output import style
from steelyard.leaderboards.output.style import Figures
from steelyard.leaderboards.publish import publish, task_report
from steelyard.leaderboards.validate import validate

ENTRIES = {"joint": (7, 5, 4), "mine": (8, 6, 5), "other": (6, 6, 2)}


@pytest.fixture(autouse=True)
def _eager(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember files that were written this moment, however few, and write every new result."""
    monkeypatch.setattr(memo, "SETTLED", -1)
    monkeypatch.setattr(memo, "FEW", 0.0)
    monkeypatch.setattr(memo, "FEWEST", 1)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for label, right in ENTRIES.items():
        for seed in range(2):
            make_run(tmp_path / "runs", label, profile(*(n - seed for n in right)), seed=seed)
    return tmp_path / "runs"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the label of each run whose items are scored."""
    labels: list[str] = []
    score = measure.TestItems.score

    def counted(self: measure.TestItems, group: Sequence[Run]) -> Iterator[measure.RunNumbers]:
        labels.extend(run.record.label for run in group)
        return score(self, group)

    monkeypatch.setattr(measure.TestItems, "score", counted)
    return labels


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Collect each figure that is drawn, as SVG."""
    drawings: list[bytes] = []

    def counted(figures: Figures) -> dict[str, bytes]:
        contents = style.render(figures)
        drawings.extend(content for name, content in contents.items() if name.endswith(".svg"))
        return contents

    monkeypatch.setattr(task_report, "render", counted)
    return drawings


def board(runs: Path) -> dict[str, bytes]:
    files = publish([runs], runs.parent / "board").files
    return {path.name: path.read_bytes() for path in files}


def memos() -> list[Path]:
    return sorted(cache_folder().glob("*/*.arrow"))


def test_only_a_new_run_is_scored_and_the_board_is_that_of_an_empty_cache(
    runs: Path, scored: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    board(runs)
    assert sorted(scored) == sorted(2 * [*ENTRIES])
    scored.clear()
    again = board(runs)
    assert scored == []
    make_run(runs, "new", profile(9, 3, 3))
    make_run(runs, "new", profile(9, 3, 2), seed=1)
    extended = board(runs)
    assert scored == ["new", "new"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs.parent / "empty"))
    assert board(runs) == extended != again
    assert len(scored) == 2 + 8


def test_only_figures_of_a_task_that_changed_are_drawn(
    runs: Path, rendered: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for label, right in ENTRIES.items():
        make_run(runs / "two", label, profile(*right), task="two")
    first = board(runs)
    assert len(rendered) == sum(name.endswith(".svg") for name in first)
    rendered.clear()
    make_run(runs / "two", "mine", profile(3, 2, 1), seed=1, task="two")
    make_run(runs / "two", "joint", profile(9, 8, 1), seed=1, task="two")
    extended = board(runs)
    changed = {name for name in extended if extended[name] != first.get(name)}
    drawings = {name for name in changed if name.endswith(".svg")}
    assert len(rendered) == len(drawings) > 0 and all("two" in name for name in drawings)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs.parent / "empty"))
    assert board(runs) == extended


def test_figures_are_known_by_their_numbers_and_source(
    runs: Path, rendered: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    title, other = "accuracy of one", "accuracy of two"
    twice = {"a": partial(plot, [title, title])}
    contents = task_report._rendered(twice, 1)
    # From another process: equal numbers, of which none are one object.
    copied = {"a": partial(plot, [title, "".join(title)[:-1] + "e"])}
    assert task_report._rendered(copied, 1) == contents and len(rendered) == 1
    assert task_report._rendered({"a": partial(plot, [title, other])}, 1) != contents
    assert len(rendered) == 2
    monkeypatch.setattr(task_report, "_source", lambda: b"edited")
    assert task_report._rendered(twice, 1) == contents and len(rendered) == 3


def plot(lines: list[str]) -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.suptitle("\n".join(lines))
    return figure


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-100] + bytes(100),
        lambda data: bytes(len(data)),
        lambda data: data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * len(data) // 3 :],
        lambda data: b"",
    ],
    ids=["half", "no end", "zeros", "zeros inside", "empty"],
)
def test_broken_memos_change_nothing(runs: Path, damage: Callable[[bytes], bytes]) -> None:
    complete = board(runs)
    assert {path.parent.name for path in memos()} == {"figures", "numbers", "records"}
    for path in memos():
        path.write_bytes(damage(path.read_bytes()))
    assert board(runs) == complete


def test_every_flipped_byte_of_a_value_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    keys = [memo.file_key(tmp_path / "file", part) for part in range(3)]
    values = [bytes([part]) * 100 for part in range(3)]

    def remembered() -> list[bytes]:
        values_read = memo.remembered(
            "kind", [], keys, lambda at: [values[i] for i in at], at_once=2
        )
        return [bytes(value) for value in values_read]

    remembered()
    content = memos()[0].read_bytes()
    start = content.index(values[1])
    for position in range(start, start + 100, 9):
        changed = bytearray(content)
        changed[position] ^= 1
        memos()[0].write_bytes(changed)
        assert remembered() == values


def test_an_edit_of_equal_size_and_time_is_noticed(runs: Path) -> None:
    board(runs)
    path = sorted(runs.glob(f"*/{RECORD}"))[0]
    stat, text = path.stat(), path.read_text()
    path.write_text(text.replace('"steps": 1000', '"steps": 9999'))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size and path.stat().st_mtime_ns == stat.st_mtime_ns
    with pytest.raises(UserError, match="was changed after it was written"):
        board(runs)
    assert any("edited: checksum" in str(finding) for finding in validate(runs).findings)


def test_a_file_that_changed_this_moment_is_not_remembered(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memo, "SETTLED", 60 * 10**9)
    assert memo.file_key(next(runs.glob(f"*/{RECORD}"))) is None
    board(runs)
    sizes = [path.stat().st_size for path in memos() if path.parent.name != "figures"]
    assert len(sizes) == 2 and max(sizes) < 5000


def test_boards_need_no_cache(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memo = board(runs)
    (runs.parent / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs.parent / "file"))
    assert board(runs) == with_memo


def test_the_memo_unused_for_longest_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    keys = [memo.file_key(tmp_path / "file")]

    def remember(name: bytes) -> Path:
        [*memo.remembered("kind", [name], keys, lambda _: [bytes(10_000)], at_once=1)]
        return max(memos(), key=lambda path: path.stat().st_mtime_ns)

    monkeypatch.setattr(memo, "MOST_BYTES", 25_000)
    first, second = remember(b"1"), remember(b"2")
    for path, seconds in ((first, 100), (second, 200)):
        os.utime(path, (seconds, seconds))
    assert remember(b"1") == first  # used again
    third = remember(b"3")
    assert memos() == sorted([first, third])
