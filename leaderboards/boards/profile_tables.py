"""A profile as sheets, and those as Markdown, CSV, JSON, LaTeX or terminal tables."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steelyard.leaderboards.boards.export import SCHEMA
from steelyard.leaderboards.boards.front_page import NO_DIAGRAM, placed
from steelyard.leaderboards.boards.profile import COMPOSITE, NO_IMAGE, Profile, ProfileRow
from steelyard.leaderboards.boards.profile_measure import ProfileColumn
from steelyard.leaderboards.boards.tables import FORMATS, VERDICTS
from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import json_text, members
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_latex, sheet_markdown
from steelyard.leaderboards.output.style import shorten
from steelyard.leaderboards.stats.intervals import Interval
from steelyard.tasks import NOTHING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steelyard.leaderboards.boards.factorial import Factorial

RULES = (
    "All numbers are percentages on clean items unless the column says otherwise; ± is half of the "
    "95 % interval over training seeds and test items, differences are paired by seed and item, "
    "and ▲ is better and ▼ worse than the control at 5 % after Holm's correction over the entries "
    "of the column. Columns without an arrow only describe.",
    "The composite is the mean over tasks of the mean of a task's clean numbers, those where lower "
    "is better taken as 100 - x. It orders the rows and nothing more: one column alone can crown "
    "an entry that ruined another, so read them side by side. Entries that share a letter under "
    "ties are not told apart by it at 5 % after Holm's correction over all pairs; ≈ marks those "
    "tied with the first.",
    "Borda, ranks and win rates go by the tasks' parts of the composite, one vote a task: Borda "
    "counts the entries beaten, the range is the middle 95 % of mean ranks when seeds and items "
    "are resampled, the win rate is the share of the others beaten seed by seed with its interval.",
    "No image is the main metric with every image removed: what is left is language prior. "
    "Reliance is how far the metric falls by that, paired by seed and item. Impaired is its mean "
    "over the corruptions of that side that were scored, each averaged over its severities first.",
)
DIRECTIONS = {True: " ↑", False: " ↓", None: ""}


def words(name: str) -> str:
    """A task's or metric's name for people."""
    return name.replace("_", " ")


def heading(column: ProfileColumn) -> str:
    """A column's name with the direction in which it is better."""
    return words(column.name) + DIRECTIONS[column.higher_is_better]


def sheets(profile: Profile) -> tuple[Sheet, ...]:
    """Per task the clean numbers and differences, then impairments and cost."""
    made = [_composites(profile)]
    compared = any(row.differences for row in profile.rows)
    for task in dict.fromkeys(column.task for column in profile.shown):
        own = [column for column in profile.shown if column.task == task]
        made.append(_scores(profile, task, own))
        if compared and any(column.higher_is_better is not None for column in own):
            made.append(_differences(profile, task, own))
    if profile.corrupted:
        made.append(_corrupted(profile))
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


def _best(profile: Profile, column: ProfileColumn) -> float | None:
    means = [row.scores[column.name].mean for row in profile.rows]
    if column.higher_is_better is None or not means:
        return None
    return max(means) if column.higher_is_better else min(means)


def _composites(profile: Profile) -> Sheet:
    compared = any(row.differences for row in profile.rows)
    more = (f"minus {profile.control}", "p (Holm)") if compared else ()
    places = ("Borda", "mean rank", "range", "win rate", "ties by wins")
    header = ("#", "entry", "ties", "composite", *more, *places)
    rows = []
    for place, row in enumerate(profile.rows, start=1):
        texts = [str(place), _name(row), "".join(row.ties), _with_half(row.composite)]
        if COMPOSITE in row.differences:
            texts += [_signed(row, COMPOSITE), f"{row.differences[COMPOSITE].adjusted:.3f}"]
        texts += [""] * (4 + len(more) - len(texts))
        letters, *numbers = placed(row.rank)
        rows.append(tuple(map(Cell, (*texts, *numbers, letters))))
    return Sheet("Composite", header, (*rows, *_blanks(profile, len(header))))


def _scores(profile: Profile, task: str, columns: Sequence[ProfileColumn]) -> Sheet:
    def cells(row: ProfileRow) -> Iterator[str]:
        for column in columns:
            yield _with_half(row.scores[column.name])

    header = [_short(column) for column in columns]
    return _sheet(profile, words(task), header, cells)


def _differences(profile: Profile, task: str, columns: Sequence[ProfileColumn]) -> Sheet:
    directed = [column for column in columns if column.higher_is_better is not None]

    def cells(row: ProfileRow) -> Iterator[str]:
        for column in directed:
            yield _signed(row, column.name) if column.name in row.differences else ""

    title = f"{task.replace('_', ' ')}, difference to {profile.control}"
    return _sheet(profile, title, [_short(column) for column in directed], cells)


