"""Cells and columns that the tables of several reports share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from steelyard.leaderboards.loading.costs import Cost
from steelyard.leaderboards.output.sheet import Cell, Sheet
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.leaderboards.stats.ranking import FEWEST_BLOCKS, OverallRank

VERDICTS = {"better": " ▲", "worse": " ▼", "": ""}
DIRECTIONS = {True: " ↑", False: " ↓", None: ""}
NO_DIAGRAM = (
    "No critical-difference diagram: it needs three entries complete on every task and "
    f"{FEWEST_BLOCKS} blocks; a block is one seed on one task."
)
ELSEWHERE = ("as it is", "trained elsewhere", "answers from a file")
"""Kinds of entries that were not trained here."""
FORMATS = {"all tables": "md", "CSV": "csv", "JSON": "json", "LaTeX": "tex"}
RankedEntry = TypeVar("RankedEntry")
SheetColumn = tuple[str, Callable[[RankedEntry], str | Cell]]
"""Heading, and the cell of an entry."""


def entry_sheet(
    title: str,
    entries: Iterable[RankedEntry],
    name: Callable[[RankedEntry], str],
    columns: Sequence[SheetColumn[RankedEntry]],
    blanks: Iterable[str] = (),
    mark: Callable[[RankedEntry], str] = lambda entry: "",
) -> Sheet:
    """Build a table with a row per entry in order of rank, then the names of unranked entries.

    ``mark`` is put before the rank.
    """
    rows = []
    for rank, entry in enumerate(entries, start=1):
        cells = [f"{mark(entry)}{rank}", name(entry), *(cell(entry) for _, cell in columns)]
        rows.append(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells))
    rows += [(Cell(""), Cell(blank), *[Cell("")] * len(columns)) for blank in blanks]
    return Sheet(title, ("#", "entry", *(heading for heading, _ in columns)), tuple(rows))


def with_kind(label: str, kind: str) -> str:
    return f"{label} ({kind})" if kind == "control" or kind in ELSEWHERE else label


def words(name: str) -> str:
    """Return a name without underscores."""
    return name.replace("_", " ")


def number(value: float | None, percent: bool = True, sign: str = "") -> str:
    """Format a fraction in percent, any other value with four digits; empty for None."""
    if value is None:
        return ""
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}" if percent else f"{value:{sign}.4g}"


def with_half(interval: Interval | None, percent: bool = True, sign: str = "") -> str:
    """Format the mean and half of the interval, or both ends of one that is cut; empty for None."""
    if interval is None:
        return ""
    if interval.is_cut:
        mean, low, high = (number(end, percent) for end in interval.ends)
        return f"{mean} [{low}, {high}]"
    return f"{number(interval.mean, percent, sign)} ± {number(interval.half, percent)}"


def with_verdict(difference: ControlDifference | None, percent: bool = True) -> str:
    """Format a difference to the control; empty for None."""
    if difference is None:
        return ""
    return with_half(difference.interval, percent, "+") + VERDICTS[difference.verdict]


def rank_columns(rank: Callable[[RankedEntry], OverallRank]) -> list[SheetColumn[RankedEntry]]:
    """Return the columns of a rank over several tasks."""

    def win_rate(entry: RankedEntry) -> str:
        wins = rank(entry).wins
        if wins is None:
            return ""
        mean, low, high = (f"{100 * end:.0f}" for end in wins.ends)
        return f"{mean}% ({low}-{high})"

    return [
        ("Borda", lambda entry: f"{rank(entry).borda:g}"),
        ("mean rank", lambda entry: f"{rank(entry).mean_rank:.2f}"),
        ("range", lambda entry: f"{rank(entry).low:.3g}-{rank(entry).high:.3g}"),
        ("win rate", win_rate),
    ]


def cost_sheet(costs: Mapping[str, Cost], control: str, blanks: Iterable[str]) -> Sheet:
    """Build the table of training cost by name, with the fraction of FLOPs by phase."""

    def column(heading: str, text: Callable[[Cost], str]) -> SheetColumn[tuple[str, Cost]]:
        return heading, lambda named: text(named[1])

    def fraction(phase: str) -> Callable[[Cost], str]:
        return lambda cost: (
            f"{100 * cost.phases[phase] / cost.flops:.0f}%"
            if cost.flops and cost.phases.get(phase)
            else ""
        )

    columns = [
        column("FLOPs", str),
        column(f"x {control}", lambda c: "" if c.relative is None else f"{c.relative:.2f}"),
        column("steps", lambda cost: f"{cost.steps:.0f}"),
        column("items", lambda cost: f"{cost.items:.0f}"),
        column("seconds", lambda cost: f"{cost.seconds:.1f}"),
        column("peak MiB", lambda cost: f"{cost.peak_bytes / 2**20:.0f}"),
        *(column(name, fraction(name)) for name in phases_of([*costs.values()])),
    ]
    return entry_sheet("Training cost", costs.items(), lambda named: named[0], columns, blanks)


def phases_of(costs: Sequence[Cost]) -> list[str]:
    """Return every phase that some entry spent FLOPs on, forward and backward first."""
    phases = {phase for cost in costs for phase in cost.phases}
    # In the order of a step; other phases belong to single methods.
    passes = [phase for phase in ("forward", "backward") if phase in phases]
    return [*passes, *sorted(phases.difference(passes))]
