"""Collect the page's sortable tables of entries, with drawings of intervals."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steelyard.leaderboards.output.sheet import VERDICTS, Sheet
from steelyard.leaderboards.output.style import off_scale
from steelyard.leaderboards.page.details import Detail
from steelyard.leaderboards.stats.intervals import Interval

WIDE = 100
"""Width of an interval's drawing in its own units."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Entry of a row, with the content of its expanded row or None."""

    label: str
    kind: str
    detail: Detail | None = None


class Whisker(NamedTuple):
    """Interval as drawn, in units from the left; one far behind is an arrow to its side."""

    low: float
    mean: float
    high: float
    is_behind: bool


@dataclass(frozen=True, slots=True)
class EntryTable:
    """Sheet whose second column has the entries."""

    key: str
    """Prefix of the ids within the table."""
    sheet: Sheet
    entries: Sequence[Entry]
    whisker_column: int = -1
    """Column with whiskers right of it."""
    whiskers: Sequence[Whisker] = ()
    """Those of the first rows."""

    @property
    def verdict_columns(self) -> set[int]:
        """Return columns with marks, in which other numbers need as much room."""
        rows = self.sheet.rows
        return {n for row in rows for n, cell in enumerate(row) if cell.text.endswith(VERDICTS)}

    @staticmethod
    def sort_value(text: str) -> str:
        """Return the number that the script sorts by; texts carry signs, intervals and marks."""
        number = re.match(r"[≈+]?(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
        return number[1] if number else ""


def whiskers(intervals: Sequence[Interval], *, higher_is_better: bool = True) -> list[Whisker]:
    """Place intervals on one scale, that of all that are not far behind."""
    if not intervals:
        return []
    spans = {str(number): (i.low, i.high) for number, i in enumerate(intervals)}
    behind = off_scale(spans, higher_is_better=higher_is_better)
    visible = [span for number, span in spans.items() if number not in behind]
    low, high = min(span[0] for span in visible), max(span[1] for span in visible)
    # 4 units remain at each end for half a dot or an arrow; one point alone has no range.
    unit = (WIDE - 8) / ((high - low) or 1.0)
    drawings = []
    for index, interval in enumerate(intervals):
        ends = (interval.low, interval.mean, interval.high)
        start, dot, end = (4 + unit * (value - low) for value in ends)
        drawings.append(Whisker(start, dot, end, str(index) in behind))
    return drawings
