"""A profile as sheets, and those as Markdown, CSV, JSON, LaTeX or terminal tables."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.escape import md
from steelyard.leaderboards.profile import COMPOSITE, Profile, Row
from steelyard.leaderboards.ratios import Column
from steelyard.leaderboards.tables import (
    FORMATS,
    SCHEMA,
    VERDICTS,
    Cell,
    Sheet,
    bullets,
    sheet_latex,
    sheet_markdown,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steelyard.leaderboards.factors import Factorial

RULES = (
    "All numbers are percentages on clean items unless the column says otherwise; ± is half of the "
    "95 % interval over training seeds and test items, differences are paired by seed and item, "
    "and ▲ is better and ▼ worse than the control at 5 % after Holm's correction over the entries "
    "of the column. Columns without an arrow only describe.",
    "The composite is the mean over tasks of the mean of a task's clean numbers, those where lower "
    "is better taken as 100 - x. It orders the rows and nothing more: one column alone can crown "
    "an entry that ruined another, so read them side by side. ≈ marks entries not told apart from "
    "the first.",
    "No image is the main metric with every image removed: what is left is language prior. "
    "Impaired is its mean over the corruptions of that side that were scored.",
)
DIRECTIONS = {True: " ↑", False: " ↓", None: ""}


def heading(column: Column) -> str:
    """A column's name with the direction in which it is better."""
    return column.name.replace("_", " ") + DIRECTIONS[column.higher_is_better]


def sheets(profile: Profile) -> tuple[Sheet, ...]:
    """Per task the clean numbers and differences, then impairments and cost."""
    made = [_composites(profile)]
    for task in dict.fromkeys(column.task for column in profile.shown):
        own = [column for column in profile.shown if column.task == task]
        made.append(_scores(profile, task, own))
        made.append(_differences(profile, task, own))
    if profile.impaired:
        made.append(_impaired(profile))
    return (*made, _cost(profile))


def overview(profile: Profile) -> Sheet:
    """The one table that shows every clean number beside the others, without intervals."""
    header = ("#", "entry", "composite", *(heading(column) for column in profile.shown))
    best = {column.name: _best(profile, column) for column in profile.shown}
    rows = []
    for place, row in enumerate(profile.rows, start=1):
        cells = [Cell(str(place)), Cell(_name(row)), Cell(_percent(row.composite.mean))]
        for column in profile.shown:
            mean = row.scores[column.name].mean
            mark = VERDICTS[_verdict(row, column.name)]
            cells.append(Cell(_percent(mean) + mark, mean == best[column.name]))
        rows.append(tuple(cells))
    return Sheet("Side by side", header, (*rows, *_blanks(profile, len(header))))


def _best(profile: Profile, column: Column) -> float | None:
    means = [row.scores[column.name].mean for row in profile.rows]
    if column.higher_is_better is None or not means:
        return None
    return max(means) if column.higher_is_better else min(means)


def _composites(profile: Profile) -> Sheet:
    header = ("#", "entry", "composite", f"minus {profile.control}", "p (Holm)")
    rows = []
    for place, row in enumerate(profile.rows, start=1):
        each = row.composite
        texts = [str(place), _name(row), f"{_percent(each.mean)} ± {_percent(each.half)}"]
        if COMPOSITE in row.differences:
            found = row.differences[COMPOSITE]
            texts += [_signed(row, COMPOSITE), f"{found.adjusted:.3f}"]
        rows.append(tuple(Cell(text) for text in [*texts, "", ""][: len(header)]))
    return Sheet("Composite", header, (*rows, *_blanks(profile, len(header))))


def _scores(profile: Profile, task: str, columns: Sequence[Column]) -> Sheet:
    def cells(row: Row) -> Iterator[str]:
        for column in columns:
            each = row.scores[column.name]
            yield f"{_percent(each.mean)} ± {_percent(each.half)}"

    return _sheet(profile, task.replace("_", " "), columns, cells)