def _corrupted(profile: Profile) -> Sheet:
    def cells(row: ProfileRow) -> Iterator[str]:
        for column in profile.corrupted:
            yield _with_half(row.scores[column.name])
            if column.name.endswith(NO_IMAGE):
                yield _with_half(row.reliance[column.task], "+")

    header = [
        text
        for column in profile.corrupted
        for text in (
            heading(column),
            *([f"{words(column.task)}, reliance"] if column.name.endswith(NO_IMAGE) else []),
        )
    ]
    return _sheet(profile, "Without or with damaged inputs", header, cells)


def _sheet(
    profile: Profile,
    title: str,
    columns: Sequence[str],
    cells: Callable[[ProfileRow], Iterator[str]],
) -> Sheet:
    header = ("#", "entry", *columns)
    rows = [
        (Cell(str(place)), Cell(_name(row)), *(Cell(text) for text in cells(row)))
        for place, row in enumerate(profile.rows, start=1)
    ]
    return Sheet(title, header, (*rows, *_blanks(profile, len(header))))


def _short(column: ProfileColumn) -> str:
    """A column's heading without its task, for a sheet about that task."""
    return heading(column).removeprefix(words(column.task) + " ")


def _cost(profile: Profile) -> Sheet:
    phases = phases_of(profile)
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


def phases_of(profile: Profile) -> list[str]:
    """Every phase that some entry spent compute on, the two passes of training first."""
    found = {phase for row in profile.rows for phase in row.cost.phases}
    passes = [phase for phase in ("forward", "backward") if phase in found]
    return [*passes, *sorted(found.difference(passes))]


def _blanks(profile: Profile, width: int) -> list[tuple[Cell, ...]]:
    return [
        (Cell(""), Cell(_with_kind(blank.label, blank.kind)), *(Cell("") for _ in range(width - 2)))
        for blank in profile.blanks
    ]


def _name(row: ProfileRow) -> str:
    return _with_kind(row.label, row.kind) + (" ≈" if row.tied else "")


def _with_kind(label: str, kind: str) -> str:
    return f"{label} ({kind})" if kind == "control" else label


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _with_half(each: Interval, sign: str = "") -> str:
    return f"{100 * each.mean:{sign}.1f} ± {_percent(each.half)}"


def _verdict(row: ProfileRow, column: str) -> str:
    return row.differences[column].verdict if column in row.differences else ""


def _signed(row: ProfileRow, column: str) -> str:
    found = row.differences[column]
    return _with_half(found.interval, "+") + VERDICTS[found.verdict]


def caption(profile: Profile) -> str:
    """What is compared, in one sentence."""
    seeds = "1 seed" if len(profile.seeds) == 1 else f"{len(profile.seeds)} seeds"
    if profile.trained_on == NOTHING:
        return f"Models as they are, nothing trained, {seeds}, control {profile.control}."
    return (
        f"Trained on {profile.trained_on}, backbone {profile.backbone}, budget {profile.budget}, "
        f"{seeds}, control {profile.control}."
    )


def remarks(profile: Profile) -> list[str]:
    """Why entries are blank, notes, and what the profile can and cannot show."""
    blanks = [f"{blank.label}: {blank.missing}." for blank in profile.blanks]
    seen = profile.detectable.get(COMPOSITE)
    power = [] if seen is None else [
        f"A difference to {profile.control} of {_percent(seen.alone)} points of composite "
        f"({_percent(seen.corrected)} after Holm's correction) is found with 80 % chance."
    ]  # fmt: skip
    return [*blanks, *profile.notes, *power, *([NO_DIAGRAM] if profile.critical is None else [])]


def markdown(
    profile: Profile, factorials: "Sequence[Factorial]", pictures: Sequence[str] = ()
) -> str:
    """The whole profile as one page, with the named picture files at its end."""
    from steelyard.leaderboards.boards import factorial

    parts = [f"# {md(profile.name)}", md(caption(profile))]
    parts.append(f"## Side by side\n\n{sheet_markdown(overview(profile))}")
    parts += [f"## {md(sheet.title)}\n\n{sheet_markdown(sheet)}" for sheet in sheets(profile)]
    for found in factorials:
        for sheet in factorial.sheets(found):
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


CSV_COLUMNS = (
    "entry", "column", "mean", "low", "high", "seeds", "difference", "difference_low",
    "difference_high", "p_holm", "verdict", "missing",
)  # fmt: skip


