"""Write robustness as a page, CSV, JSON and a figure per task."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.evidence import sentence
from steelyard.leaderboards.boards.profile import Profile
from steelyard.leaderboards.boards.tables import SCHEMA, VERDICTS
from steelyard.leaderboards.output.escape import file_name, md
from steelyard.leaderboards.output.files import csv_text, exact, json_text, members
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
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
    start = f"robustness-{file_name(name)}"
    pictures, figures = {}, {}
    for task in tasks:
        alone = task.task == name
        stem = f"{start}-fan" if alone else f"{start}-{file_name(task.task)}-fan"
        title = source.title if alone else f"{task.task}, {source.title}"
        pictures[task.task] = f"{stem}.svg"
        figures[stem] = partial(fan, best_of(task, title), marks(labels, task.control))
    pages = {
        f"{start}.md": markdown(source, tasks, pictures).encode(),
        f"{start}.csv": as_csv(tasks).encode(),
        f"{start}.json": as_json(source, tasks).encode(),
    }
    return RobustnessReport(pages, figures)


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
    names = [name for name in NUMBERS if any(name in row.numbers for row in task.rows)]
    rows = []
    for position, row in enumerate(task.rows, start=1):
        numbers = (_with_half(task, name, row.numbers.get(name)) for name in names)
        rows.append(tuple(map(Cell, (str(position), row.label, *numbers, row.worst))))
    header = ("#", "entry", *(HEADINGS[name] for name in names), "worst under")
    tables = [Sheet("Cost of corruption", header, tuple(rows))]
    compared = [name for name in COMPARED if any(name in row.differences for row in task.rows)]
    if compared:
        rows = [
            tuple(map(Cell, (str(position), row.label, *_differences(task, row, compared))))
            for position, row in enumerate(task.rows, start=1)
            if row.differences
        ]
        header = ("#", "entry", *(HEADINGS[name] for name in compared))
        tables.append(Sheet(f"Minus {task.control}", header, tuple(rows)))
    return tuple(tables)


def _differences(task: Robustness, row: RobustnessRow, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        difference = row.differences.get(name)
        if difference is None:
            yield ""
        else:
            text = _with_half(task, name, difference.interval, "+")
            yield text + VERDICTS[difference.verdict]


def _with_half(task: Robustness, name: str, interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{_text(task, name, interval.mean, sign)} ± {_text(task, name, interval.half)}"


def _text(task: Robustness, name: str, value: float, sign: str = "") -> str:
    if task.percent or name.startswith(FRACTIONS):
        return f"{round(100 * value, 1) + 0.0:{sign}.1f}"  # adding 0 turns -0.0 into 0.0
    return f"{value:{sign}.4g}"


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


def markdown(
    source: Board | Profile, tasks: Sequence[Robustness], pictures: Mapping[str, str]
) -> str:
    """Write one page; ``pictures`` are file names by task."""
    parts = [f"# {md(source.title)}: robustness"]
    for task in tasks:
        parts += [f"## {md(task.task)}", md(caption(task) + sentence(source.preliminary))]
        parts += [f"### {md(sheet.title)}\n\n{sheet_markdown(sheet)}" for sheet in sheets(task)]
        if task.task in pictures:
            name = pictures[task.task]
            parts.append(f"![{Path(name).stem}]({name})")
    parts += bullets("## How to read this\n\n", RULES)
    return "\n\n".join(parts) + "\n"


def as_csv(tasks: Sequence[Robustness]) -> str:
    """Write one row per entry and number, unrounded, and one per variant: score minus clean."""
    lines = [["task", "label", "number", "variant", "mean", "low", "high", "about"]]
    for task in tasks:
        for row in task.rows:
            start = [task.task, row.label]
            for name, interval in row.numbers.items():
                variant = row.worst if name == "worst" else ""
                lines.append([*start, name, variant, *map(exact, interval.ends), NUMBERS[name]])
            for name, difference in row.differences.items():
                about = f"minus {task.control}, p (Holm) {difference.adjusted:.3g}"
                ends = map(exact, difference.interval.ends)
                lines.append([*start, f"{name} difference", "", *ends, about])
            for corruption in task.corruptions:
                curve = row.curves[corruption.name]
                for variant, step in zip(corruption.variants, curve, strict=True):
                    lines.append(
                        [*start, "change", variant, *map(exact, step.ends), "score minus clean"]
                    )
    return csv_text(lines)


def as_json(source: Board | Profile, tasks: Sequence[Robustness]) -> str:
    """Write every number."""
    entries = [{"task": task.task, **members(row)} for task in tasks for row in task.rows]
    headers = [{k: v for k, v in members(task).items() if k != "rows"} for task in tasks]
    content = {"numbers": NUMBERS, "tasks": headers, "entries": entries}
    return json_text({"schema": SCHEMA, "preliminary": source.preliminary, **content})