def _differences(profile: Profile, task: str, columns: Sequence[Column]) -> Sheet:
    directed = [column for column in columns if column.higher_is_better is not None]

    def cells(row: Row) -> Iterator[str]:
        for column in directed:
            yield _signed(row, column.name) if column.name in row.differences else ""

    title = f"{task.replace('_', ' ')}, difference to {profile.control}"
    return _sheet(profile, title, directed, cells)


def _impaired(profile: Profile) -> Sheet:
    def cells(row: Row) -> Iterator[str]:
        for column in profile.impaired:
            each = row.scores[column.name]
            yield f"{_percent(each.mean)} ± {_percent(each.half)}"

    return _sheet(profile, "Without or with damaged inputs", profile.impaired, cells)


def _sheet(
    profile: Profile,
    title: str,
    columns: Sequence[Column],
    cells: Callable[[Row], Iterator[str]],
) -> Sheet:
    header = ("#", "entry", *(_short(column) for column in columns))
    rows = [
        (Cell(str(place)), Cell(_name(row)), *(Cell(text) for text in cells(row)))
        for place, row in enumerate(profile.rows, start=1)
    ]
    return Sheet(title, header, (*rows, *_blanks(profile, len(header))))


def _short(column: Column) -> str:
    """A column's heading without its task where the sheet is about that task."""
    ending = column.name.partition(",")[1:]
    if any(ending):
        return heading(column)
    return heading(column).removeprefix(column.task.replace("_", " ") + " ")


def _cost(profile: Profile) -> Sheet:
    phases = sorted({phase for row in profile.rows for phase in row.cost.phases})
    header = ("#", "entry", "FLOPs", f"x {profile.control}", "steps", "items", "seconds", *phases)
    rows = []
    for place, row in enumerate(profile.rows, start=1):
        cost = row.cost
        relative = "" if cost.relative is None else f"{cost.relative:.2f}"
        texts = [str(place), _name(row), f"{cost.flops:.3g}", relative, f"{cost.steps:.0f}"]
        texts += [f"{cost.items:.0f}", f"{cost.seconds:.1f}"]
        shares = [cost.phases.get(phase, 0.0) / cost.flops if cost.flops else 0 for phase in phases]
        texts += [f"{100 * share:.0f}%" if share else "" for share in shares]
        rows.append(tuple(Cell(text) for text in texts))
    return Sheet("Cost", header, (*rows, *_blanks(profile, len(header))))


def _blanks(profile: Profile, width: int) -> list[tuple[Cell, ...]]:
    return [
        (Cell(""), Cell(blank.label), *(Cell("") for _ in range(width - 2)))
        for blank in profile.blanks
    ]


def _name(row: Row) -> str:
    tied = " ≈" if row.tied else ""
    return f"{row.label}{tied}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _verdict(row: Row, column: str) -> str:
    return row.differences[column].verdict if column in row.differences else ""


def _signed(row: Row, column: str) -> str:
    found = row.differences[column]
    each = found.interval
    return f"{100 * each.mean:+.1f} ± {_percent(each.half)}{VERDICTS[found.verdict]}"


def caption(profile: Profile) -> str:
    """What is compared, in one sentence."""
    seeds = "1 seed" if len(profile.seeds) == 1 else f"{len(profile.seeds)} seeds"
    return (
        f"Trained on {profile.trained_on}, backbone {profile.backbone}, budget {profile.budget}, "
        f"{seeds}, control {profile.control}."
    )


def remarks(profile: Profile) -> list[str]:
    """Why entries are blank, and notes."""
    return [*(f"{blank.label}: {blank.missing}." for blank in profile.blanks), *profile.notes]


