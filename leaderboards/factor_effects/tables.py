"""A factor of bias as a page, CSV, JSON, a picture and a terminal table."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.factor_effects.numbers import SHOWN, Curve, Factor, Point
from steelyard.leaderboards.factor_effects.plots import picture
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import exact, json_text, members, write_files
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.reliance.numbers import NUMBERS, SHARES
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
HEADINGS = {
    "score.full": "full",
    "score.text.blank": "no image",
    "gain.image.shuffled": "image adds",
    "gain.text.shuffled": "text adds",
    "same.text.blank": "same without image",
    "conflict.text": "follows text",
    "conflict.image": "follows image",
}
RULES = (
    "One thing is changed at a time against the level marked (usual); everything else, the seeds "
    "and the test items are the same. The test items come from the unchanged world.",
    "Percentages with half of the 95 % interval, over training seeds and test items; differences "
    "are paired by seed and item and not corrected for their number. * marks an interval without "
    "0.",
    "Adds: the full score minus that with another item's image or text. Same without image: "
    "answers that stay when the image is blanked. Follows: of conflict items, the share answered "
    "with the text's, or the usual, answer and with the image's.",
)
ONE_SEED = "One seed: the interval leaves out training variance."


def write(found: Factor, out: Path) -> list[Path]:
    """Write everything into ``out``; the page comes first in what is returned."""
    pictures = picture(found)
    content = {
        f"{found.name}.md": markdown(found, f"{found.name}.svg").encode(),
        f"{found.name}.csv": as_csv(found).encode(),
        f"{found.name}.json": as_json(found).encode(),
        **pictures,
    }
    return write_files(out, content)


def markdown(found: Factor, image: str) -> str:
    """The whole page."""
    parts = [f"# What {md(found.name)} does to reliance", f"![{found.name}]({image})"]
    for curve in found.curves:
        parts.append(f"## {md(curve.task)}: {md(curve.about)} ({md(curve.knob)})")
        parts += [sheet_markdown(sheet) for sheet in sheets(curve)]
    single = [ONE_SEED] if any(len(curve.seeds) == 1 for curve in found.curves) else []
    parts += bullets("## How to read this\n\n", [*RULES, *single])
    parts += bullets("## How it was made\n\n", [f"{k}: {v}" for k, v in found.settings.items()])
    return "\n\n".join(parts) + "\n"


def sheets(curve: Curve) -> tuple[Sheet, ...]:
    """The levels, and what each does against the usual one."""
    names = [name for name in SHOWN if any(name in point.numbers for point in curve.points)]
    header = (curve.knob, *(HEADINGS[name] for name in names))
    levels = [
        (_level(point), *(_cell(point.numbers.get(name), name) for name in names))
        for point in curve.points
    ]
    effects = [
        (point.value, *(_effect(point.effects.get(name), name) for name in names))
        for point in curve.points
        if point.effects
    ]
    made = [_sheet("levels", header, levels)]
    if effects:
        made.append(_sheet("minus the usual level", (f"Δ {header[0]}", *header[1:]), effects))
    return tuple(made)


def _sheet(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Sheet:
    return Sheet(title, header, tuple(tuple(map(Cell, row)) for row in rows))


def _level(point: Point) -> str:
    return f"{point.value} (usual)" if point.reference else point.value


def _cell(each: Interval | None, name: str, sign: str = "") -> str:
    if each is None:
        return ""
    scale, digits = (100, 1) if name in SHARES else (1, 2)
    return f"{scale * each.mean:{sign}.{digits}f} ± {scale * each.half:.{digits}f}"


def _effect(each: Interval | None, name: str) -> str:
    clear = "" if each is None or each.low <= 0 <= each.high else " *"
    return _cell(each, name, "+") + clear


def as_csv(found: Factor) -> str:
    """One line a level and number, unrounded, and its difference to the usual level."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        ["task", "knob", "value", "usual", "number", "mean", "low", "high", "difference",
         "difference_low", "difference_high", "about"]
    )  # fmt: skip
    for curve in found.curves:
        for point in curve.points:
            start = [curve.task, curve.knob, point.value, str(point.reference).lower()]
            for name, each in point.numbers.items():
                effect = point.effects.get(name)
                ends = [] if effect is None else [effect.mean, effect.low, effect.high]
                values = [exact(value) for value in (each.mean, each.low, each.high, *ends)]
                blanks = [""] * (6 - len(values))
                table.writerow([*start, name, *values, *blanks, NUMBERS[name]])
    return out.getvalue()


def as_json(found: Factor) -> str:
    """Everything, machine-readable."""
    return json_text({"schema": SCHEMA, **members(found), "numbers": NUMBERS})


def terminal(found: Factor) -> "Table":
    """The means of every level."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"What {found.name} does to reliance")
    for name in ("task", "level"):
        table.add_column(name, no_wrap=True)
    shown = ("score.full", "score.text.blank", "gain.image.shuffled", "same.text.blank",
             "conflict.text")  # fmt: skip
    for name in shown:
        table.add_column(HEADINGS[name], justify="right")
    for curve in found.curves:
        for point in curve.points:
            level = f"{curve.knob} {_level(point)}"
            table.add_row(curve.task, level, *(_mean(point.numbers.get(n)) for n in shown))
    return table


def _mean(each: Interval | None) -> str:
    return "" if each is None else f"{100 * each.mean:.1f}"
