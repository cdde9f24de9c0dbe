"""Write a profile as Markdown, CSV, JSON, LaTeX or terminal tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from steelyard.leaderboards.boards import factorial
from steelyard.leaderboards.boards.cost_plots import phases_of
from steelyard.leaderboards.boards.evidence import sentence, titled
from steelyard.leaderboards.boards.factorial import Factorial
from steelyard.leaderboards.boards.front_page import NO_DIAGRAM, rank_texts
from steelyard.leaderboards.boards.profile import COMPOSITE, NO_IMAGE, Profile, ProfileRow
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.boards.tables import (
    FORMATS,
    SCHEMA,
    VERDICTS,
    blank_rows,
    with_kind,
)
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import csv_text, json_text, members
from steelyard.leaderboards.output.sheet import (
    Cell,
    Sheet,
    bullets,
    page_markdown,
    sheet_latex,
    sheet_markdown,
)
from steelyard.leaderboards.output.style import shorten
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.tasks import NOTHING

if TYPE_CHECKING:
    from rich.console import RenderableType

RULES = (
    "All numbers are percentages on clean items unless the column says otherwise; ± is half of the "
    "95 % interval over training seeds and test items, differences are paired by seed and item, "
    "and ▲ is better and ▼ worse than the control at 5 % after Holm's correction over the entries "
    "of the column. Columns without an arrow only describe.",
    "The composite is the mean over tasks of the mean of a task's clean numbers, those where lower "
    "is better taken as 100 - x. It orders the rows and nothing more: an entry can lead one column "
    "and ruin another, so read them side by side. Entries that share a letter under ties do not "
    "differ in it at 5 % after Holm's correction over all pairs; ≈ marks ties with the first.",
    "Borda, ranks and win rates use the tasks' parts of the composite, one vote per task: Borda "
    "counts the entries beaten, the range is the middle 95 % of mean ranks when seeds and items "
    "are resampled, the win rate is the fraction of the others beaten, by seed, with its interval.",
    "No image is the main metric with every image removed: the rest is language prior. Reliance "
    "is how much the metric falls by that, paired by seed and item. Corrupted is its mean over "
    "the scored corruptions of that modality, each averaged over its severities first.",
    "A profile is preliminary if a trained entry took fewer than 300 optimiser steps: it then "
    "supports no conclusion. Generated data is drawn by steelyard, not collected.",
)
DIRECTIONS = {True: " ↑", False: " ↓", None: ""}


def words(name: str) -> str:
    """Return a task's or metric's name without underscores."""
    return name.replace("_", " ")


def heading(column: ProfileColumn) -> str:
    """Return a column's name with an arrow in the direction that is better."""
    return words(column.name) + DIRECTIONS[column.higher_is_better]


def sheets(profile: Profile) -> tuple[Sheet, ...]:
    """Return the composite, clean numbers and differences per task, corruptions and cost."""
    tables = [_composites(profile)]
    compared = any(row.differences for row in profile.rows)
    for task in dict.fromkeys(column.task for column in profile.clean):
        columns = [column for column in profile.clean if column.task == task]
        tables.append(_scores(profile, task, columns))
        if compared and any(column.higher_is_better is not None for column in columns):
            tables.append(_differences(profile, task, columns))
    if profile.corrupted:
        tables.append(_corrupted(profile))
    return (*tables, _cost(profile))


def overview(profile: Profile) -> Sheet:
    """Build the table with every clean number side by side, without intervals."""
    header = ("#", "entry", "composite", *map(heading, profile.clean))
    best = {
        column.name: (max if column.higher_is_better else min)(
            (row.scores[column.name].mean for row in profile.rows), default=None
        )
        for column in profile.clean
        if column.higher_is_better is not None
    }
    rows = []
    for position, row in enumerate(profile.rows, start=1):
        cells = [Cell(str(position)), Cell(_name(row)), Cell(_percent(row.composite.mean))]
        for column in profile.clean:
            mean = row.scores[column.name].mean
            mark = VERDICTS[_verdict(row, column.name)]
            cells.append(Cell(_percent(mean) + mark, mean == best.get(column.name)))
        rows.append(tuple(cells))
    return Sheet("Side by side", header, (*rows, *blank_rows(profile.blanks, len(header))))


def _composites(profile: Profile) -> Sheet:
    compared = any(row.differences for row in profile.rows)

    def cells(row: ProfileRow) -> Iterator[str]:
        yield from ("".join(row.ties), _with_half(row.composite))
        if COMPOSITE in row.differences:
            yield from (_signed(row, COMPOSITE), f"{row.differences[COMPOSITE].adjusted:.3f}")
        elif compared:
            yield from ("", "")
        letters, *numbers = rank_texts(row.rank)
        yield from (*numbers, letters)

    columns = ["ties", "composite", *([f"minus {profile.control}", "p (Holm)"] if compared else [])]
    columns += ["Borda", "mean rank", "range", "win rate", "ties by wins"]
    return _sheet(profile, "Composite", columns, cells)


