"""Write the effect of a factor as a page, CSV, JSON, a figure and a terminal table."""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.factor_effects.numbers import (
    MAIN_NUMBERS,
    Factor,
    FactorCurve,
)
from steelyard.leaderboards.factor_effects.plots import picture
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import csv_text, exact, json_text, members, write_files
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.reliance.numbers import NUMBERS, PERCENTAGES
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
HEADINGS = {
    "score.full": "full",
    "score.text.blank": "no image",
    "gain.image.shuffled": "image gain",
    "gain.text.shuffled": "text gain",
    "same.text.blank": "same without image",
    "conflict.text": "follows text",
    "conflict.image": "follows image",
}
RULES = (
    "One parameter is changed at a time, compared with the level marked (reference); everything "
    "else, the seeds and the test items are the same. The test items come from the unchanged "
    "world.",
    "Percentages with half of the 95 % interval, over training seeds and test items; differences "
    "are paired by seed and item and not corrected for multiple tests. * marks an interval without "
    "0.",
    "Gain: the full score minus that with another item's image or text. Same without image: "
    "answers that stay when the image is blanked. Follows: the fraction of conflict items answered "
    "with the text's or the language prior's answer, and with the image's.",
)
ONE_SEED = "One seed: the intervals do not include training variance."


def write(factor: Factor, out: Path) -> list[Path]:
    """Write everything into ``out``; return the paths, the page first."""
    pictures = picture(factor)
    content = {
        f"{factor.name}.md": markdown(factor, f"{factor.name}.svg").encode(),
        f"{factor.name}.csv": as_csv(factor).encode(),
        f"{factor.name}.json": as_json(factor).encode(),
        **pictures,
    }
    return write_files(out, content)


def markdown(factor: Factor, image: str) -> str:
    parts = [f"# Effect of {md(factor.name)} on reliance", f"![{factor.name}]({image})"]
    for curve in factor.curves:
        parts.append(f"## {md(curve.task)}: {md(curve.about)} ({md(curve.parameter)})")
        parts += [sheet_markdown(sheet) for sheet in sheets(curve)]
    single = [ONE_SEED] if any(len(curve.seeds) == 1 for curve in factor.curves) else []
    parts += bullets("## How to read this\n\n", [*RULES, *single])
    parts += bullets("## Settings\n\n", [f"{k}: {v}" for k, v in factor.settings.items()])
    return "\n\n".join(parts) + "\n"


def sheets(curve: FactorCurve) -> tuple[Sheet, ...]:
    """Return tables of the levels and of their differences to the reference level."""
    names = [name for name in MAIN_NUMBERS if any(name in level.numbers for level in curve.levels)]
    header = (curve.parameter, *(HEADINGS[name] for name in names))
    levels = [
        (level.name, *(_cell(level.numbers.get(name), name) for name in names))
        for level in curve.levels
    ]
    effects = [
        (level.value, *(_effect(level.effects.get(name), name) for name in names))
        for level in curve.levels
        if level.effects
    ]
    tables = [_sheet("levels", header, levels)]
    if effects:
        tables.append(_sheet("minus the reference level", (f"Δ {header[0]}", *header[1:]), effects))
    return tuple(tables)


def _sheet(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Sheet:
    return Sheet(title, header, tuple(tuple(map(Cell, row)) for row in rows))


def _cell(interval: Interval | None, name: str, sign: str = "") -> str:
    if interval is None:
        return ""
    scale, digits = (100, 1) if name in PERCENTAGES else (1, 2)
    return f"{scale * interval.mean:{sign}.{digits}f} ± {scale * interval.half:.{digits}f}"


def _effect(interval: Interval | None, name: str) -> str:
    mark = "" if interval is None or interval.low <= 0 <= interval.high else " *"
    return _cell(interval, name, "+") + mark


def as_csv(factor: Factor) -> str:
    """Return one line per level and number, unrounded, with its difference to the reference."""
    rows = [
        ["task", "parameter", "value", "reference", "number", "mean", "low", "high", "difference",
         "difference_low", "difference_high", "about"]
    ]  # fmt: skip
    for curve in factor.curves:
        for level in curve.levels:
            start = [curve.task, curve.parameter, level.value, str(level.reference).lower()]
            for name, interval in level.numbers.items():
                effect = level.effects.get(name)
                ends = [] if effect is None else [effect.mean, effect.low, effect.high]
                values = [
                    exact(value) for value in (interval.mean, interval.low, interval.high, *ends)
                ]
                blanks = [""] * (6 - len(values))
                rows.append([*start, name, *values, *blanks, NUMBERS[name]])
    return csv_text(rows)


def as_json(factor: Factor) -> str:
    return json_text({"schema": SCHEMA, **members(factor), "numbers": NUMBERS})


def terminal(factor: Factor) -> "Table":
    """Return the means of every level."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"Effect of {factor.name} on reliance")
    for name in ("task", "level"):
        table.add_column(name, no_wrap=True)
    names = ("score.full", "score.text.blank", "gain.image.shuffled", "same.text.blank",
             "conflict.text")  # fmt: skip
    for name in names:
        table.add_column(HEADINGS[name], justify="right")
    for curve in factor.curves:
        for level in curve.levels:
            intervals = (level.numbers.get(name) for name in names)
            means = ("" if i is None else f"{100 * i.mean:.1f}" for i in intervals)
            table.add_row(curve.task, f"{curve.parameter} {level.name}", *means)
    return table