def as_csv(profile: Profile) -> str:
    """One line an entry and column: mean, interval, seeds' values, difference to the control.

    An incomplete entry has one line that says what it lacks.
    """
    out = io.StringIO()
    table = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for row in profile.rows:
        reliance = {f"{task} reliance": each for task, each in row.reliance.items()}
        for name, each in {COMPOSITE: row.composite, **row.scores, **reliance}.items():
            line = {"entry": row.label, "column": name, **_ends("", each)}
            line["seeds"] = " ".join(f"{value:.6g}" for value in each.values)
            found = row.differences.get(name)
            if found is not None:
                line |= _ends("difference", found.interval)
                line |= {"p_holm": f"{found.adjusted:.6g}", "verdict": found.verdict}
            table.writerow(line)
    table.writerows({"entry": b.label, "missing": b.missing} for b in profile.blanks)
    return out.getvalue()


def _ends(name: str, each: Interval) -> dict[str, str]:
    start = f"{name}_" if name else ""
    values = {name or "mean": each.mean, f"{start}low": each.low, f"{start}high": each.high}
    return {key: f"{value:.6g}" for key, value in values.items()}


def as_json(profile: Profile, designs: "Sequence[Factorial]" = ()) -> str:
    """Everything in the profile and its factorials, rounded to ten digits."""
    kept = {k: v for k, v in members(profile).items() if k not in ("groups", "samples")}
    return json_text({"schema": SCHEMA, **kept, "factorials": designs})


def latex(profile: Profile, designs: "Sequence[Factorial]" = ()) -> str:
    """All sheets with booktabs rules, to be included in a document."""
    from steelyard.leaderboards.boards import factorial

    found = [*sheets(profile), *(sheet for each in designs for sheet in factorial.sheets(each))]
    return "\n".join(sheet_latex(sheet, caption(profile)) for sheet in found)


def terminal(profile: Profile, width: int) -> "RenderableType":
    """The clean numbers, impairments and cost, in as many tables as ``width`` characters need."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = [_clean(profile), *([_corrupted(profile)] if profile.corrupted else []), _cost(profile)]
    tables: list[RenderableType] = []
    for sheet in (_cut(sheet) for sheet in made):
        for columns in _fitting(sheet, width):
            table = Table(
                title=sheet.title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0),
                show_edge=False, pad_edge=False,
            )  # fmt: skip
            for place in columns:
                name = "\n".join(_words_of(sheet, place))
                modality: Literal["left", "right"] = "left" if place == 1 else "right"
                table.add_column(Text(name), justify=modality, vertical="bottom", no_wrap=True)
            for cells in sheet.rows:
                table.add_row(*(Text(cells[place].text) for place in columns))
            tables += [table, Text("")]
    lines = [f"{profile.name}: {caption(profile)}", *remarks(profile), *RULES]
    return Group(*tables, *(Text(line, style="dim") for line in lines))


def _clean(profile: Profile) -> Sheet:
    """Every clean number with half its interval and its mark, the composite first."""

    def cells(row: ProfileRow) -> Iterator[str]:
        for name, each in [(COMPOSITE, row.composite), *((n, row.scores[n]) for n in names)]:
            yield _with_half(each) + (VERDICTS[_verdict(row, name)] or unmarked)

    # As wide as a mark, so that numbers with and without one stand below each other.
    unmarked = "  " if any(row.differences for row in profile.rows) else ""
    names = [column.name for column in profile.shown]
    header = [COMPOSITE, *(heading(column) for column in profile.shown)]
    return _sheet(profile, "Clean", header, cells)


def _cut(sheet: Sheet) -> Sheet:
    """The same with names short enough to stand beside numbers."""
    rows = [(row[0], Cell(shorten(row[1].text)), *row[2:]) for row in sheet.rows]
    return replace(sheet, rows=tuple(rows))


def _words_of(sheet: Sheet, place: int) -> list[str]:
    """A heading's lines: one a word, arrows on the last."""
    return sheet.header[place].replace(" ↑", "\xa0↑").replace(" ↓", "\xa0↓").split(" ")


def _fitting(sheet: Sheet, width: int) -> list[list[int]]:
    """Columns in groups that each fit ``width`` characters, place and entry in every one."""
    from rich.cells import cell_len

    needs = [
        2 + max(map(cell_len, [*_words_of(sheet, place), *(row[place].text for row in sheet.rows)]))
        for place in range(len(sheet.header))
    ]
    groups: list[list[int]] = []
    for place in range(2, len(sheet.header)):
        if not groups or sum(needs[p] for p in groups[-1]) + needs[place] > width:
            groups.append([0, 1])
        groups[-1].append(place)
    return groups
