"""Robustness as sheets, and those as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from steelyard.leaderboards.boards.tables import VERDICTS
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import exact, json_text, members
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.robustness.numbers import COMPARED, NUMBERS, Robustness, RobustnessRow

SCHEMA = 2
SHARES = ("relative", "same")
"""Begin the names of numbers that are shares whatever the metric is."""
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
    "Drop is clean minus damaged, turned so that more is worse: severities are averaged first, "
    "then corruptions, then the image and the text side. Relative drop divides it by the entry's "
    "own clean score. Corruption of both sides at once stands apart and is in no average.",
    "Area is that under the score against severity, from clean to the strongest, over its width: a "
    "score that nothing moves has its own clean score as area. Worst is the score under the one "
    "variant that hurts the entry most by the mean over seeds.",
    "Same answer is the share of items answered as without damage, right or wrong. It needs no "
    "labels, and a model that always says the same has 100 %: read it beside the clean score.",
    "Rows are ordered by drop, the smallest first. A small drop is no merit of its own: what is "
    "poor when clean has little to lose.",
)


def sheets(found: Robustness) -> tuple[Sheet, ...]:
    """The numbers of every entry, and the differences to the control where it is there."""
    names = [name for name in NUMBERS if any(name in row.numbers for row in found.rows)]
    rows = [(str(place), row.label, *(_number(found, row, name) for name in names), row.worst)
            for place, row in enumerate(found.rows, start=1)]  # fmt: skip
    header = ("#", "entry", *(HEADINGS[name] for name in names), "worst under")
    made = [_sheet("What damage costs", header, rows)]
    compared = [row for row in found.rows if row.differences]
    if compared:
        names = [name for name in COMPARED if any(name in row.differences for row in compared)]
        texts = [(str(place), row.label, *(_difference(found, row, name) for name in names))
                 for place, row in enumerate(found.rows, start=1) if row.differences]  # fmt: skip
        title = f"Minus {found.control}"
        made.append(_sheet(title, ("#", "entry", *(HEADINGS[name] for name in names)), texts))
    return tuple(made)


def _sheet(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Sheet:
    return Sheet(title, tuple(header), tuple(tuple(map(Cell, row)) for row in rows))


def _number(found: Robustness, row: RobustnessRow, name: str) -> str:
    each = row.numbers.get(name)
    if each is None:
        return ""
    return f"{_shown(found, name, each.mean)} ± {_shown(found, name, each.half)}"


def _difference(found: Robustness, row: RobustnessRow, name: str) -> str:
    each = row.differences.get(name)
    if each is None:
        return ""
    mean, half = each.interval.mean, each.interval.half
    mark = VERDICTS[each.verdict]
    return f"{_shown(found, name, mean, '+')} ± {_shown(found, name, half)}{mark}"


def _shown(found: Robustness, name: str, value: float, sign: str = "") -> str:
    if found.percent or name.startswith(SHARES):
        return f"{round(100 * value, 1) + 0.0:{sign}.1f}"  # adding 0 turns -0.0 around
    return f"{value:{sign}.4g}"


def caption(found: Robustness) -> str:
    """One line: what was measured."""
    direction = "higher" if found.higher_is_better else "lower"
    corruptions = ", ".join(each.name for each in found.corruptions)
    unit = " in %" if found.percent else ""
    return (
        f"{found.task}: {found.metric}{unit}, {direction} is better. {found.seeds} seeds, "
        f"{found.clusters} independent test items. Damage: {corruptions}. Control: {found.control}."
    )


def markdown(title: str, found: Sequence[Robustness], pictures: Mapping[str, str]) -> str:
    """One page; ``pictures`` are file names by task."""
    parts = [f"# {md(title)}: robustness"]
    for each in found:
        parts += [f"## {md(each.task)}", md(caption(each))]
        parts += [f"### {md(sheet.title)}\n\n{sheet_markdown(sheet)}" for sheet in sheets(each)]
        if each.task in pictures:
            name = pictures[each.task]
            parts.append(f"![{Path(name).stem}]({name})")
    parts += bullets("## How to read this\n\n", RULES)
    return "\n\n".join(parts) + "\n"


def as_csv(found: Sequence[Robustness]) -> str:
    """One line an entry and number, unrounded, then one a variant: score minus clean."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["task", "label", "number", "variant", "mean", "low", "high", "about"])
    for each in found:
        for row in each.rows:
            start = [each.task, row.label]
            for name, interval in row.numbers.items():
                variant = row.worst if name == "worst" else ""
                ends = (interval.mean, interval.low, interval.high)
                table.writerow([*start, name, variant, *map(exact, ends), NUMBERS[name]])
            for name, difference in row.differences.items():
                ends = (difference.interval.mean, difference.interval.low, difference.interval.high)
                about = f"minus {each.control}, p (Holm) {difference.adjusted:.3g}"
                table.writerow([*start, f"{name} difference", "", *map(exact, ends), about])
            for corruption in each.corruptions:
                for variant, step in zip(
                    corruption.variants, row.curves[corruption.name], strict=True
                ):
                    ends = (step.mean, step.low, step.high)
                    about = "score minus clean"
                    table.writerow([*start, "change", variant, *map(exact, ends), about])
    return out.getvalue()


def as_json(found: Sequence[Robustness]) -> str:
    """Everything, machine-readable."""
    entries = [{"task": each.task, **members(row)} for each in found for row in each.rows]
    tasks = [{k: v for k, v in members(each).items() if k != "rows"} for each in found]
    return json_text({"schema": SCHEMA, "numbers": NUMBERS, "tasks": tasks, "entries": entries})
