"""Boards are pure functions of records: collect, compare, print, plot."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.harness.errors import UserError, unknown
from steelyard.leaderboards.escape import inert
from steelyard.leaderboards.steps import Report, silent

if TYPE_CHECKING:
    from steelyard.leaderboards.board import Board
    from steelyard.leaderboards.chapters import Ask, Chapter
    from steelyard.leaderboards.collect import Runs
    from steelyard.leaderboards.profile import Profile


@dataclass(frozen=True, slots=True)
class Published:
    """What was written, and the boards it shows."""

    files: tuple[Path, ...]
    """The last is the front page, ``board.md``."""
    boards: "tuple[Board, ...]"
    profiles: "tuple[Profile, ...]"


def publish(
    folders: Sequence[Path],
    out: Path,
    *,
    control: str | None = None,
    kinds: Mapping[str, str] | None = None,
    backbone: str | None = None,
    budget: str | None = None,
    track: str | None = None,
    html: bool = False,
    jobs: int = 1,
    report: Report = silent,
) -> Published:
    """Write every board, its figures, the front page ``board.md`` and ``scores.csv`` into ``out``.

    Equal records give equal bytes. Each file is replaced whole, the front page last.

    Args:
        folders: where run folders lie, at any depth.
        out: made where absent; files of other names in it are left alone.
        control: label of the entry that all others are compared with, on every board that has it;
            on others, and without it, the first of ``profile.CONTROLS`` that a board has.
        kinds: kind of each entry by label, or by method name for all of a method's entries.
        backbone: take only runs of this backbone.
        budget: take only runs of this budget.
        track: take only runs of this track.
        html: also write ``index.html``, one page of all boards that needs no server.
        jobs: tasks at a time, each in a process of its own where there are several; a script that
            asks for them starts under ``if __name__ == "__main__"``, as spawned processes need.
        report: told what is done now and the share of all that is done.

    Raises:
        UserError: there is nothing to show, no board has the control, the runs cannot be compared,
            or a file cannot be written.
    """
    from steelyard.leaderboards import chapters
    from steelyard.leaderboards.board import Board
    from steelyard.leaderboards.collect import collect
    from steelyard.leaderboards.profile import Profile

    report("reading records", 0.0)
    runs = collect(folders, backbone=backbone, budget=budget, track=track)
    _check_control(runs, control)
    made = chapters.make_all(list(_asks(runs, control, kinds or {})), jobs, report)
    boards = tuple(each.made for each in made if isinstance(each.made, Board))
    profiles = tuple(each.made for each in made if isinstance(each.made, Profile))
    content = dict(_files(runs, made, boards, profiles))
    if html:
        from steelyard.leaderboards.page import page

        designs = {chapter.task: chapter.designs for chapter in made}
        shown = page(folders, runs, boards, profiles, designs, content)
        content = {"index.html": shown, **content}
    files = [replace_file(out / name, text) for name, text in content.items()]
    return Published(tuple(files), boards, profiles)


def _check_control(runs: "Runs", control: str | None) -> None:
    labels = {run.record.label for run in runs.runs}
    if control is not None and control not in labels:
        raise unknown("control", control, labels)


def _control(runs: "Runs", task: str, wanted: str | None) -> str:
    from steelyard.leaderboards.profile import default_control

    labels = {run.record.label: run for run in runs.of(task)}
    return wanted if wanted in labels else default_control(labels)


def _asks(runs: "Runs", control: str | None, kinds: Mapping[str, str]) -> "Iterator[Ask]":
    """What is to be made of each task of which a run finished."""
    from steelyard.leaderboards.chapters import Ask
    from steelyard.leaderboards.collect import Runs

    labels = tuple(sorted({run.record.label for run in runs.runs}))
    for task in sorted({run.record.spec.task for run in runs.runs if run.record.status == "done"}):
        own = Runs(runs.of(task), runs.scores[runs.scores["task"] == task])
        yield Ask(own, task, _control(runs, task, control), kinds, labels)


def _files(
    runs: "Runs",
    chapters: "Sequence[Chapter]",
    boards: "Sequence[Board]",
    profiles: "Sequence[Profile]",
) -> Iterator[tuple[str, bytes]]:
    """The files of all chapters and those about all of them, the front page last."""
    from steelyard.leaderboards import export, front, oracle, plots, profile_tables
    from steelyard.leaderboards.chapter_files import board_stem, profile_stem
    from steelyard.leaderboards.missing_tables import tables_of
    from steelyard.leaderboards.overall import overall
    from steelyard.leaderboards.robustness_files import links

    for chapter in chapters:
        yield from chapter.files.items()
    yield from tables_of(runs.runs).items()
    robust = {name: text for chapter in chapters for name, text in chapter.robustness.items()}
    yield from robust.items()
    combined = overall(boards)
    yield "scores.csv", runs.scores.to_csv(index=False, float_format="%.10g").encode()
    if runs.oracle:
        yield "oracle.md", oracle.markdown(runs.oracle).encode()
        yield "oracle.csv", oracle.as_csv(runs.oracle).encode()
    if boards:
        yield "overall.json", export.as_json(combined).encode()
    labels = sorted({run.record.label for run in runs.runs})
    critical = dict(plots.critical(combined, labels, boards[0].control)) if boards else {}
    yield from critical.items()
    files = {board.task: board_stem(board.task) for board in boards}
    sections = [profile_tables.index_section(made, profile_stem(made)) for made in profiles]
    drawn = [name for name in critical if name.endswith(".svg")]
    shown = {*files, *(profile.trained_on for profile in profiles)}
    unfinished = [task for task in runs.tasks() if task not in shown]
    page = front.index(combined, boards, files, unfinished, drawn)
    yield "board.md", "\n".join([page, *sections, *links(robust)]).encode()


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of one.

    In a CSV file, text that a spreadsheet would run as a formula is made inert.
    """
    content = inert(content) if path.suffix == ".csv" else content
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
