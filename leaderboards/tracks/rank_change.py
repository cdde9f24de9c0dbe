"""Publish how ranks change from equal data to equal compute."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import Progress, no_progress, subtask
from steelyard.leaderboards.boards import evidence
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.cells import SheetColumn, entry_sheet
from steelyard.leaderboards.boards.plots.ranks import slope_figure
from steelyard.leaderboards.loading.collect import read_runs
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet
from steelyard.leaderboards.publish import Published, publish
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.ranking import RankChange

TRACKS = {"data": "equal data", "compute": "equal compute"}
"""Before and after: equal data as in most papers, then every cost counted."""
ALL_TASKS = "all tasks"
RULE = (
    "Ranks are among the entries ranked on both tracks; the range is the middle 95 % of ranks when "
    "seeds and test items are resampled. A change is clear if the two ranges do not touch."
)


@dataclass(frozen=True, slots=True)
class TaskRankChanges:
    """Rank changes on one task, or over all of them."""

    about: str
    """Name of the board."""
    generated: bool
    preliminary: str
    """Why the changes cannot carry a conclusion; empty if they can."""
    changes: tuple[RankChange, ...]
    """In the order at equal compute."""
    lacking: tuple[str, ...]
    """Entries that only one track ranks."""

    @property
    def title(self) -> str:
        return evidence.titled(self.about, generated=self.generated, preliminary=self.preliminary)


@dataclass(frozen=True, slots=True)
class TrackComparison:
    rank_changes: tuple[TaskRankChanges, ...]
    sheets: tuple[Sheet, ...]
    files: tuple[Path, ...]


def publish_tracks(
    folders: Sequence[Path], out: Path, *, report: Progress = no_progress, **options: Any
) -> TrackComparison:
    """Write the boards of both tracks into folders of their own, and how ranks change.

    Raises:
        UserError: a track has no records, no task is on both tracks, or as ``publish``.
    """
    tracks = {run.record.spec.track for run in read_runs(folders)}
    for track in TRACKS:
        # Without any record ``publish`` has the better message.
        if tracks and track not in tracks:
            raise UserError(
                f"No record of the {track} track under {', '.join(map(str, folders))}: "
                f"'steelyard run SUITE --track {track}' makes them."
            )
    before, after = (
        publish(
            folders,
            out / f"track-{track}",
            track=track,
            report=subtask(report, name, index, len(TRACKS)),
            **options,
        )
        for index, (track, name) in enumerate(TRACKS.items())
    )
    tasks = tuple(rank_changes(before, after))
    if not tasks:
        raise UserError("No two entries are ranked on both tracks of one task: run them on both.")
    sheets = tuple(map(sheet, tasks))
    names = list(TRACKS.values())
    parts = [
        ReportPart(
            task.title,
            sentence(task),
            [table],
            [f"{label}: ranked on one track only." for label in task.lacking],
            # Numbered, since titles have characters that file names cannot have.
            {f"rank-change-{number}": partial(slope_figure, task.changes, task.title, *names)},
        )
        for number, (task, table) in enumerate(zip(tasks, sheets, strict=True), start=1)
    ]
    changes = Report(
        stem="rank-change",
        title="Rank changes between equal data and equal compute",
        links={name: f"track-{track}/board.md" for track, name in TRACKS.items()},
        parts=parts,
        rules=[RULE],
        rows=[_fields(task, change) for task in tasks for change in task.changes],
        content={"tasks": tasks},
    )
    return TrackComparison(tasks, sheets, (*before.files, *after.files, *changes.write(out)))


def rank_changes(before: Published, after: Published) -> Iterator[TaskRankChanges]:
    """Yield rank changes between two sets of boards: over all their tasks, then on each."""
    new = {board.name: board for board in after.boards}
    pairs = [(board, new[board.name]) for board in before.boards if board.name in new]
    single = [pair for pair in pairs if not pair[1].several]
    if len(single) > 1:
        yield from _changes(ALL_TASKS, single)
    for old, board in pairs:
        yield from _changes(old.name, [(old, board)])


def _changes(about: str, pairs: Sequence[tuple[Board, Board]]) -> Iterator[TaskRankChanges]:
    """Yield the changes among entries ranked on both tracks; nothing for fewer than two."""
    scores = [[board.task_scores for board in boards] for boards in zip(*pairs, strict=True)]
    old_labels, new_labels = (
        set.intersection(*(set(task.samples) for task in tasks)) for tasks in scores
    )
    # Ranks among different entries do not compare.
    labels = sorted(old_labels & new_labels)
    if len(labels) < 2:
        return
    reasons = {
        track if len(pairs) == 1 else f"{board.task_scores.task}, {track}": board.preliminary
        for boards, track in zip(zip(*pairs, strict=True), TRACKS.values(), strict=True)
        for board in boards
    }
    ranks = (ranking.overall_ranks(tasks, labels) for tasks in scores)
    yield TaskRankChanges(
        about=about,
        generated=any(board.generated for pair in pairs for board in pair),
        preliminary=evidence.joined(reasons),
        changes=tuple(ranking.changes(*ranks)),
        lacking=tuple(sorted(old_labels ^ new_labels)),
    )


def sheet(task: TaskRankChanges) -> Sheet:
    """Build the table of one task's changes, in the order at equal compute."""

    def step(change: RankChange) -> str:
        text = f"{change.before - change.after:+d}"
        return {"up": f"▲ {text}", "down": f"▼ {text}", "": text}[change.verdict]

    def with_range(rank: int, ends: tuple[float, float]) -> str:
        return f"{rank} ({ends[0]:.3g}-{ends[1]:.3g})"

    before, after = (f"{name} (range)" for name in TRACKS.values())
    columns: list[SheetColumn[RankChange]] = [
        (before, lambda change: with_range(change.before, change.before_range)),
        (after, lambda change: with_range(change.after, change.after_range)),
        ("change", step),
    ]
    return entry_sheet(task.title, task.changes, lambda change: change.label, columns)


def sentence(task: TaskRankChanges) -> str:
    """Describe the clear changes, and say if they are preliminary."""
    clear = [change for change in task.changes if change.verdict]
    end = evidence.sentence(task.preliminary)
    if not clear:
        return f"On {task.about} no rank changes by more than the ranges allow.{end}"
    names = ", ".join(f"{c.label} ({'rises' if c.verdict == 'up' else 'falls'})" for c in clear)
    return (
        f"On {task.about} {len(clear)} of {len(task.changes)} entries change rank by more than "
        f"the ranges allow when compute is equal instead of data: {names}.{end}"
    )


def _fields(task: TaskRankChanges, change: RankChange) -> dict[str, object]:
    ranks = (change.before, *change.before_range, change.after, *change.after_range)
    names = [f"{track}{end}" for track in TRACKS for end in ("", "_low", "_high")]
    numbers = dict(zip(names, ranks, strict=True))
    ends = {"verdict": change.verdict, "preliminary": task.preliminary}
    return {"about": task.about, "label": change.label, **numbers, **ends}
