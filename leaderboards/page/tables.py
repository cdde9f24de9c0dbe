"""Build the page's tables: sortable, with expandable rows and drawings of intervals."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from steelyard.leaderboards.output.sheet import Sheet
from steelyard.leaderboards.output.style import off_scale
from steelyard.leaderboards.page.markup import esc
from steelyard.leaderboards.stats.intervals import Interval

_NUMBER = re.compile(r"[≈+]?(?P<value>-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_MARKS = {
    "▲": ("better", "better than the control after Holm's correction"),
    "▼": ("worse", "worse than the control after Holm's correction"),
    "≈": ("tied", "not distinguishable from the first"),
    "†": ("odd", "better corrupted than clean"),
    "‡": ("odd", "balance traded for performance of the strong modality or clean inputs"),
}
VERDICTS = ("▲", "▼")
MARK = ' <span class="mark"></span>'
WIDE = 100
"""Width of an interval's drawing in its own units."""


@dataclass(frozen=True, slots=True)
class Name:
    """Entry of a row."""

    label: str
    kind: str
    detail: str = ""
    """HTML of the expanded row, or empty."""


def table(
    sheet: Sheet,
    names: Sequence[Name],
    key: str,
    whiskers: tuple[int, Sequence[str]] | None = None,
) -> str:
    """Return a sheet as HTML; its second column has the entries ``names``.

    Args:
        sheet: rows and header.
        names: entries of the rows.
        key: prefix of the ids within the table.
        whiskers: a column, and drawings of the first rows' intervals to put right of it.
    """
    whisker_column, drawings = whiskers or (None, ())
    head = []
    for column, title in enumerate(sheet.header):
        alignment = ' class="l"' if column == 1 else ""
        button = f'<button type="button">{esc(title)}</button>'
        head.append(f'<th scope="col" aria-sort="none"{alignment}>{button}</th>')
        if column == whisker_column:
            head.append('<th scope="col" class="w">interval</th>')
    marked = {n for row in sheet.rows for n, cell in enumerate(row) if cell.text.endswith(VERDICTS)}
    body = []
    for number, (row, name) in enumerate(zip(sheet.rows, names, strict=True)):
        drawing = drawings[number] if number < len(drawings) else ""
        cells = []
        for column, cell in enumerate(row):
            best = " best" if cell.best else ""
            # A blank mark keeps the numbers of the column aligned.
            room = column in marked and not cell.text.endswith(VERDICTS)
            number_cell = _cell(cell.text, best, room)
            cells.append(_entry(name, f"{key}-{number}") if column == 1 else number_cell)
            if column == whisker_column:
                cells.append(f'<td class="w">{drawing}</td>')
        body.append(_row(name, "".join(cells), f"{key}-{number}", len(head)))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(sheet.title)}">'
        f'<table class="entries"><caption>{esc(sheet.title)}</caption>'
        f"<thead><tr>{''.join(head)}</tr></thead>{''.join(body)}</table></div>"
    )


def _row(name: Name, cells: str, key: str, width: int) -> str:
    """Return a row and its details in a ``tbody``, so that sorting keeps them together."""
    attributes = f'data-name="{esc(name.label)}" data-kind="{esc(name.kind or "other")}"'
    below = ""
    if name.detail:
        below = (
            f'<tr class="detail" id="{key}"><td colspan="{width}"><div class="inside">'
            f"{name.detail}</div></td></tr>"
        )
    return f"<tbody {attributes}><tr>{cells}</tr>{below}</tbody>"


def _entry(name: Name, key: str) -> str:
    label = f'<span class="name">{esc(name.label)}</span>'
    if name.detail:
        # Open until the script closes it: a browser without scripts shows all details.
        label = f'<button type="button" aria-expanded="true" aria-controls="{key}">{label}</button>'
    kind = f' <span class="kind">{esc(name.kind)}</span>' if name.kind else ""
    return f'<th scope="row">{label}{kind}</th>'


def _cell(text: str, best: str, room: bool) -> str:
    """Return a number, with ``room`` for a mark if other numbers of the column have one."""
    number = _NUMBER.match(text)
    # The script sorts by this attribute; texts carry signs, intervals and marks.
    value = f' data-v="{number["value"]}"' if number else ""
    return f'<td class="n{best}"{value}>{number_html(text)}{MARK if room else ""}</td>'


def number_html(text: str) -> str:
    """Return a number with its interval in grey and a tooltip for its marks."""
    mean, sign, rest = text.partition(" ± ")
    half, _, mark = rest.partition(" ")
    markup = _marked(mean)
    if sign:
        markup += f' <span class="pm">± {esc(half)}</span>'
    return f"{markup} {_marked(mark)}" if mark else markup


def _marked(text: str) -> str:
    markup = esc(text)
    for sign, (kind, meaning) in _MARKS.items():
        markup = markup.replace(
            sign, f'<abbr class="mark {kind}" title="{esc(meaning)}">{sign}</abbr>'
        )
    return markup


def draw_intervals(intervals: Sequence[Interval], *, higher_is_better: bool = True) -> list[str]:
    """Draw a dot and a whisker per interval, on one scale; one far behind is an arrow."""
    if not intervals:
        return []
    spans = {str(number): (i.low, i.high) for number, i in enumerate(intervals)}
    behind = off_scale(spans, higher_is_better=higher_is_better)
    visible = [span for number, span in spans.items() if number not in behind]
    low, high = min(span[0] for span in visible), max(span[1] for span in visible)
    # 4 units remain at each end for half a dot or an arrow; one point alone has no range.
    unit = (WIDE - 8) / ((high - low) or 1.0)
    drawings = []
    for number, interval in enumerate(intervals):
        ends = (interval.low, interval.mean, interval.high)
        start, dot, end = (4 + unit * (value - low) for value in ends)
        mark = f'<path d="M{start:.1f} 6H{end:.1f}"/><circle cx="{dot:.1f}" cy="6" r="3"/>'
        if str(number) in behind:
            mark = '<path d="M8 3L4 6L8 9"/>' if dot < 0 else '<path d="M92 3L96 6L92 9"/>'
        drawings.append(
            f'<svg class="whisker" viewBox="0 0 {WIDE} 12" aria-hidden="true">{mark}</svg>'
        )
    return drawings


def bar(fraction: float) -> str:
    """Draw a fraction of 1 as a small bar."""
    return (
        f'<svg class="fraction" viewBox="0 0 {WIDE} 8" preserveAspectRatio="none" '
        f'aria-hidden="true"><rect width="{WIDE * fraction:.1f}" height="8"/></svg>'
    )


def plain(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a small table of HTML cells; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="small"><caption>{esc(title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Mapping[str, str]) -> str:
    """Return a description list; the values are HTML."""
    return (
        "<dl>"
        + "".join(f"<dt>{esc(name)}</dt><dd>{value}</dd>" for name, value in pairs.items())
        + "</dl>"
    )