def _scores(profile: Profile, task: str, columns: Sequence[ProfileColumn]) -> Sheet:
    def cells(row: ProfileRow) -> Iterator[str]:
        return (_with_half(row.scores[column.name]) for column in columns)

    return _sheet(profile, words(task), map(_short, columns), cells)


def _differences(profile: Profile, task: str, columns: Sequence[ProfileColumn]) -> Sheet:
    directed = [column for column in columns if column.higher_is_better is not None]

    def cells(row: ProfileRow) -> Iterator[str]:
        for column in directed:
            yield _signed(row, column.name) if column.name in row.differences else ""

    title = f"{words(task)}, difference to {profile.control}"
    return _sheet(profile, title, map(_short, directed), cells)


def _corrupted(profile: Profile) -> Sheet:
    def cells(row: ProfileRow) -> Iterator[str]:
        for column in profile.corrupted:
            yield _with_half(row.scores[column.name])
            if column.name.endswith(NO_IMAGE):
                yield _with_half(row.reliance[column.task], "+")

    header = []
    for column in profile.corrupted:
        header.append(heading(column))
        if column.name.endswith(NO_IMAGE):
            header.append(f"{words(column.task)}, reliance")
    return _sheet(profile, "Without images and with corrupted inputs", header, cells)


def _sheet(
    profile: Profile,
    title: str,
    columns: Iterable[str],
    cells: Callable[[ProfileRow], Iterator[str]],
) -> Sheet:
    header = ("#", "entry", *columns)
    rows = [
        (Cell(str(position)), Cell(_name(row)), *map(Cell, cells(row)))
        for position, row in enumerate(profile.rows, start=1)
    ]
    return Sheet(title, header, (*rows, *blank_rows(profile.blanks, len(header))))


def _short(column: ProfileColumn) -> str:
    """Return a column's heading without its task, for a sheet about that task."""
    return heading(column).removeprefix(words(column.task) + " ")


def _cost(profile: Profile) -> Sheet:
    phases = phases_of([row.cost for row in profile.rows])

    def cells(row: ProfileRow) -> Iterator[str]:
        cost = row.cost
        yield from (f"{cost.flops:.3g}", "" if cost.relative is None else f"{cost.relative:.2f}")
        yield from (f"{cost.steps:.0f}", f"{cost.items:.0f}", f"{cost.seconds:.1f}")
        for phase in phases:
            fraction = cost.phases.get(phase, 0.0) / cost.flops if cost.flops else 0
            yield f"{100 * fraction:.0f}%" if fraction else ""

    columns = ("FLOPs", f"x {profile.control}", "steps", "items", "seconds", *phases)
    return _sheet(profile, "Cost", columns, cells)


def _name(row: ProfileRow) -> str:
    return with_kind(row.label, row.kind) + (" ≈" if row.tied else "")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _with_half(interval: Interval, sign: str = "") -> str:
    return f"{100 * interval.mean:{sign}.1f} ± {_percent(interval.half)}"


def _verdict(row: ProfileRow, column: str) -> str:
    return row.differences[column].verdict if column in row.differences else ""


def _signed(row: ProfileRow, column: str) -> str:
    difference = row.differences[column]
    return _with_half(difference.interval, "+") + VERDICTS[difference.verdict]


def caption(profile: Profile) -> str:
    """Describe the compared runs, and whether they are preliminary."""
    seeds = "1 seed" if len(profile.seeds) == 1 else f"{len(profile.seeds)} seeds"
    end = f"{seeds}, control {profile.control}.{sentence(profile.preliminary)}"
    if profile.trained_on == NOTHING:
        return f"Models without any training, {end}"
    data = titled(profile.trained_on, generated=profile.generated, preliminary="")
    return f"Trained on {data}, backbone {profile.backbone}, budget {profile.budget}, {end}"


def remarks(profile: Profile) -> list[str]:
    """Return what blank entries lack, the notes, and the detectable difference."""
    lines = [f"{blank.label}: {blank.missing}." for blank in profile.blanks] + [*profile.notes]
    limit = profile.detectable.get(COMPOSITE)
    if limit is not None:
        lines.append(
            f"A difference to {profile.control} of {_percent(limit.alone)} points of composite "
            f"({_percent(limit.corrected)} after Holm's correction) is detected with 80 % power."
        )
    return [*lines, *([NO_DIAGRAM] if profile.critical is None else [])]


def markdown(
    profile: Profile, factorials: Sequence[Factorial], pictures: Sequence[str] = ()
) -> str:
    """Write the profile as one page, with the named picture files at its end."""
    tables = [overview(profile), *sheets(profile), *factorial.all_sheets(factorials)]
    return page_markdown(profile.title, caption(profile), tables, remarks(profile), RULES, pictures)


