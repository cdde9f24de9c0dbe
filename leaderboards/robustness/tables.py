"""Build the robustness report of a board or profile, with a figure per task."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.cells import Column, entry_sheet, with_half, with_verdict
from steelyard.leaderboards.boards.evidence import sentence
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.output.escape import file_name
from steelyard.leaderboards.output.files import exact, members
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet
from steelyard.leaderboards.output.style import Figures, marks
from steelyard.leaderboards.robustness import items
from steelyard.leaderboards.robustness.numbers import (
    COMPARED,
    NUMBERS,
    Robustness,
    RobustnessRow,
    build,
)
from steelyard.leaderboards.robustness.plots import best_of, fan
from steelyard.leaderboards.stats.intervals import Interval

FRACTIONS = ("relative", "same")
"""First words of numbers that are fractions whatever the metric is."""
HEADINGS = {
    "clean": "clean",
    "drop": "drop",
    "relative": "relative drop",
    "drop.image": "image",
    "drop.text": "text",
    "drop.both": "both at once",
    "area": "area",
    "worst": "worst",
    "same": "same answer",
    "same.image": "image, same",
    "same.text": "text, same",
    "same.both": "both at once, same",
}
RULES = (
    "± is half of the 95 % interval over training seeds and test items. Differences are paired by "
    "seed and item; ▲ is better and ▼ worse than the control at 5 % after Holm's correction over "
    "the entries of the column.",
    "Drop is clean minus corrupted, turned so that more is worse: averaged over severities, then "
    "corruptions, then image and text. Relative drop divides it by the entry's own clean score. "
    "Corruption of both modalities at once is in no average.",
    "Area is the area under the score against severity, from clean to the highest, over its width: "
    "the area of a constant score is that score. Worst is the score on the variant that hurts the "
    "entry most by the mean over seeds.",
    "Same answer is the fraction of items answered as without corruption, right or wrong. It needs "
    "no labels, and a model with a constant answer has 100 %: read it beside the clean score.",
    "Rows are ordered by drop, the smallest first. A small drop is no merit by itself: a poor "
    "clean score has little to lose.",
)


class RobustnessReport(NamedTuple):
    """Files of one board's or profile's robustness; empty without corruptions."""

    pages: dict[str, bytes]
    """By name, without figures."""
    figures: Figures
    """By stem."""


def board_report(board: Board, labels: Sequence[str]) -> RobustnessReport:
    """Report the robustness of a board; ``labels`` are those of all boards, for equal looks."""
    scores = items.of_board(board)
    robustness = build(scores, board.control) if scores else None
    return _report(board, board.task, [robustness] if robustness else [], labels)


def profile_report(profile: Profile) -> RobustnessReport:
    """Report the robustness of each task of a profile."""
    tasks = [build(scores, profile.control) for scores in items.of_profile(profile)]
    complete = [task for task in tasks if task is not None]
    return _report(profile, profile.trained_on, complete, list(profile.groups))


def _report(
    source: Board | Profile, name: str, tasks: Sequence[Robustness], labels: Sequence[str]
) -> RobustnessReport:
    if not tasks:
        return RobustnessReport({}, {})
    start, figures = f"robustness-{file_name(name)}", {}
    for task in tasks:
        alone = task.task == name
        stem = f"{start}-fan" if alone else f"{start}-{file_name(task.task)}-fan"
        title = source.title if alone else f"{task.task}, {source.title}"
        figures[stem] = partial(fan, best_of(task, title), marks(labels, task.control))
    pictures = [f"{stem}.svg" for stem in figures]
    return RobustnessReport(report(source, start, tasks, pictures).files(), figures)


def report(
    source: Board | Profile, stem: str, tasks: Sequence[Robustness], pictures: Sequence[str]
) -> Report:
    """Build the report of several tasks with a picture file for each."""
    parts = [
        ReportPart(
            task.task, caption(task) + sentence(source.preliminary), sheets(task), (), [name]
        )
        for task, name in zip(tasks, pictures, strict=True)
    ]
    headers = [{k: v for k, v in members(task).items() if k != "rows"} for task in tasks]
    entries = [{"task": task.task, **members(row)} for task in tasks for row in task.rows]
    return Report(
        stem=stem,
        title=f"{source.title}: robustness",
        parts=parts,
        rules=RULES,
        rows=[row for task in tasks for row in _rows(task)],
        content={
            "preliminary": source.preliminary,
            "numbers": NUMBERS,
            "tasks": headers,
            "entries": entries,
        },
    )


def links(names: Iterable[str]) -> list[str]:
    """Write a section of the front page that links the pages in ``names``; empty without any."""
    pages = [name for name in names if name.startswith("robustness-") and name.endswith(".md")]
    if not pages:
        return []
    titles = {page: page.removesuffix(".md").removeprefix("robustness-") for page in pages}
    lines = "\n".join(f"- [{title}]({page})" for page, title in titles.items())
    about = "The cost of corruption for each entry: drops, areas, worst cases, unchanged answers."
    return [f"## Robustness\n\n{about}\n\n{lines}\n"]


def sheets(task: Robustness) -> tuple[Sheet, ...]:
    """Build the table of every entry's numbers, and of differences to the control."""

    def numbers(name: str) -> Column[RobustnessRow]:
        return HEADINGS[name], lambda row: with_half(row.numbers.get(name), _percent(task, name))

    def differences(name: str) -> Column[RobustnessRow]:
        percent = _percent(task, name)
        return HEADINGS[name], lambda row: with_verdict(row.differences.get(name), percent)

    def label(row: RobustnessRow) -> str:
        return row.label

    columns = [numbers(name) for name in NUMBERS if any(name in row.numbers for row in task.rows)]
    columns.append(("worst under", lambda row: row.worst))
    costs = entry_sheet("Cost of corruption", task.rows, label, columns)
    compared = [name for name in COMPARED if any(name in row.differences for row in task.rows)]
    if not compared:
        return (costs,)
    columns = [differences(name) for name in compared]
    table = entry_sheet(f"Minus {task.control}", task.rows, label, columns)
    pairs = zip(task.rows, table.rows, strict=True)
    # Filtered after ranks are given: a row keeps its rank from the first table.
    return costs, replace(table, rows=tuple(cells for row, cells in pairs if row.differences))


