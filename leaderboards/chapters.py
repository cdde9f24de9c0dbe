"""Everything that is published of one task, for several tasks at a time."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from steelyard.harness.errors import UserError
from steelyard.harness.workers import Helpers
from steelyard.leaderboards import board, chapter_files, profile, robustness_files, whole
from steelyard.leaderboards.board import Board
from steelyard.leaderboards.collect import Runs
from steelyard.leaderboards.factors import Factorial, factorials
from steelyard.leaderboards.garbage import set_aside
from steelyard.leaderboards.profile import Profile
from steelyard.leaderboards.steps import Report
from steelyard.leaderboards.whole import Whole

RESAMPLING = "resampling items"
SLOW = 2
"""How much longer an item takes, about, whose AUROC is resampled than one whose scores are."""
Tell = Callable[..., None]
"""Called with a task, what is done for it, the finished share and, once built, what is shown."""


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
class Chapter:
    """One task's files by name."""

    task: str
    designs: tuple[Factorial, ...]
    """The factorials among the entries of a profile."""
    files: Mapping[str, bytes]


def load() -> None:
    """Import what chapters take, in a process that waits for the first of them."""
    gc.disable()  # most of what is sent are records, which ``set_aside`` leaves out later
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg  # noqa: F401


def make_all(
    asks: Sequence[Ask],
    runs: Runs,
    helpers: Helpers,
    report: Report,
) -> tuple[list[Chapter], Whole]:
    """The chapters in the order asked for, equal ones whoever makes them, and the whole of them.

    That is built as soon as what is shown of every task is there, mostly while helpers still draw.

    Raises:
        UserError: a chapter cannot be made, or a process that helped was killed.
    """
    shares = {ask.task: 0.0 for ask in asks}
    shown: dict[str, Board | Profile] = {}
    wholes = [] if asks else [whole.build(runs, ())]

    def heard(task: str, doing: str, share: float, made: Board | Profile | None = None) -> None:
        shares[task] = share
        # A chapter has three steps; one more was the reading of the records.
        report(f"{task}: {doing}", (1 + 3 * sum(shares.values())) / (1 + 3 * len(shares)))
        if made is not None:
            shown[task] = made
            if len(shown) == len(asks):
                wholes.append(whole.build(runs, [shown[ask.task] for ask in asks]))

    longest = sorted(asks, key=lambda ask: -_work_of(ask.runs))
    try:
        with _frugal():
            made = helpers.share(make, longest, heard)
    except BrokenProcessPool as error:
        raise UserError(
            "A process that made boards was killed, most often for want of memory: try --jobs 1."
        ) from error
    by_task = {chapter.task: chapter for chapter in made}
    return [by_task[ask.task] for ask in asks], wholes[0]


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


def make(ask: Ask, tell: Tell) -> Chapter:
    """One task's chapter."""
    tell(ask.task, RESAMPLING, 0.0)
    of_profile = profile.is_profile(ask.runs.runs)
    with _frugal():
        made = _of_profile(ask, tell) if of_profile else _of_board(ask, tell)
    tell(ask.task, "done", 1.0)
    return made


def _of_board(ask: Ask, tell: Tell) -> Chapter:
    made = board.build(
        ask.runs,
        ask.task,
        control=ask.control,
        kinds=ask.kinds,
        done=lambda share: tell(ask.task, RESAMPLING, share / 3),
    )
    # Nothing but its own files is made of what was measured, which would fill the memory.
    tell(ask.task, "figures and tables", 1 / 3, replace(made, measured={}))
    files = chapter_files.of_board(made, ask.labels)
    tell(ask.task, "robustness", 2 / 3)
    return Chapter(ask.task, (), files | robustness_files.of_board(made, ask.labels))


def _of_profile(ask: Ask, tell: Tell) -> Chapter:
    made = profile.build(ask.runs, ask.task, control=ask.control, kinds=ask.kinds)
    designs = tuple(factorials(made.groups, made.samples, made.shown))
    tell(ask.task, "figures and tables", 1 / 3, replace(made, groups={}))
    files = chapter_files.of_profile(made, designs)
    tell(ask.task, "robustness", 2 / 3)
    return Chapter(ask.task, designs, files | robustness_files.of_profile(made))
