"""Everything that is published of one task, for several tasks at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from steelyard.harness.core.processes import Helpers
from steelyard.harness.core.progress import Progress
from steelyard.leaderboards.boards import board, profile, summary
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.factorial import Factorial, factorials
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.boards.summary import Summary
from steelyard.leaderboards.loading.collect import Runs
from steelyard.leaderboards.loading.garbage import set_aside
from steelyard.leaderboards.output.style import KINDS, Figures, render
from steelyard.leaderboards.publish import task_files
from steelyard.leaderboards.robustness import files as robustness_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLING, TABLES, FIGURES = "resampling items", "robustness and tables", "figures"
MEASURED, BUILT = 0.5, 0.7
"""Shares of a task's work that are done when its items are resampled, and its tables made."""
SLOW = 2
"""How much longer an item takes, about, whose AUROC is resampled than one whose scores are."""
Tell = Callable[[str, str, float], None]
"""Called with a task, what is done for it and the share that is finished."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a chapter is to be made of."""

    runs: Runs
    """Those of the task."""
    task: str
    control: str
    kinds: Mapping[str, str]
    labels: tuple[str, ...]
    """Those of all tasks, so that an entry looks the same in each."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure that is to be drawn."""

    task: str
    """Empty for one of all tasks."""
    stem: str
    draw: Callable[[], "Figure"]


@dataclass(frozen=True, slots=True)
class Chapter:
    """What one task's runs say."""

    task: str
    shown: Board | Profile
    """Without what only its own files are made of, which would fill the memory."""
    designs: tuple[Factorial, ...]
    """The factorials among the entries of a profile."""
    files: Mapping[str, bytes]
    """But figures, by name."""
    figures: Figures
    """By stem."""


@dataclass(frozen=True, slots=True)
class Book:
    """The chapters in the order asked for, the whole of them, and the files of all."""

    chapters: tuple[Chapter, ...]
    whole: Summary
    drawn: Mapping[str, bytes]
    """Figures by file name."""

    @property
    def files(self) -> dict[str, bytes]:
        """By name: those of each chapter, then those of the whole; without the front page."""
        found: dict[str, bytes] = {}
        parts: tuple[Chapter | Summary, ...] = (*self.chapters, self.whole)
        for part in parts:
            names = [f"{stem}.{kind}" for stem in part.figures for kind in KINDS]
            found |= {name: self.drawn[name] for name in names} | dict(part.files)
        return found


def make_all(asks: Sequence[Ask], runs: Runs, helpers: Helpers, report: Progress) -> Book:
    """All chapters and their figures, equal ones whoever makes them.

    The whole is built as soon as every chapter is there, while helpers draw.

    Raises:
        UserError: a chapter cannot be made, or a process that helped was killed.
    """
    longest = sorted(asks, key=lambda ask: -_work_of(ask.runs))
    left: deque[Ask | Drawing] = deque(longest)
    shares = {ask.task: 0.0 for ask in asks}
    chapters: dict[str, Chapter] = {}
    drawn: dict[str, bytes] = {}
    wholes = [] if asks else [summary.build(runs, ())]

    def heard(task: str, doing: str, share: float) -> None:
        shares[task] = max(shares[task], share)
        # A task is about as much as three times the reading of its records.
        report(f"{task}: {doing}", (1 + 3 * sum(shares.values())) / (1 + 3 * len(shares)))

    def done(job: Ask | Drawing, made: Chapter | dict[str, bytes]) -> None:
        if isinstance(made, Chapter):
            chapters[made.task] = made
            left.extend(_drawings(made.task, made.figures))
        else:
            drawn.update(made)
        if job.task:
            heard(job.task, *_drawing_of(chapters[job.task], drawn))
        if len(chapters) == len(asks) and not wholes:
            wholes.append(summary.build(runs, [chapters[ask.task].shown for ask in asks]))
            left.extend(_drawings("", wholes[0].figures))

    with _frugal():
        helpers.share(make, left, heard, done, most=max(1, len(asks) - 1))
    return Book(tuple(chapters[ask.task] for ask in asks), wholes[0], drawn)


def _drawings(task: str, figures: Figures) -> Iterator[Drawing]:
    return (Drawing(task, stem, draw) for stem, draw in figures.items())


def _drawing_of(chapter: Chapter, drawn: Mapping[str, bytes]) -> tuple[str, float]:
    """What is done for a chapter that was built, and the share of its work that is finished."""
    there = sum(f"{stem}.svg" in drawn for stem in chapter.figures)
    if there == len(chapter.figures):
        return "done", 1.0
    return FIGURES, BUILT + (1 - BUILT) * there / len(chapter.figures)


@contextmanager
def _frugal() -> Iterator[None]:
    """One core for sums: of processes that spread theirs over all, each takes twice as long.

    And no search for garbage among the records.
    """
    with threadpool_limits(1, user_api="blas"), set_aside():
        yield


def _work_of(runs: Runs) -> float:
    """About how long a task's runs take to resample, in a unit of its own."""
    main = [score for run in runs.runs for score in run.record.scores if score.main]
    return sum(score.n * (SLOW if score.metric == "auroc" else 1) for score in main)


def make(job: Ask | Drawing, tell: Tell) -> Chapter | dict[str, bytes]:
    """One task's chapter, or the files of one figure."""
    with _frugal():
        if isinstance(job, Drawing):
            return render({job.stem: job.draw})
        tell(job.task, RESAMPLING, 0.0)
        of_profile = profile.is_profile(job.runs.runs)
        return _of_profile(job, tell) if of_profile else _of_board(job, tell)


def _of_board(ask: Ask, tell: Tell) -> Chapter:
    made = board.build(
        ask.runs,
        ask.task,
        control=ask.control,
        kinds=ask.kinds,
        done=lambda share: tell(ask.task, RESAMPLING, MEASURED * share),
    )
    tell(ask.task, TABLES, MEASURED)
    files, figures = task_files.of_board(made, ask.labels)
    more, fans = robustness_files.of_board(made, ask.labels)
    light = replace(made, entry_scores={})
    return Chapter(ask.task, light, (), files | more, {**figures, **fans})


def _of_profile(ask: Ask, tell: Tell) -> Chapter:
    made = profile.build(ask.runs, ask.task, control=ask.control, kinds=ask.kinds)
    designs = tuple(factorials(made.groups, made.samples, made.shown))
    tell(ask.task, TABLES, MEASURED)
    files, figures = task_files.of_profile(made, designs)
    more, fans = robustness_files.of_profile(made)
    light = replace(made, groups={})
    return Chapter(ask.task, light, designs, files | more, {**figures, **fans})
