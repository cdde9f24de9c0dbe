"""Write every board, figure and page from folders of records.

publish([Path("runs")], Path("board"), control="joint", html=True)
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steelyard.harness.core.errors import unknown
from steelyard.harness.core.processes import start_workers
from steelyard.harness.core.progress import Progress, no_progress
from steelyard.leaderboards.boards import summary
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.loading.collect import Runs, collect
from steelyard.leaderboards.loading.missing_tables import tables_of
from steelyard.leaderboards.output.files import write_files
from steelyard.leaderboards.page.page import page
from steelyard.leaderboards.publish import task_report
from steelyard.leaderboards.publish.task_report import ReportRequest
from steelyard.leaderboards.robustness import tables as robustness


@dataclass(frozen=True, slots=True)
class Published:
    """Paths of the written files, and the boards in them."""

    files: tuple[Path, ...]
    """The last is the front page, ``board.md``."""
    boards: tuple[Board, ...]


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

    Equal records give equal bytes. Each file is replaced atomically, the front page last.

    Args:
        folders: searched for run folders at any depth.
        out: created if absent; files of other names in it are kept.
        control: label of the entry that all others are compared with, on every board that has it;
            on other boards, and by default, the first of ``board.CONTROLS`` that a board has.
        kinds: kind of each entry by label, or by method name for all entries of a method.
        backbone: use only runs of this backbone.
        budget: use only runs of this budget.
        track: use only runs of this track.
        html: also write ``index.html``, one page of all boards that needs no server.
        jobs: processes at most, this one included; useful up to the number of tasks, and at least
            two. A script that asks for more than 1 starts under ``if __name__ == "__main__"``, as
            spawned processes need.
        report: called with the current step and the finished fraction of the work.

    Raises:
        UserError: there is no record, no board has the control, the runs cannot be compared,
            or a file cannot be written.
    """
    report("reading records", 0.0)
    with start_workers(jobs - 1, task_report.start_worker) as workers:
        # No record is garbage: searches among ten thousand take a tenth of the time.
        gc.disable()
        try:
            runs = collect(folders, backbone=backbone, budget=budget, track=track)
            gc.freeze()
            gc.enable()
            requests = list(_requests(runs, control, kinds or {}))
            reports, combined, files = task_report.build_all(requests, runs, workers, report)
        finally:
            gc.unfreeze()
            gc.enable()
    contents = tables_of(runs.runs) | files
    contents["board.md"] = summary.front_page(runs, combined, robustness.links(contents))
    if html:
        designs = {task.task: task.designs for task in reports}
        # The front page stays last: once it is written, all files that it links exist.
        contents = {"index.html": page(folders, runs, combined, designs, contents), **contents}
    return Published(tuple(write_files(out, contents)), combined.boards)


def _requests(runs: Runs, control: str | None, kinds: Mapping[str, str]) -> Iterator[ReportRequest]:
    """Yield the input of each task that has a finished run."""
    labels = sorted({run.record.label for run in runs.runs})
    if control is not None and control not in labels:
        raise unknown("control", control, labels)
    for task in runs.tasks():
        task_runs = runs.of(task)
        if any(run.record.status == "done" for run in task_runs):
            yield ReportRequest(Runs(task_runs), task, control, kinds, tuple(labels))
