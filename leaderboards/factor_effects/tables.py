"""Write the effect of a factor as a page, CSV, JSON, a figure and a terminal table."""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.factor_effects.numbers import (
    MAIN_NUMBERS,
    Factor,
    FactorCurve,
    LevelNumbers,
)
from steelyard.leaderboards.factor_effects.plots import picture
from steelyard.leaderboards.output.files import exact, members, write_files
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet, sheet_terminal, text_sheet
from steelyard.leaderboards.reliance.numbers import NUMBERS
from steelyard.leaderboards.reliance.tables import mean_and_half
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
    return write_files(out, report(factor).files() | picture(factor))


def report(factor: Factor) -> Report:
    """Return the report; the CSV file has one line per level and number, unrounded."""
    parts = [
        ReportPart(f"{curve.task}: {curve.about} ({curve.parameter})", "", sheets(curve))
        for curve in factor.curves
    ]
    settings = [f"{name}: {value}" for name, value in factor.settings.items()]
    one_seed = any(len(curve.seeds) == 1 for curve in factor.curves)
    return Report(
        stem=factor.name,
        title=f"Effect of {factor.name} on reliance",
        parts=[*parts, ReportPart("Settings", "", (), settings)],
        rules=[*RULES, ONE_SEED] if one_seed else RULES,
        pictures=[f"{factor.name}.svg"],
        rows=[
            _row(curve, level, name)
            for curve in factor.curves
            for level in curve.levels
            for name in level.numbers
        ],
        content={"schema": SCHEMA, **members(factor), "numbers": NUMBERS},
    )


def _row(curve: FactorCurve, level: LevelNumbers, name: str) -> dict[str, str]:
    interval, effect = level.numbers[name], level.effects.get(name)
    return {
        "task": curve.task,
        "parameter": curve.parameter,
        "value": level.value,
        "reference": str(level.reference).lower(),
        "number": name,
        "mean": exact(interval.mean),
        "low": exact(interval.low),
        "high": exact(interval.high),
        "difference": "" if effect is None else exact(effect.mean),
        "difference_low": "" if effect is None else exact(effect.low),
        "difference_high": "" if effect is None else exact(effect.high),
        "about": NUMBERS[name],
    }


def sheets(curve: FactorCurve) -> tuple[Sheet, ...]:
    """Return tables of the levels and of their differences to the reference level."""
    names = [name for name in MAIN_NUMBERS if any(name in level.numbers for level in curve.levels)]
    header = (curve.parameter, *(HEADINGS[name] for name in names))
    levels = [
        (level.name, *(mean_and_half(level.numbers.get(name), name) for name in names))
        for level in curve.levels
    ]
    effects = [
        (level.value, *(_effect(level.effects.get(name), name) for name in names))
        for level in curve.levels
        if level.effects
    ]
    tables = [text_sheet("Levels", header, levels)]
    if effects:
        tables.append(
            text_sheet("Minus the reference level", (f"Δ {header[0]}", *header[1:]), effects)
        )
    return tuple(tables)


def _effect(interval: Interval | None, name: str) -> str:
    mark = "" if interval is None or interval.low <= 0 <= interval.high else " *"
    return mean_and_half(interval, name, "+") + mark


def terminal(factor: Factor) -> "Table":
    """Return the means of every level."""
    from rich.text import Text

    names = ("score.full", "score.text.blank", "gain.image.shuffled", "same.text.blank",
             "conflict.text")  # fmt: skip
    # Columns do not wrap: a word a line, so that 80 characters have room for the levels.
    headings = [HEADINGS[name].replace(" ", "\n") for name in names]
    rows = []
    for curve in factor.curves:
        for level in curve.levels:
            intervals = (level.numbers.get(name) for name in names)
            means = ("" if i is None else f"{100 * i.mean:.1f}" for i in intervals)
            rows.append((curve.task, f"{curve.parameter} {level.name}", *means))
    sheet = text_sheet(f"Effect of {factor.name} on reliance", ("task", "level", *headings), rows)
    return sheet_terminal(sheet, left=(0, 1), title=Text(sheet.title))
