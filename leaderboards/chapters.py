"""Everything that is published of one task, for several tasks at a time."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

from threadpoolctl import threadpool_limits

from steelyard.harness import workers
from steelyard.harness.errors import UserError
from steelyard.leaderboards import board, chapter_files, profile, robustness_files
from steelyard.leaderboards.board import Board
from steelyard.leaderboards.collect import Runs
from steelyard.leaderboards.factors import Factorial, factorials
from steelyard.leaderboards.profile import Profile
from steelyard.leaderboards.steps import Report

Tell = Callable[[str, str, float], None]
"""Called with a task, what is done for it and the finished share."""


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
    """One task's board or profile, and its files by name."""

    task: str
    made: Board | Profile
    designs: tuple[Factorial, ...]
    """The factorials among the entries of a profile."""
    files: Mapping[str, bytes]
    robustness: Mapping[str, bytes]


def make_all(asks: Sequence[Ask], jobs: int, report: Report) -> list[Chapter]:
    """The chapters in the order asked for, ``jobs`` at a time; equal ones however many.

    Raises:
        UserError: a chapter cannot be made, or the process that made it was killed.
    """
    shares = {ask.task: 0.0 for ask in asks}

    def heard(task: str, doing: str, share: float) -> None:
        shares[task] = max(share, shares[task])  # a worker may be heard after it is done
        # A chapter has three steps; one more was the reading of the records.
        report(f"{task}: {doing}", (1 + 3 * sum(shares.values())) / (1 + 3 * len(shares)))

    done: dict[int, Chapter] = {}
    if jobs <= 1 or len(asks) <= 1:
        for place, ask in enumerate(asks):
            done[place] = make(ask, heard)
            shares[ask.task] = 1.0
        return list(done.values())
    try:
        for place, future in workers.spread(_work, asks, jobs, heard):
            done[place] = future.result()
            heard(asks[place].task, "done", 1.0)
    except BrokenProcessPool as error:
        raise UserError(
            "A process that made boards was killed, most often for want of memory: try --jobs 1."
        ) from error
    return [done[place] for place in range(len(asks))]


def _work(ask: Ask) -> Chapter:
    return make(ask, workers.tell)


def make(ask: Ask, tell: Tell) -> Chapter:
    """One task's chapter."""
    tell(ask.task, "resampling items", 0.0)
    of_profile = profile.is_profile(ask.runs.runs)
    # Processes that each spread their sums over all cores take two to three times as long.
    with threadpool_limits(1, user_api="blas"):
        return _of_profile(ask, tell) if of_profile else _of_board(ask, tell)


def _of_board(ask: Ask, tell: Tell) -> Chapter:
    made = board.build(ask.runs, ask.task, control=ask.control, kinds=ask.kinds)
    tell(ask.task, "figures and tables", 1 / 3)
    files = chapter_files.of_board(made, ask.labels)
    tell(ask.task, "robustness", 2 / 3)
    robust = robustness_files.of_board(made, ask.labels)
    # Nothing else is made of what was measured, which would fill the memory were all of it kept.
    return Chapter(ask.task, replace(made, measured={}), (), files, robust)


def _of_profile(ask: Ask, tell: Tell) -> Chapter:
    made = profile.build(ask.runs, ask.task, control=ask.control, kinds=ask.kinds)
    designs = tuple(factorials(made.groups, made.samples, made.shown))
    tell(ask.task, "figures and tables", 1 / 3)
    files = chapter_files.of_profile(made, designs)
    tell(ask.task, "robustness", 2 / 3)
    robust = robustness_files.of_profile(made)
    return Chapter(ask.task, replace(made, groups={}), designs, files, robust)
