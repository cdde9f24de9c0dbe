"""Boards are pure functions of records: collect, compare, print, plot."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.harness.errors import UserError, unknown
from steelyard.leaderboards.escape import inert
from steelyard.leaderboards.steps import Report, Steps, silent

if TYPE_CHECKING:
    from steelyard.leaderboards.board import Board
    from steelyard.leaderboards.collect import Runs
    from steelyard.leaderboards.factors import Factorial
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
        report: told what is done now and the share of all that is done.

    Raises:
        UserError: there is nothing to show, no board has the control, the runs cannot be compared,
            or a file cannot be written.
    """
    from steelyard.leaderboards import board, profile
    from steelyard.leaderboards.collect import collect

    report("reading records", 0.0)
    runs = collect(folders, backbone=backbone, budget=budget, track=track)
    _check_control(runs, control)
    finished = sorted({run.record.spec.task for run in runs.runs if run.record.status == "done"})
    profiled = [task for task in finished if profile.is_profile(runs.of(task))]
    ranked = [task for task in finished if task not in profiled]
    steps = Steps(report, 1 + 3 * len(finished), done=1)
    boards = [
        board.build(runs, task, control=_control(runs, task, control), kinds=kinds)
        for task in steps.of("resampling items", ranked, str)
    ]
    profiles = [
        profile.build(runs, task, control=_control(runs, task, control), kinds=kinds)
        for task in steps.of("resampling items", profiled, str)
    ]
    designs = _designs(profiles)
    content = dict(_files(runs, boards, profiles, designs, steps))
    if html:
        from steelyard.leaderboards.page import page

        made = page(folders, runs, boards, profiles, designs, content)
        content = {"index.html": made, **content}
    files = [replace_file(out / name, text) for name, text in content.items()]
    return Published(tuple(files), tuple(boards), tuple(profiles))


def _check_control(runs: "Runs", control: str | None) -> None:
    labels = {run.record.label for run in runs.runs}
    if control is not None and control not in labels:
        raise unknown("control", control, labels)


def _control(runs: "Runs", task: str, wanted: str | None) -> str:
    from steelyard.leaderboards.profile import default_control

    labels = {run.record.label: run for run in runs.of(task)}
    return wanted if wanted in labels else default_control(labels)


def stem(task: str) -> str:
    """File name of a task's board, without ending."""
    return "board-" + re.sub(r"[^A-Za-z0-9_.-]", "_", task)


def _files(
    runs: "Runs",
    boards: Sequence["Board"],
    profiles: Sequence["Profile"],
    designs: "Mapping[str, Sequence[Factorial]]",
    steps: Steps,
) -> Iterator[tuple[str, bytes]]:
    from steelyard.leaderboards import (
        export,
        front,
        oracle,
        plots,
        profile_tables,
        robustness_files,
        tables,
    )
    from steelyard.leaderboards.missing_tables import tables_of
    from steelyard.leaderboards.overall import overall

    labels = sorted({run.record.label for run in runs.runs})
    for board in steps.of("figures and tables", boards, lambda made: made.task):
        name = stem(board.task)
        figures = {f"{name}-{end}": content for end, content in plots.figures(board, labels)}
        yield from figures.items()
        pictures = [file for file in figures if file.endswith(".svg")]
        yield f"{name}.md", tables.markdown(board, pictures).encode()
        yield f"{name}.csv", export.as_csv(board).encode()
        yield f"{name}.json", export.as_json(board).encode()
        yield f"{name}.tex", tables.latex(board).encode()
    for made in steps.of("figures and tables", profiles, lambda made: made.trained_on):
        yield from _profile_files(made, designs[made.trained_on])
    yield from tables_of(runs.runs).items()
    robust = dict(robustness_files.files(runs, boards, profiles, steps))
    yield from robust.items()
    combined = overall(boards)
    yield "scores.csv", runs.scores.to_csv(index=False, float_format="%.10g").encode()
    if runs.oracle:
        yield "oracle.md", oracle.markdown(runs.oracle).encode()
        yield "oracle.csv", oracle.as_csv(runs.oracle).encode()
    if boards:
        yield "overall.json", export.as_json(combined).encode()
    critical = dict(plots.critical(combined, labels, boards[0].control)) if boards else {}
    yield from critical.items()
    files = {board.task: stem(board.task) for board in boards}
    sections = [profile_tables.index_section(made, profile_stem(made)) for made in profiles]
    drawn = [name for name in critical if name.endswith(".svg")]
    shown = {*files, *(profile.trained_on for profile in profiles)}
    unfinished = [task for task in runs.tasks() if task not in shown]
    page = front.index(combined, boards, files, unfinished, drawn)
    yield "board.md", "\n".join([page, *sections, *robustness_files.links(robust)]).encode()


def profile_stem(profile: "Profile") -> str:
    """File name of a profile, without ending."""
    return stem(profile.trained_on).replace("board-", "profile-")


def _designs(profiles: Sequence["Profile"]) -> "dict[str, list[Factorial]]":
    """The factorials of each profile by the task it was trained on."""
    from steelyard.leaderboards.factors import factorials

    return {each.trained_on: factorials(each.groups, each.samples, each.shown) for each in profiles}


def _profile_files(
    profile: "Profile", designs: "Sequence[Factorial]"
) -> Iterator[tuple[str, bytes]]:
    from steelyard.leaderboards import factors, profile_plots, profile_tables

    name = profile_stem(profile)
    figures = {f"{name}-{end}": content for end, content in profile_plots.figures(profile)}
    yield from figures.items()
    pictures = [file for file in figures if file.endswith(".svg")]
    yield f"{name}.md", profile_tables.markdown(profile, designs, pictures).encode()
    yield f"{name}.csv", profile_tables.as_csv(profile).encode()
    yield f"{name}.json", profile_tables.as_json(profile, designs).encode()
    yield f"{name}.tex", profile_tables.latex(profile, designs).encode()
    if designs:
        yield f"{name}-factors.csv", factors.as_csv(designs).encode()


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
