"""Build the report of a profile, and its tables for the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from steelyard.leaderboards.boards import cells, factorial
from steelyard.leaderboards.boards.cells import VERDICTS, number, words
from steelyard.leaderboards.boards.evidence import sentence, titled
from steelyard.leaderboards.boards.factorial import Factorial
from steelyard.leaderboards.boards.profile import COMPOSITE, NO_IMAGE, Profile, ProfileRow
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.output.files import members
from steelyard.leaderboards.output.report import Report
from steelyard.leaderboards.output.sheet import Cell, Sheet, sheet_terminal
from steelyard.leaderboards.output.style import Figures, shorten
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


def report(
    profile: Profile, factorials: Sequence[Factorial] = (), figures: Figures | None = None
) -> Report:
    """Build the report with the profile's factorials and these figures."""
    return Report(
        stem=profile.stem,
        title=profile.title,
        about=caption(profile),
        sheets=[overview(profile), *sheets(profile), *factorial.sheets(factorials)],
        notes=remarks(profile),
        rules=RULES,
        figures=figures or {},
        rows=[*_rows(profile)],
        content={k: v for k, v in members(profile).items() if k not in ("groups", "samples")}
        | {"factorials": factorials},
        latex_about=f"{profile.title}. {caption(profile)}",
    )


def sheets(profile: Profile) -> tuple[Sheet, ...]:
    """Return the composite, clean numbers and differences per task, corruptions and cost."""
    tables = [_composites(profile)]
    for task in dict.fromkeys(column.task for column in profile.clean):
        columns = [column for column in profile.clean if column.task == task]
        scores = [_scores(column, _short(column)) for column in columns]
        tables.append(_sheet(profile, words(task), scores))
        directed = [column for column in columns if column.higher_is_better is not None]
        if _is_compared(profile) and directed:
            differences = [_differences(column.name, _short(column)) for column in directed]
            title = f"{words(task)}, difference to {profile.control}"
            tables.append(_sheet(profile, title, differences))
    if profile.corrupted:
        tables.append(_corrupted(profile))
    return (*tables, _cost(profile))


def overview(profile: Profile, *, halves: bool = False) -> Sheet:
    """Build the table with every clean number side by side, with half the interval if asked."""

    def column(name: str, title: str, higher: bool | None) -> cells.Column[ProfileRow]:
        scores = {
            row.label: row.composite if name == COMPOSITE else row.scores[name]
            for row in profile.rows
        }
        means = [score.mean for score in scores.values()]
        best = None if higher is None else (max if higher else min)(means, default=None)

        def cell(row: ProfileRow) -> Cell:
            score = scores[row.label]
            text = cells.with_half(score) if halves else number(score.mean)
            verdict = row.differences[name].verdict if name in row.differences else ""
            return Cell(text + VERDICTS[verdict], score.mean == best)

        return title, cell

    clean = [column(part.name, heading(part), part.higher_is_better) for part in profile.clean]
    # No best composite in bold: it orders the rows and nothing more.
    return _sheet(profile, "Side by side", [column(COMPOSITE, COMPOSITE, None), *clean])


def _composites(profile: Profile) -> Sheet:
    def p_value(row: ProfileRow) -> str:
        return f"{row.differences[COMPOSITE].adjusted:.3f}" if row.differences else ""

    columns: list[cells.Column[ProfileRow]] = [
        ("ties", lambda row: "".join(row.ties)),
        ("composite", lambda row: cells.with_half(row.composite)),
    ]
    if _is_compared(profile):
        columns += [_differences(COMPOSITE, f"minus {profile.control}"), ("p (Holm)", p_value)]
    columns += cells.rank_columns(lambda row: row.rank)
    columns.append(("ties by wins", lambda row: "".join(row.rank.ties)))
    return _sheet(profile, "Composite", columns)


def _corrupted(profile: Profile) -> Sheet:
    def reliance(task: str, row: ProfileRow) -> str:
        return cells.with_half(row.reliance[task], sign="+")

    columns = []
    for column in profile.corrupted:
        columns.append(_scores(column, heading(column)))
        if column.name.endswith(NO_IMAGE):
            columns.append((f"{words(column.task)}, reliance", partial(reliance, column.task)))
    return _sheet(profile, "Without images and with corrupted inputs", columns)


def _cost(profile: Profile) -> Sheet:
    costs = {_name(row): row.cost for row in profile.rows}
    return cells.cost_sheet(costs, profile.control, _blanks(profile))


def _sheet(profile: Profile, title: str, columns: Sequence[cells.Column[ProfileRow]]) -> Sheet:
    blanks = _blanks(profile)
    return cells.entry_sheet(title, profile.rows, _name, columns, blanks, _tie_mark)


def _tie_mark(row: ProfileRow) -> str:
    return "≈" if row.tied else ""


