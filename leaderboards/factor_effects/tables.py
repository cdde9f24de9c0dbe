"""Write the effect of a factor as tables and a figure."""

from functools import partial
from pathlib import Path

from steelyard.leaderboards.factor_effects.numbers import Factor, FactorCurve
from steelyard.leaderboards.factor_effects.plots import draw
from steelyard.leaderboards.output.files import members
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet, text_sheet
from steelyard.leaderboards.reliance.numbers import NUMBERS
from steelyard.leaderboards.reliance.tables import mean_and_half
from steelyard.leaderboards.stats.intervals import Interval

HEADINGS = {
    "score.full": "full",
    "score.text.blank": "no image",
    "gain.image.shuffled": "image gain",
    "gain.text.shuffled": "text gain",
    "same.text.blank": "same without image",
    "conflict.text": "follows text",
    "conflict.image": "follows image",
}
"""Numbers of the page's tables with their headings; the CSV and JSON files have all."""
RULES = (
    "One parameter is changed at a time, compared with the level marked (reference); everything "
    "else, the seeds and the test items are the same. The test items come from the unchanged "
    "world.",
    "Percentages with half of the 95 % interval, or its ends where it reaches 0 or 100, over "
    "training seeds and test items; differences are paired by seed and item and not corrected for "
    "multiple tests. * marks an interval without 0.",
    "Gain: the full score minus that with another item's image or text. Same without image: "
    "answers that stay when the image is blanked. Follows: the fraction of conflict items answered "
    "with the text's or the language prior's answer, and with the image's.",
)
ONE_SEED = "One seed: the intervals do not include training variance."


def write(factor: Factor, out: Path) -> list[Path]:
    """Write everything into ``out``; return the paths, the page first."""
    return report(factor).write(out)


def report(factor: Factor) -> Report:
    """Return the report; the CSV file has one line per level and number, unrounded."""
    parts = [
        ReportPart(f"{curve.task}: {curve.about} ({curve.parameter})", sheets=sheets(curve))
        for curve in factor.curves
    ]
    settings = [f"{name}: {value}" for name, value in factor.settings.items()]
    one_seed = any(len(curve.seeds) == 1 for curve in factor.curves)
    return Report(
        stem=factor.name,
        title=f"Effect of {factor.name} on reliance",
        parts=[*parts, ReportPart("Settings", notes=settings)],
        rules=[*RULES, ONE_SEED] if one_seed else RULES,
        figures={factor.name: partial(draw, factor)},
        rows=[
            {"task": curve.task, "parameter": curve.parameter, "value": level.value}
            | {"reference": level.reference, "number": name, "": interval}
            | {"about": NUMBERS[name], "difference": level.effects.get(name)}
            for curve in factor.curves
            for level in curve.levels
            for name, interval in level.numbers.items()
        ],
        content={**members(factor), "numbers": NUMBERS},
    )


def sheets(curve: FactorCurve) -> list[Sheet]:
    """Return tables of the levels and of their differences to the reference level."""
    names = [name for name in HEADINGS if any(name in level.numbers for level in curve.levels)]
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
    title = "Minus the reference level"
    differences = [text_sheet(title, (f"Δ {header[0]}", *header[1:]), effects)] if effects else []
    return [text_sheet("Levels", header, levels), *differences]


def _effect(interval: Interval | None, name: str) -> str:
    mark = "" if interval is None or interval.low <= 0 <= interval.high else " *"
    return mean_and_half(interval, name, "+") + mark
