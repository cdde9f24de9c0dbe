"""Reports of all tasks and their summary, built in parallel."""

import atexit
import gc
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from steelyard.harness.core.processes import Workers, spread
from steelyard.harness.core.progress import Progress
from steelyard.leaderboards.boards import board, factorial, summary, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.factorial import Factorial
from steelyard.leaderboards.boards.plots import board as plots
from steelyard.leaderboards.boards.summary import Summary
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.output.style import KINDS, Figures, render
from steelyard.leaderboards.robustness import tables as robustness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLING, TABLES, FIGURES = "resampling items", "robustness and tables", "figures"
READ, RESAMPLED, TABLED = 0.1, 0.5, 0.7
"""Fraction of all work once the records are read; of a task's once resampled and tabled."""
OnProgress = Callable[[str, str, float], None]
"""Called with a task, its stage and the finished fraction of its work."""


@dataclass(frozen=True, slots=True)
class ReportRequest:
    runs: Runs
    """Runs of this task only."""
    task: str
    control: str
    kinds: Mapping[str, str]
    labels: tuple[str, ...]
    """Labels of all tasks, so that an entry looks the same in each report."""


@dataclass(frozen=True, slots=True)
class SummaryRequest:
    runs: Runs
    boards: Sequence[Board]


@dataclass(frozen=True, slots=True)
class Drawing:
    task: str
    """Empty for a figure of all tasks."""
    stem: str
    draw: Callable[[], "Figure"]


ReportJob = ReportRequest | SummaryRequest | Drawing


@dataclass(frozen=True, slots=True)
class TaskReport:
    task: str
    board: Board
    """Without its resamples, which would fill the memory."""
    designs: tuple[Factorial, ...]
    """Factorials among the entries."""
    files: Mapping[str, bytes]
    """By name, without figures."""
    figures: Figures
    """By stem."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Results of all tasks, in the order of the requests."""

    tasks: Sequence[TaskReport]
    summary: Summary
    drawings: Mapping[str, bytes]
    """Figures by file name."""

    @property
    def files(self) -> dict[str, bytes]:
        """Return all files by name, the figures of each part before its other files."""
        files: dict[str, bytes] = {}
        parts: list[TaskReport | Summary] = [*self.tasks, self.summary]
        for part in parts:
            names = [f"{stem}.{kind}" for stem in part.figures for kind in KINDS]
            files |= {name: self.drawings[name] for name in names} | dict(part.files)
        return files


def build_all(
    requests: Sequence[ReportRequest], runs: Runs, workers: Workers, report: Progress
) -> Reports:
    """Build reports, summary and figures in this process and workers; equal bytes with any number.

    Raises:
        UserError: a report cannot be built, or a worker process was killed.
    """
    fractions = {request.task: 0.0 for request in requests}
    tasks: dict[str, TaskReport] = {}
    summaries: list[Summary] = []
    drawings: dict[str, bytes] = {}

    def on_progress(task: str, stage: str, fraction: float) -> None:
        # A message of a worker may arrive after its result; progress never falls.
        fractions[task] = max(fractions[task], fraction)
        total = sum(fractions.values()) / len(fractions)
        report(f"{task}: {stage}", READ + (1 - READ) * total)

    # A large task begun last would keep one process busy while the others wait.
    largest_first = sorted(requests, key=_size, reverse=True)
    jobs = deque[ReportJob](largest_first)
    if not requests:
        jobs.append(SummaryRequest(runs, ()))
    # A figure is not worth the start of one more worker.
    workers = workers._replace(limit=min(workers.limit, max(1, len(requests) - 1)))
    for job, future in spread(_work, jobs, workers, on_progress, parent_works=True):
        result = future.result()
        if isinstance(result, TaskReport):
            tasks[result.task] = result
            jobs.extend(Drawing(result.task, *figure) for figure in result.figures.items())
            if len(tasks) == len(requests):
                boards = [tasks[request.task].board for request in requests]
                jobs.appendleft(SummaryRequest(runs, boards))  # for this process, with all runs
        elif isinstance(result, Summary):
            summaries.append(result)
            jobs.extend(Drawing("", *figure) for figure in result.figures.items())
        else:
            drawings |= result
        if isinstance(job, ReportRequest | Drawing) and job.task:
            figures = tasks[job.task].figures
            count = sum(f"{stem}.svg" in drawings for stem in figures)
            if count == len(figures):
                on_progress(job.task, "done", 1.0)
            else:
                on_progress(job.task, FIGURES, TABLED + (1 - TABLED) * count / len(figures))
    return Reports([tasks[request.task] for request in requests], summaries[0], drawings)


def _size(request: ReportRequest) -> float:
    """Estimate the time to resample, in items; an AUROC takes twice as long as a mean."""
    scores = [score for run in request.runs.runs for score in run.record.scores if score.main]
    return sum(score.n * (2 if score.metric == "auroc" else 1) for score in scores)


def start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent reports Ctrl-C
    gc.disable()  # no record is garbage: a search among them, also at exit, takes half a second
    atexit.register(gc.freeze)
    # While the parent still reads records, so that the first figure need not wait.
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401


def _work(job: ReportJob, on_progress: OnProgress) -> TaskReport | Summary | dict[str, bytes]:
    # Processes that each use all cores for sums take twice as long.
    with threadpool_limits(1, user_api="blas"):
        if isinstance(job, Drawing):
            return render({job.stem: job.draw})
        if isinstance(job, SummaryRequest):
            return summary.build(job.runs, job.boards)
        on_progress(job.task, RESAMPLING, 0.0)
        return _task_report(job, on_progress)


def _task_report(request: ReportRequest, on_progress: OnProgress) -> TaskReport:
    result = board.build(
        request.runs,
        request.task,
        control=request.control,
        kinds=request.kinds,
        progress=lambda fraction: on_progress(request.task, RESAMPLING, RESAMPLED * fraction),
    )
    on_progress(request.task, TABLES, RESAMPLED)
    designs = tuple(factorial.of_board(result)) if result.several else ()
    main_figures = plots.figures(result, request.labels)
    main_figures = {f"{result.stem}-{end}": draw for end, draw in main_figures.items()}
    main = tables.report(result, designs, main_figures)
    files: dict[str, bytes] = {}
    figures: dict[str, Callable[[], Figure]] = {}
    for report in filter(None, (main, robustness.board_report(result, request.labels))):
        files |= report.files()
        figures |= report.all_figures
    if designs:
        files[f"{result.stem}-factors.csv"] = factorial.as_csv(designs).encode()
    light = replace(result, measured={}, groups={})  # after their last use, before it is pickled
    return TaskReport(request.task, light, designs, files, figures)
