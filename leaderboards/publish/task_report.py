"""Reports of all tasks and their summary, built in parallel."""

import gc
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from steelyard.harness.core.files import digest
from steelyard.harness.core.folders import find
from steelyard.harness.core.processes import Workers, call_bytes, spread
from steelyard.harness.core.progress import Progress
from steelyard.leaderboards.boards import board, factorial, summary, tables
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.factorial import Factorial
from steelyard.leaderboards.boards.plots import board as plots
from steelyard.leaderboards.boards.summary import Summary
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.loading.memo import remembered
from steelyard.leaderboards.output.style import KINDS, Figures, render
from steelyard.leaderboards.robustness import tables as robustness

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLING, TABLES, FIGURES = "resampling items", "robustness and tables", "figures"
READ, RESAMPLED, TABLED = 0.1, 0.5, 0.7
"""Fraction of all work once the records are read; of a task's once resampled and tabled."""
SOURCES = ("boards", "output", "robustness", "stats")
"""Packages with the code that draws figures."""
OnProgress = Callable[[str, str, float], None]
"""Called with a task, its stage and the finished fraction of its work."""


@dataclass(frozen=True, slots=True)
class ReportRequest:
    runs: Runs
    """Runs of this task only."""
    task: str
    control: str | None
    kinds: Mapping[str, str]
    labels: tuple[str, ...]
    """Labels of all tasks, so that an entry looks the same in each report."""


@dataclass(frozen=True, slots=True)
class Drawing:
    task: str
    stem: str
    draw: Callable[[], "Figure"]
    runs: int
    """Of all boards; figures of few are not remembered."""


@dataclass(frozen=True, slots=True)
class SummaryRequest:
    task: str
    """The last that was reported."""
    runs: Runs
    """Of all tasks."""
    boards: Sequence[Board]


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


def build_all(
    requests: Sequence[ReportRequest], runs: Runs, workers: Workers, report: Progress
) -> tuple[list[TaskReport], Summary, dict[str, bytes]]:
    """Build reports and figures in this process and workers; equal bytes with any number of these.

    Returns:
        The reports in the order of the requests, their summary, and all files by name, the figures
        of each report before its other files.

    Raises:
        UserError: a report cannot be built, or a worker process was killed.
    """
    fractions = {request.task: 0.0 for request in requests}
    tasks: dict[str, TaskReport] = {}
    drawings: dict[str, bytes] = {}
    summaries: list[Summary] = []

    def on_progress(task: str, stage: str, fraction: float) -> None:
        # A message of a worker may arrive after its result; progress never falls.
        fractions[task] = max(fractions[task], fraction)
        total = sum(fractions.values()) / len(fractions)
        report(f"{task}: {stage}", READ + (1 - READ) * total)

    # A large task begun last would keep one process busy while the others wait.
    largest_first = sorted(requests, key=_size, reverse=True)
    jobs = deque[ReportRequest | Drawing | SummaryRequest](largest_first)
    # A figure is not worth the start of one more worker.
    workers.limit = min(workers.limit, max(1, len(requests) - 1))
    for job, future in spread(_work, jobs, workers, on_progress, parent_works=True):
        result = future.result()
        if isinstance(result, TaskReport):
            tasks[result.task] = result
            jobs.extend(Drawing(result.task, *f, len(runs.runs)) for f in result.figures.items())
            if len(tasks) == len(requests):
                # This process takes the first job, and workers draw meanwhile.
                boards = [tasks[request.task].board for request in requests]
                jobs.appendleft(SummaryRequest(result.task, runs, boards))
        elif isinstance(result, Summary):
            summaries.append(result)
        else:
            drawings |= result
        figures = tasks[job.task].figures
        drawn = sum(f"{stem}.svg" in drawings for stem in figures)
        fraction = (1 + drawn) / (1 + len(figures))
        stage = FIGURES if drawn < len(figures) else "done"
        on_progress(job.task, stage, TABLED + (1 - TABLED) * fraction)
    reports = [tasks[request.task] for request in requests]
    combined = summaries[0]
    drawings |= _rendered(combined.figures, len(runs.runs))
    files: dict[str, bytes] = {}
    parts: list[TaskReport | Summary] = [*reports, combined]
    for part in parts:
        names = [f"{stem}.{kind}" for stem in part.figures for kind in KINDS]
        files |= {name: drawings[name] for name in names} | dict(part.files)
    return reports, combined, files


def _size(request: ReportRequest) -> float:
    """Estimate the time to resample, in items; an AUROC takes twice as long as a mean."""
    scores = [score for run in request.runs.runs for score in run.record.scores if score.main]
    return sum(score.n * (2 if score.metric == "auroc" else 1) for score in scores)


def start_worker() -> None:
    gc.disable()  # no record is garbage: a search among them, also at exit, takes half a second
    # While the parent still reads records, so that the first figure need not wait.
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401


def _work(
    job: ReportRequest | Drawing | SummaryRequest, on_progress: OnProgress
) -> TaskReport | Summary | dict[str, bytes]:
    # Processes that each use all cores for sums take twice as long.
    with threadpool_limits(1, user_api="blas"):
        if isinstance(job, Drawing):
            return _rendered({job.stem: job.draw}, job.runs)
        if isinstance(job, SummaryRequest):
            return summary.build(job.runs, job.boards, lambda: on_progress(job.task, FIGURES, 0.0))
        on_progress(job.task, RESAMPLING, 0.0)
        return _task_report(job, on_progress)


def _rendered(figures: Figures, runs: int) -> dict[str, bytes]:
    """Render figures, but for those that the same source drew from the same numbers before."""
    files: dict[str, bytes] = {}
    for stem, draw in figures.items():
        sources, keys = [_source(), call_bytes(draw)], [(0, 0, 0, 0, 0), (0, 0, 0, 0, 1)]
        compute = partial(_contents, draw)
        contents = remembered("figures", sources, keys, compute, at_once=len(keys), files=runs)
        names = (f"{stem}.{kind}" for kind in KINDS)
        files |= zip(names, map(bytes, contents), strict=True)
    return files


def _contents(draw: Callable[[], "Figure"], kinds: Sequence[int]) -> list[bytes]:
    contents = [*render({"": draw}).values()]
    return [contents[kind] for kind in kinds]


@cache
def _source() -> bytes:
    """Hash what decides the bytes of a figure beside its numbers."""
    folders = (Path(__file__).parents[1] / name for name in SOURCES)
    paths = (path for folder in folders for path in find(folder, ".py", ".mplstyle"))
    versions = (version(package).encode() for package in ("matplotlib", "numpy"))
    return digest([*versions, *(path.read_bytes() for path in paths)]).encode()


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
