"""Write every board, figure and page from folders of records."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.harness.core.errors import unknown
from steelyard.harness.core.processes import helpers
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.leaderboards.loading.garbage import unsearched
from steelyard.leaderboards.output.files import write_files

if TYPE_CHECKING:
    from steelyard.leaderboards.boards.board import Board
    from steelyard.leaderboards.boards.profile import Profile
    from steelyard.leaderboards.loading.collect import Runs
    from steelyard.leaderboards.publish.task_report import Ask


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
    report: Progress = no_progress,
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
        jobs: processes at most, this one and those that help: one more, or one for each task but
            one. A script that asks for more than 1 starts under ``if __name__ == "__main__"``, as
            spawned processes need.
        report: told what is done now and the share of all that is done.

    Raises:
        UserError: there is nothing to show, no board has the control, the runs cannot be compared,
            or a file cannot be written.
    """
    report("reading records", 0.0)
    with unsearched():  # what is imported stays too
        with helpers(jobs - 1, load) as crew:
            from steelyard.leaderboards.boards import summary
            from steelyard.leaderboards.loading.collect import collect
            from steelyard.leaderboards.loading.missing_tables import tables_of
            from steelyard.leaderboards.publish import task_report

            runs = collect(folders, backbone=backbone, budget=budget, track=track, helpers=crew)
            _check_control(runs, control)
            book = task_report.make_all(list(_asks(runs, control, kinds or {})), runs, crew, report)
        content = {**tables_of(runs.runs), **book.files}
        content["board.md"] = summary.front_page(runs, book.whole, list(content))
        if html:
            from steelyard.leaderboards.page.page import page

            designs = {chapter.task: chapter.designs for chapter in book.chapters}
            content = {"index.html": page(folders, runs, book.whole, designs, content), **content}
        files = write_files(out, content)
    return Published(tuple(files), book.whole.boards, book.whole.profiles)


def load() -> None:
    """Import what boards take, in a process that waits for the first of them."""
    gc.disable()  # most of what is sent are records, which ``set_aside`` leaves out later
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401


def _check_control(runs: "Runs", control: str | None) -> None:
    labels = {run.record.label for run in runs.runs}
    if control is not None and control not in labels:
        raise unknown("control", control, labels)


def _control(runs: "Runs", task: str, wanted: str | None) -> str:
    from steelyard.leaderboards.boards.profile import default_control

    labels = {run.record.label: run for run in runs.of(task)}
    return wanted if wanted in labels else default_control(labels)


def _asks(runs: "Runs", control: str | None, kinds: Mapping[str, str]) -> "Iterator[Ask]":
    """What is to be made of each task of which a run finished."""
    from steelyard.leaderboards.loading.collect import Runs
    from steelyard.leaderboards.publish.task_report import Ask

    labels = tuple(sorted({run.record.label for run in runs.runs}))
    for task in sorted({run.record.spec.task for run in runs.runs if run.record.status == "done"}):
        own = Runs(runs.of(task))
        yield Ask(own, task, _control(runs, task, control), kinds, labels)