def _blanks(profile: Profile) -> list[str]:
    return [cells.with_kind(blank.label, blank.kind) for blank in profile.blanks]


def _name(row: ProfileRow) -> str:
    return cells.with_kind(row.label, row.kind)


def _is_compared(profile: Profile) -> bool:
    return any(row.differences for row in profile.rows)


def _scores(column: ProfileColumn, title: str) -> cells.Column[ProfileRow]:
    return title, lambda row: cells.with_half(row.scores[column.name])


def _differences(name: str, title: str) -> cells.Column[ProfileRow]:
    return title, lambda row: cells.with_verdict(row.differences.get(name))


def heading(column: ProfileColumn) -> str:
    """Return a column's name with an arrow in the direction that is better."""
    return words(column.name) + cells.DIRECTIONS[column.higher_is_better]


def _short(column: ProfileColumn) -> str:
    """Return a column's heading without its task, for a sheet about that task."""
    return heading(column).removeprefix(words(column.task) + " ")


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
            f"A difference to {profile.control} of {number(limit.alone)} points of composite "
            f"({number(limit.corrected)} after Holm's correction) is detected with 80 % power."
        )
    return [*lines, *([cells.NO_DIAGRAM] if profile.critical is None else [])]


def _rows(profile: Profile) -> Iterator[dict[str, object]]:
    """Yield a CSV row per entry and column; one with what it lacks for an incomplete entry."""
    for row in profile.rows:
        reliance = {f"{task} reliance": interval for task, interval in row.reliance.items()}
        for name, interval in {COMPOSITE: row.composite, **row.scores, **reliance}.items():
            fields: dict[str, object] = {"entry": row.label, "column": name}
            fields |= _short_ends(("mean", "low", "high"), interval.ends)
            fields["seeds"] = " ".join(f"{value:.6g}" for value in interval.values)
            names = ("difference", "difference_low", "difference_high", "p_holm", "verdict")
            fields |= dict.fromkeys(names, "")
            if change := row.differences.get(name):
                fields |= _short_ends(names[:4], (*change.interval.ends, change.adjusted))
                fields["verdict"] = change.verdict
            yield {**fields, "missing": "", "preliminary": profile.preliminary}
    for blank in profile.blanks:
        yield {"entry": blank.label, "missing": blank.missing, "preliminary": profile.preliminary}


def _short_ends(names: Sequence[str], values: Sequence[float]) -> dict[str, object]:
    return {name: f"{value:.6g}" for name, value in zip(names, values, strict=True)}


def terminal(profile: Profile, width: int) -> "RenderableType":
    """Draw clean numbers, corruptions and cost in as many tables as ``width`` characters need."""
    from rich.console import Group
    from rich.text import Text

    sheets = [overview(profile, halves=True), *([_corrupted(profile)] if profile.corrupted else [])]
    tables: list[RenderableType] = []
    for sheet in map(_narrow, (*sheets, _cost(profile))):
        for columns in _fitting(sheet, width):
            tables += [sheet_terminal(sheet, columns=columns, title=sheet.title), Text("")]
    lines = [f"{profile.title}: {caption(profile)}", *remarks(profile), *RULES]
    return Group(*tables, *(Text(line, style="dim") for line in lines))


def _narrow(sheet: Sheet) -> Sheet:
    """Shorten names, break headings into words, the arrow with the last, and align verdicts."""
    header = [name.replace(" ↑", "\xa0↑").replace(" ↓", "\xa0↓") for name in sheet.header]
    verdicts = tuple(filter(None, VERDICTS.values()))
    marked = {n for row in sheet.rows for n, cell in enumerate(row) if cell.text.endswith(verdicts)}

    def padded(index: int, cell: Cell) -> Cell:
        if index == 1:
            return Cell(shorten(cell.text))
        # Cells are aligned at the right: a verdict would shift its number.
        room = index in marked and not cell.text.endswith(verdicts)
        return replace(cell, text=cell.text + "  " * room)

    rows = tuple(tuple(padded(*pair) for pair in enumerate(row)) for row in sheet.rows)
    return Sheet(sheet.title, tuple(name.replace(" ", "\n") for name in header), rows)


def _fitting(sheet: Sheet, width: int) -> list[list[int]]:
    """Group columns to fit ``width`` characters, rank and entry in every group."""
    from rich.cells import cell_len

    needs = [
        2 + max(map(cell_len, [*title.split("\n"), *(row[i].text for row in sheet.rows)]))
        for i, title in enumerate(sheet.header)
    ]
    # Columns are never reordered: a table per group reads like one table.
    groups: list[list[int]] = []
    for index in range(2, len(sheet.header)):
        if not groups or sum(needs[i] for i in groups[-1]) + needs[index] > width:
            groups.append([0, 1])
        groups[-1].append(index)
    return groups