def _percent(task: Robustness, name: str) -> bool:
    return task.percent or name.startswith(FRACTIONS)


def caption(task: Robustness) -> str:
    """Describe the metric, the items and the corruptions in one line."""
    direction = "higher" if task.higher_is_better else "lower"
    corruptions = ", ".join(corruption.name for corruption in task.corruptions)
    unit = " in %" if task.percent else ""
    return (
        f"{task.task}: {task.metric}{unit}, {direction} is better. {task.seeds} seeds, "
        f"{task.clusters} independent test items. Corruptions: {corruptions}. "
        f"Control: {task.control}."
    )


def _rows(task: Robustness) -> Iterator[dict[str, object]]:
    """Yield a CSV row per entry and number, and one per variant: score minus clean."""

    def fields(
        row: RobustnessRow, name: str, variant: str, interval: Interval, about: str
    ) -> dict[str, object]:
        start = {"task": task.task, "label": row.label, "number": name, "variant": variant}
        ends = zip(("mean", "low", "high"), map(exact, interval.ends), strict=True)
        return {**start, **dict(ends), "about": about}

    for row in task.rows:
        for name, interval in row.numbers.items():
            variant = row.worst if name == "worst" else ""
            yield fields(row, name, variant, interval, NUMBERS[name])
        for name, difference in row.differences.items():
            about = f"minus {task.control}, p (Holm) {difference.adjusted:.3g}"
            yield fields(row, f"{name} difference", "", difference.interval, about)
        for corruption in task.corruptions:
            curve = row.curves[corruption.name]
            for variant, step in zip(corruption.variants, curve, strict=True):
                yield fields(row, "change", variant, step, "score minus clean")
