"""Report files of one task, and of several tasks in parallel."""

import atexit
import gc
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from threadpoolctl import threadpool_limits

from steelyard.harness.core.processes import spread
from steelyard.harness.core.progress import Progress
from steelyard.leaderboards.boards import (
    board,
    factorial,
    plots,
    profile,
    profile_plots,
    profile_tables,
    tables,
)
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.factorial import Factorial, factorials
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.style import Figures, render
from steelyard.leaderboards.robustness import tables as robustness

RESAMPLING, TABLES, FIGURES = "resampling items", "robustness and tables", "figures"
READ, RESAMPLED, TABLED = 0.1, 0.5, 0.7
"""Fraction of all work once the records are read; of a task's once resampled and tabled."""
OnProgress = Callable[[str, str, float], None]
"""Called with a task, its stage and the finished fraction of its work."""


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """Input of one task report."""

    runs: Runs
    """Runs of this task only."""
    task: str
    control: str
    kinds: Mapping[str, str]
    labels: tuple[str, ...]
    """Labels of all tasks, so that an entry looks the same in each report."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """Result of one task."""

    task: str
    board: Board | Profile
    """Without its resamples, which would fill the memory."""
    designs: tuple[Factorial, ...]
    """Factorials among the entries of a profile."""
    files: Mapping[str, bytes]
    """By name, figures first."""


class _Pages(NamedTuple):
    board: Board | Profile
    designs: tuple[Factorial, ...]
    files: dict[str, bytes]
    figures: Figures


def build_all(requests: Sequence[ReportRequest], jobs: int, report: Progress) -> list[TaskReport]:
    """Build every report, in at most ``jobs`` processes; the bytes do not depend on ``jobs``.

    Raises:
        UserError: a report cannot be built, or a worker process was killed.
    """
    fractions = {request.task: 0.0 for request in requests}
    reports: dict[str, TaskReport] = {}

    def on_progress(task: str, stage: str, fraction: float) -> None:
        fractions[task] = max(fractions[task], fraction)
        total = sum(fractions.values()) / len(fractions)
        report(f"{task}: {stage}", READ + (1 - READ) * total)

    largest_first = sorted(requests, key=_size, reverse=True)
    workers = min(jobs, len(requests)) - 1
    for _, future in spread(
        build, largest_first, workers, on_progress, _start_worker, parent_works=True
    ):
        result = future.result()
        reports[result.task] = result
        on_progress(result.task, "done", 1.0)
    return [reports[request.task] for request in requests]


def _size(request: ReportRequest) -> float:
    """Estimate the time to resample, in items; an AUROC takes twice as long as a mean."""
    scores = [score for run in request.runs.runs for score in run.record.scores if score.main]
    return sum(score.n * (2 if score.metric == "auroc" else 1) for score in scores)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports Ctrl-C
    gc.disable()  # no record is garbage: a search among them, also at exit, takes half a second
    atexit.register(gc.freeze)
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401


def build(request: ReportRequest, on_progress: OnProgress) -> TaskReport:
    """Build the board or profile of a task, its tables and its figures."""
    task = request.task
    # Processes that each use all cores for sums take twice as long.
    with threadpool_limits(1, user_api="blas"):
        on_progress(task, RESAMPLING, 0.0)
        is_profile = profile.is_profile(request.runs.runs)
        pages = (_profile_pages if is_profile else _board_pages)(request, on_progress)
        drawings: dict[str, bytes] = {}
        for count, (stem, draw) in enumerate(pages.figures.items()):
            on_progress(task, FIGURES, TABLED + (1 - TABLED) * count / len(pages.figures))
            drawings |= render({stem: draw})
    return TaskReport(task, pages.board, pages.designs, drawings | pages.files)


def _board_pages(request: ReportRequest, on_progress: OnProgress) -> _Pages:
    result = board.build(
        request.runs,
        request.task,
        control=request.control,
        kinds=request.kinds,
        progress=lambda fraction: on_progress(request.task, RESAMPLING, RESAMPLED * fraction),
    )
    on_progress(request.task, TABLES, RESAMPLED)
    stem = result.stem
    figures = {f"{stem}-{end}": draw for end, draw in plots.figures(result, request.labels).items()}
    pictures = [f"{name}.svg" for name in figures]
    files = tables.report(result, pictures).files()
    more_files, more_figures = robustness.board_report(result, request.labels)
    light = replace(result, entry_scores={})
    return _Pages(light, (), files | more_files, {**figures, **more_figures})


def _profile_pages(request: ReportRequest, on_progress: OnProgress) -> _Pages:
    result = profile.build(request.runs, request.task, control=request.control, kinds=request.kinds)
    designs = tuple(factorials(result.groups, result.samples, result.clean))
    on_progress(request.task, TABLES, RESAMPLED)
    stem = result.stem
    figures = {f"{stem}-{end}": draw for end, draw in profile_plots.figures(result).items()}
    pictures = [f"{name}.svg" for name in figures]
    files = profile_tables.report(result, designs, pictures).files()
    if designs:
        files[f"{stem}-factors.csv"] = factorial.as_csv(designs).encode()
    more_files, more_figures = robustness.profile_report(result)
    light = replace(result, groups={})
    return _Pages(light, designs, files | more_files, {**figures, **more_figures})