def index_section(profile: Profile) -> str:
    """Write the profile's part of the front page: clean numbers side by side, and its files."""
    links = [f"[{kind}]({profile.stem}.{end})" for kind, end in FORMATS]
    parts = [f"## {md(profile.title)}", md(caption(profile)), sheet_markdown(overview(profile))]
    parts += [" · ".join(links), *bullets("", remarks(profile)), *bullets("", RULES)]
    return "\n\n".join(parts) + "\n"


CSV_COLUMNS = (
    "entry", "column", "mean", "low", "high", "seeds", "difference", "difference_low",
    "difference_high", "p_holm", "verdict", "missing", "preliminary",
)  # fmt: skip


def as_csv(profile: Profile) -> str:
    """Write one row per entry and column: mean, interval, seeds, difference to the control.

    An incomplete entry has one row that says what it lacks.
    """
    lines: list[Sequence[object]] = [CSV_COLUMNS]
    for row in profile.rows:
        reliance = {f"{task} reliance": interval for task, interval in row.reliance.items()}
        for name, interval in {COMPOSITE: row.composite, **row.scores, **reliance}.items():
            seeds = " ".join(f"{value:.6g}" for value in interval.values)
            change = [""] * 5
            if difference := row.differences.get(name):
                numbers = (*difference.interval.ends, difference.adjusted)
                change = [*(f"{value:.6g}" for value in numbers), difference.verdict]
            ends = [f"{value:.6g}" for value in interval.ends]
            lines.append([row.label, name, *ends, seeds, *change, "", profile.preliminary])
    for blank in profile.blanks:
        lines.append([blank.label, *[""] * 10, blank.missing, profile.preliminary])
    return csv_text(lines)


def as_json(profile: Profile, factorials: Sequence[Factorial] = ()) -> str:
    """Write every number of the profile and its factorials, rounded to ten digits."""
    content = {k: v for k, v in members(profile).items() if k not in ("groups", "samples")}
    return json_text({"schema": SCHEMA, **content, "factorials": factorials})


def latex(profile: Profile, factorials: Sequence[Factorial] = ()) -> str:
    """Write all sheets with booktabs rules, for inclusion in a document."""
    tables = [*sheets(profile), *factorial.all_sheets(factorials)]
    about = f"{profile.title}. {caption(profile)}"
    return "\n".join(sheet_latex(sheet, about) for sheet in tables)


def terminal(profile: Profile, width: int) -> "RenderableType":
    """Draw clean numbers, corruptions and cost in as many tables as ``width`` characters need."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sheets = [_clean(profile), *([_corrupted(profile)] if profile.corrupted else [])]
    tables: list[RenderableType] = []
    for sheet in map(_short_names, (*sheets, _cost(profile))):
        for columns in _fitting(sheet, width):
            table = Table(
                title=sheet.title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0),
                show_edge=False, pad_edge=False,
            )  # fmt: skip
            for index in columns:
                name = Text("\n".join(_heading_lines(sheet, index)))
                justify: Literal["left", "right"] = "left" if index == 1 else "right"
                table.add_column(name, justify=justify, vertical="bottom", no_wrap=True)
            for cells in sheet.rows:
                table.add_row(*(Text(cells[index].text) for index in columns))
            tables += [table, Text("")]
    lines = [f"{profile.title}: {caption(profile)}", *remarks(profile), *RULES]
    return Group(*tables, *(Text(line, style="dim") for line in lines))


def _clean(profile: Profile) -> Sheet:
    """Build the table of every clean number with half its interval, the composite first."""

    def cells(row: ProfileRow) -> Iterator[str]:
        scores = [row.composite, *(row.scores[column.name] for column in profile.clean)]
        for name, score in zip(names, scores, strict=True):
            yield _with_half(score) + (VERDICTS[_verdict(row, name)] or unmarked)

    # As wide as a mark, so that numbers align.
    unmarked = "  " if any(row.differences for row in profile.rows) else ""
    names = [COMPOSITE, *(column.name for column in profile.clean)]
    return _sheet(profile, "Clean", [COMPOSITE, *map(heading, profile.clean)], cells)


def _short_names(sheet: Sheet) -> Sheet:
    rows = [(row[0], Cell(shorten(row[1].text)), *row[2:]) for row in sheet.rows]
    return replace(sheet, rows=tuple(rows))


def _heading_lines(sheet: Sheet, index: int) -> list[str]:
    """Split a heading into one line per word, the arrow with the last."""
    return sheet.header[index].replace(" ↑", "\xa0↑").replace(" ↓", "\xa0↓").split(" ")


def _fitting(sheet: Sheet, width: int) -> list[list[int]]:
    """Group columns to fit ``width`` characters, rank and entry in every group."""
    from rich.cells import cell_len

    needs = [
        2 + max(map(cell_len, [*_heading_lines(sheet, i), *(row[i].text for row in sheet.rows)]))
        for i in range(len(sheet.header))
    ]
    groups: list[list[int]] = []
    for index in range(2, len(sheet.header)):
        if not groups or sum(needs[i] for i in groups[-1]) + needs[index] > width:
            groups.append([0, 1])
        groups[-1].append(index)
    return groups
