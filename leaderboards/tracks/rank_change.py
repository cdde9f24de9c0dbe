"""How ranks change from one track to the other: who wins on equal data, who at equal compute."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.progress import Progress, no_progress, subtask
from steelyard.harness.records.record import find, read
from steelyard.leaderboards.boards.profile import composite
from steelyard.leaderboards.boards.rank_plots import slope_figure
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import exact, json_text, write_files
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.output.style import render
from steelyard.leaderboards.publish import Published, publish
from steelyard.leaderboards.stats import ranking
from steelyard.leaderboards.stats.ranking import RankChange, TaskScores

TRACKS = {"data": "equal data", "compute": "equal compute"}
"""Before and after: what papers usually hold equal, and what counts every cost."""
ALL_TASKS = "all tasks"
RULE = (
    "Places are among the entries ranked on both tracks; the range is the middle 95 % of places "
    "when seeds and test items are resampled. A change is clear where the two ranges do not touch."
)


@dataclass(frozen=True, slots=True)
class TaskRankChanges:
    """The changes of rank on one task, or over all of them."""

    about: str
    changes: tuple[RankChange, ...]
    """In the order at equal compute."""
    lacking: tuple[str, ...]
    """Entries that only one track ranks."""


@dataclass(frozen=True, slots=True)
class TrackComparison:
    """All changes and what was written."""

    rank_changes: tuple[TaskRankChanges, ...]
    sheets: tuple[Sheet, ...]
    files: tuple[Path, ...]


def publish_tracks(
    folders: Sequence[Path], out: Path, *, report: Progress = no_progress, **options: Any
) -> TrackComparison:
    """Write the boards of both tracks into folders of their own, and how ranks change.

    Raises:
        UserError: a track has no records, no task is on both tracks, or what ``publish`` raises.
    """
    tracks = {read(path).spec.track for folder in folders for path in find(folder)}
    for track in TRACKS:
        if tracks and track not in tracks:
            raise UserError(
                f"No record of the {track} track under {', '.join(map(str, folders))}: "
                f"'steelyard run SUITE --track {track}' makes them."
            )
    made = {
        track: publish(
            folders,
            out / f"track-{track}",
            track=track,
            report=subtask(report, name, place, len(TRACKS)),
            **options,
        )
        for place, (track, name) in enumerate(TRACKS.items())
    }
    found = tuple(rank_changes(*made.values()))
    if not found:
        raise UserError("No two entries are ranked on both tracks of one task: run them on both.")
    files = [path for published in made.values() for path in published.files]
    sheets = tuple(map(sheet, found))
    content = {
        **_figures(found),
        "rank-change.csv": _csv(found).encode(),
        "rank-change.json": json_text({"tasks": found}).encode(),
        "rank-change.md": _markdown(found, sheets).encode(),
    }
    files += write_files(out, content)
    return TrackComparison(found, sheets, tuple(files))


def rank_changes(before: Published, after: Published) -> Iterator[TaskRankChanges]:
    """Changes of rank between two sets of boards: over all their tasks, then on each."""
    one, other = dict(_contests(before)), dict(_contests(after))
    common = [task for task in one if task in other]
    shared = [board.task for board in after.boards if board.task in common]
    if len(shared) > 1:
        yield from _ladder(ALL_TASKS, [one[t] for t in shared], [other[t] for t in shared])
    for task in common:
        yield from _ladder(task, [one[task]], [other[task]])


def _contests(published: Published) -> Iterator[tuple[str, TaskScores]]:
    for board in published.boards:
        up = board.higher_is_better
        yield board.task, TaskScores(board.task, board.seeds, up, board.samples)
    for made in published.profiles:
        scores = {label: composite(made.shown, found) for label, found in made.samples.items()}
        yield made.name, TaskScores(made.name, made.seeds, True, scores)


def _ladder(
    about: str, before: Sequence[TaskScores], after: Sequence[TaskScores]
) -> Iterator[TaskRankChanges]:
    ranked = [set.intersection(*(set(c.samples) for c in modality)) for modality in (before, after)]
    labels = sorted(ranked[0] & ranked[1])
    if len(labels) > 1:
        found = ranking.changes(
            ranking.overall_ranks(before, labels), ranking.overall_ranks(after, labels)
        )
        yield TaskRankChanges(about, tuple(found), tuple(sorted(ranked[0] ^ ranked[1])))


def sheet(task: TaskRankChanges) -> Sheet:
    """The changes of one task as a table, the order at equal compute."""
    header = ("#", "entry", *(f"{name} (range)" for name in TRACKS.values()), "change")
    rows = []
    for change in task.changes:
        moved = change.before - change.after
        texts = (
            str(change.after),
            change.label,
            _with_range(change.before, change.before_range),
            _with_range(change.after, change.after_range),
            {"up": f"▲ {moved:+d}", "down": f"▼ {moved:+d}", "": f"{moved:+d}"}[change.verdict],
        )
        rows.append(tuple(map(Cell, texts)))
    return Sheet(task.about, header, tuple(rows))


def _with_range(place: int, ends: tuple[float, float]) -> str:
    return f"{place} ({ends[0]:.3g}-{ends[1]:.3g})"


def sentence(task: TaskRankChanges) -> str:
    """What the task shows, in a sentence."""
    moved = [change for change in task.changes if change.verdict]
    if not moved:
        return f"On {task.about} no rank changes by more than the ranges allow."
    names = ", ".join(f"{c.label} ({'rises' if c.verdict == 'up' else 'falls'})" for c in moved)
    return (
        f"On {task.about} {len(moved)} of {len(task.changes)} entries change rank by more than "
        f"the ranges allow when compute is equal instead of data: {names}."
    )


def _name(place: int) -> str:
    return f"rank-change-{place}"


def _figures(found: Sequence[TaskRankChanges]) -> Mapping[str, bytes]:
    makers = {
        _name(place): partial(slope_figure, each.changes, each.about, *TRACKS.values())
        for place, each in enumerate(found, start=1)
    }
    return render(makers)


def _markdown(found: Sequence[TaskRankChanges], sheets: Sequence[Sheet]) -> str:
    boards = [f"[{name}](track-{track}/board.md)" for track, name in TRACKS.items()]
    parts = ["# How ranks change with what is equal", f"Boards: {' · '.join(boards)}."]
    for place, (task, made) in enumerate(zip(found, sheets, strict=True), start=1):
        parts += [f"## {md(task.about)}", md(sentence(task)), sheet_markdown(made)]
        parts += bullets("", [f"{label}: ranked on one track only." for label in task.lacking])
        parts.append(f"![rank change]({_name(place)}.svg)")
    return "\n\n".join([*parts, md(RULE)]) + "\n"


def _csv(found: Sequence[TaskRankChanges]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{track}{end}" for track in TRACKS for end in ("", "_low", "_high")]
    writer.writerow(["about", "label", *ends, "verdict"])
    for task in found:
        for c in task.changes:
            spans = [c.before, *c.before_range, c.after, *c.after_range]
            writer.writerow([task.about, c.label, *map(exact, spans), c.verdict])
    return out.getvalue()
