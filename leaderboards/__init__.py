"""Boards are pure functions of records: collect, compare, print, plot."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.harness.errors import UserError

if TYPE_CHECKING:
    from steelyard.leaderboards.board import Board
    from steelyard.leaderboards.collect import Runs


@dataclass(frozen=True, slots=True)
class Published:
    """What was written, and the boards it shows."""

    files: tuple[Path, ...]
    """The last is the front page, ``board.md``."""
    boards: "tuple[Board, ...]"


def publish(
    folders: Sequence[Path],
    out: Path,
    *,
    control: str = "joint",
    kinds: Mapping[str, str] | None = None,
    backbone: str | None = None,
    budget: str | None = None,
) -> Published:
    """Write every board, its figures, the front page ``board.md`` and ``scores.csv`` into ``out``.

    Equal records give equal bytes. Each file is replaced whole, the front page last.

    Args:
        folders: where run folders lie, at any depth.
        out: made where absent; files of other names in it are left alone.
        control: label of the entry that all others are compared with.
        kinds: kind of each entry by label, or by method name for all of a method's entries.
        backbone: take only runs of this backbone.
        budget: take only runs of this budget.

    Raises:
        UserError: there is nothing to show, the runs cannot be compared, or a file cannot be
            written.
    """
    from steelyard.leaderboards.board import build
    from steelyard.leaderboards.collect import collect

    runs = collect(folders, backbone=backbone, budget=budget)
    finished = {run.record.spec.task for run in runs.runs if run.record.status == "done"}
    boards = [build(runs, task, control=control, kinds=kinds) for task in sorted(finished)]
    unfinished = [task for task in runs.tasks() if task not in finished]
    files = [_replace(out / name, content) for name, content in _files(runs, boards, unfinished)]
    return Published(tuple(files), tuple(boards))


def stem(task: str) -> str:
    """File name of a task's board, without ending."""
    return "board-" + re.sub(r"[^A-Za-z0-9_.-]", "_", task)


def _files(
    runs: "Runs", boards: Sequence["Board"], unfinished: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    from steelyard.leaderboards import plots, tables
    from steelyard.leaderboards.overall import overall

    labels = sorted({run.record.label for run in runs.runs})
    for board in boards:
        name = stem(board.task)
        figures = {f"{name}-{end}": content for end, content in plots.figures(board, labels)}
        yield from figures.items()
        pictures = [file for file in figures if file.endswith(".svg")]
        yield f"{name}.md", tables.markdown(board, pictures).encode()
        yield f"{name}.csv", tables.as_csv(board).encode()
        yield f"{name}.json", tables.as_json(board).encode()
        yield f"{name}.tex", tables.latex(board).encode()
    combined = overall(boards)
    yield "scores.csv", runs.scores.to_csv(index=False, float_format="%.10g").encode()
    yield "overall.json", tables.as_json(combined).encode()
    files = {board.task: stem(board.task) for board in boards}
    yield "board.md", tables.index(combined, boards, files, unfinished).encode()


def _replace(path: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"Could not write {path}: {error.strerror or error}.") from error
    return path