def markdown(
    profile: Profile, factorials: "Sequence[Factorial]", pictures: Sequence[str] = ()
) -> str:
    """The whole profile as one page, with the named picture files at its end."""
    from steelyard.leaderboards import factors

    parts = [f"# {md(profile.name)}", md(caption(profile))]
    parts.append(f"## Side by side\n\n{sheet_markdown(overview(profile))}")
    parts += [f"## {md(sheet.title)}\n\n{sheet_markdown(sheet)}" for sheet in sheets(profile)]
    for found in factorials:
        for sheet in factors.sheets(found):
            parts.append(f"## {md(sheet.title)}\n\n{sheet_markdown(sheet)}")
    parts += bullets("## Notes\n\n", remarks(profile))
    parts += bullets("## How to read this\n\n", RULES)
    parts += [f"![{Path(name).stem}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def index_section(profile: Profile, file: str) -> str:
    """The profile's part of the front page: every clean number side by side, and its files."""
    links = [f"[{kind}]({file}.{end})" for kind, end in FORMATS]
    parts = [f"## {md(profile.name)}", md(caption(profile)), sheet_markdown(overview(profile))]
    parts += [" · ".join(links), *bullets("", remarks(profile)), *bullets("", RULES)]
    return "\n\n".join(parts) + "\n"


def as_csv(profile: Profile) -> str:
    """One line an entry and column: mean, interval, seeds' values, difference to the control."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["entry", "column", "mean", "low", "high", "seeds", "difference",
                    "difference_low", "difference_high", "p_holm", "verdict"])  # fmt: skip
    for row in profile.rows:
        for name, each in [(COMPOSITE, row.composite), *row.scores.items()]:
            seeds = " ".join(f"{value:.6g}" for value in each.values)
            line = [row.label, name, *(f"{v:.6g}" for v in (each.mean, each.low, each.high)), seeds]
            found = row.differences.get(name)
            if found is not None:
                apart = found.interval
                numbers = (apart.mean, apart.low, apart.high, found.adjusted)
                line += [*(f"{number:.6g}" for number in numbers), found.verdict]
            table.writerow([*line, *[""] * (11 - len(line))])
    return out.getvalue()


def as_json(profile: Profile) -> str:
    """Everything in the profile, rounded to ten digits."""
    kept = replace(profile, groups={}, samples={})
    content = {"schema": SCHEMA, **asdict(kept)}
    del content["groups"], content["samples"]
    return json.dumps(_rounded(content), indent=1, sort_keys=True) + "\n"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def latex(profile: Profile) -> str:
    """All sheets with booktabs rules, to be included in a document."""
    return "\n".join(sheet_latex(sheet, caption(profile)) for sheet in sheets(profile))


def terminal(profile: Profile, width: int) -> "RenderableType":
    """The clean numbers by task, stacked so that they fit a terminal ``width`` wide, and cost."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = []
    wanted = [sheet for sheet in sheets(profile) if ", difference" not in sheet.title]
    for sheet in wanted:
        for columns in _fitting(sheet, width):
            table = Table(title=sheet.title, box=box.SIMPLE_HEAD, title_justify="left")
            for place in columns:
                name = sheet.header[place].replace(" ", "\n") if place > 1 else sheet.header[place]
                table.add_column(name, justify="left" if place == 1 else "right", no_wrap=True)
            for cells in sheet.rows:
                table.add_row(*(Text(cells[place].text) for place in columns))
            tables.append(table)
    lines = [f"{profile.name}: {caption(profile)}", *remarks(profile), *RULES[:2]]
    return Group(*tables, *(Text(line, style="dim") for line in lines))


def _fitting(sheet: Sheet, width: int) -> list[list[int]]:
    """Columns in groups that each fit ``width`` characters, place and entry in every one."""
    needs = [
        2 + max(len(part) for part in [*sheet.header[place].split(), *texts])
        for place, texts in enumerate(
            zip(*([c.text for c in row] for row in sheet.rows), strict=True)
        )
    ]
    groups: list[list[int]] = []
    for place in range(2, len(sheet.header)):
        if not groups or sum(needs[p] for p in groups[-1]) + needs[place] > width:
            groups.append([0, 1])
        groups[-1].append(place)
    return groups
