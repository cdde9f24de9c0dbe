"""Build the robustness report of a board, with a figure per task."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter

from steelyard.harness.core.files import file_name
from steelyard.leaderboards.boards.board import Board
from steelyard.leaderboards.boards.cells import SheetColumn, entry_sheet, with_half, with_verdict
from steelyard.leaderboards.boards.evidence import sentence
from steelyard.leaderboards.output.files import members
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet
from steelyard.leaderboards.output.style import marks
from steelyard.leaderboards.robustness import items
from steelyard.leaderboards.robustness.numbers import (
    COMPARED,
    NUMBERS,
    Robustness,
    RobustnessRow,
    build,
)
from steelyard.leaderboards.robustness.plots import best_of, fan

FRACTIONS = ("relative", "same")
"""First words of numbers that are fractions whatever the metric is."""
HEADINGS = {
    "relative": "relative drop",
    "drop.image": "image",
    "drop.text": "text",
    "drop.both": "both at once",
    "same": "same answer",
    "same.image": "image, same",
    "same.text": "text, same",
    "same.both": "both at once, same",
}
"""Headings of numbers that are not called by their name."""
RULES = (
    "± is half of the 95 % interval over training seeds and test items, [low, high] are the ends "
    "of one that reaches 0 or 100. Differences are paired by seed and item; ▲ is better and ▼ "
    "worse than the control at 5 % after Holm's correction over the entries of the column.",
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


def board_report(board: Board, labels: Sequence[str]) -> Report | None:
    """Report the robustness of a board; ``labels`` are those of all boards, for equal looks.

    None without corruptions.
    """
    built = [build(scores, board.control) for scores in items.of_board(board)]
    tasks = [task for task in built if task is not None]
    return report(board, tasks, labels) if tasks else None


def report(board: Board, tasks: Sequence[Robustness], labels: Sequence[str]) -> Report:
    """Build the report of several tasks with a figure for each."""
    stem, parts = f"robustness-{file_name(board.task)}", []
    for task in tasks:
        alone = task.task == board.task
        figure_stem = f"{stem}-fan" if alone else f"{stem}-{file_name(task.task)}-fan"
        title = board.title if alone else f"{task.task}, {board.title}"
        draw = partial(fan, best_of(task, title), marks(labels, task.control))
        about = caption(task) + sentence(board.preliminary)
        part = ReportPart(task.task, about, sheets(task), figures={figure_stem: draw})
        parts.append(part)
    headers = [{k: v for k, v in members(task).items() if k != "rows"} for task in tasks]
    entries = [{"task": task.task, **members(row)} for task in tasks for row in task.rows]
    return Report(
        stem=stem,
        title=f"{board.title}: robustness",
        parts=parts,
        rules=RULES,
        rows=[row for task in tasks for row in _rows(task)],
        content={
            "preliminary": board.preliminary,
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


def sheets(task: Robustness) -> list[Sheet]:
    """Build the table of every entry's numbers, and of differences to the control."""

    def number(name: str) -> SheetColumn[RobustnessRow]:
        percent = _percent(task, name)
        return HEADINGS.get(name, name), lambda row: with_half(row.numbers.get(name), percent)

    def difference(name: str) -> SheetColumn[RobustnessRow]:
        percent = _percent(task, name)
        heading = HEADINGS.get(name, name)
        return heading, lambda row: with_verdict(row.differences.get(name), percent)

    label = attrgetter("label")
    columns = [number(name) for name in NUMBERS if any(name in row.numbers for row in task.rows)]
    columns.append(("worst under", attrgetter("worst")))
    tables = [entry_sheet("Cost of corruption", task.rows, label, columns)]
    compared = [name for name in COMPARED if any(name in row.differences for row in task.rows)]
    if compared:
        columns = [difference(name) for name in compared]
        tables.append(entry_sheet(f"Minus {task.control}", task.rows, label, columns))
    return tables


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
    for row in task.rows:
        start = {"task": task.task, "label": row.label}
        for name, interval in row.numbers.items():
            number = {"number": name, "variant": row.worst if name == "worst" else ""}
            yield {**start, **number, "": interval, "about": NUMBERS[name]}
        for name, difference in row.differences.items():
            about = f"minus {task.control}, p (Holm) {difference.adjusted:.3g}"
            number = {"number": f"{name} difference"}
            yield {**start, **number, "": difference.interval, "about": about}
        for corruption in task.corruptions:
            for variant, step in zip(corruption.variants, row.curves[corruption.name], strict=True):
                number = {"number": "change", "variant": variant}
                yield {**start, **number, "": step, "about": "score minus clean"}
