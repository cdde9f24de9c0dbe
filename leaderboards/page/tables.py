"""Tables of the page: sortable, with a row that opens and a small picture of its interval."""

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
    "≈": ("tied", "not told apart from the first"),
    "†": ("odd", "better impaired than clean"),
    "‡": ("odd", "balance bought by hurting the strong side"),
}
VERDICTS = ("▲", "▼")
MARK = ' <span class="mark"></span>'
WIDE = 100
"""Width of an interval's picture in its own units."""


@dataclass(frozen=True, slots=True)
class Name:
    """Whose row it is."""

    label: str
    kind: str
    detail: str = ""
    """HTML that opens below the row; empty for none."""


def table(
    sheet: Sheet,
    names: Sequence[Name],
    key: str,
    whiskers: tuple[int, Sequence[str]] | None = None,
) -> str:
    """A sheet whose second column is the entry, row by row those of ``names``.

    Args:
        sheet: rows and header.
        names: entries of the rows.
        key: begins the ids within the table.
        whiskers: a column, and pictures of the first rows' intervals that stand beside it.
    """
    at = whiskers[0] if whiskers else None
    head = []
    for place, title in enumerate(sheet.header):
        head.append(_heading(title, place))
        if place == at:
            head.append('<th scope="col" class="w">interval</th>')
    drawn = whiskers[1] if whiskers else ()
    marked = {n for row in sheet.rows for n, cell in enumerate(row) if cell.text.endswith(VERDICTS)}
    body = []
    for number, (row, name) in enumerate(zip(sheet.rows, names, strict=True)):
        picture = drawn[number] if number < len(drawn) else ""
        cells = []
        for place, cell in enumerate(row):
            best = " best" if cell.best else ""
            room = place in marked and not cell.text.endswith(VERDICTS)
            shown = _cell(cell.text, best, room)
            cells.append(_entry(name, f"{key}-{number}") if place == 1 else shown)
            if place == at:
                cells.append(f'<td class="w">{picture}</td>')
        body.append(_row(name, "".join(cells), f"{key}-{number}", len(head)))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(sheet.title)}">'
        f'<table class="entries"><caption>{esc(sheet.title)}</caption>'
        f"<thead><tr>{''.join(head)}</tr></thead>{''.join(body)}</table></div>"
    )


def _row(name: Name, cells: str, key: str, width: int) -> str:
    """A row and what opens below it in a body of their own, which sorting keeps together."""
    whose = f'data-name="{esc(name.label)}" data-kind="{esc(name.kind or "other")}"'
    below = ""
    if name.detail:
        below = (
            f'<tr class="detail" id="{key}"><td colspan="{width}"><div class="inside">'
            f"{name.detail}</div></td></tr>"
        )
    return f"<tbody {whose}><tr>{cells}</tr>{below}</tbody>"


def _heading(title: str, place: int) -> str:
    left = ' class="l"' if place == 1 else ""
    return (
        f'<th scope="col" aria-sort="none"{left}><button type="button">{esc(title)}</button></th>'
    )


def _entry(name: Name, key: str) -> str:
    shown = f'<span class="name">{esc(name.label)}</span>'
    if name.detail:
        shown = f'<button type="button" aria-expanded="true" aria-controls="{key}">{shown}</button>'
    kind = f' <span class="kind">{esc(name.kind)}</span>' if name.kind else ""
    return f'<th scope="row">{shown}{kind}</th>'


def _cell(text: str, best: str, room: bool) -> str:
    """A number; with ``room`` for the mark that others of its column have."""
    number = _NUMBER.match(text)
    value = f' data-v="{number["value"]}"' if number else ""
    return f'<td class="n{best}"{value}>{number_html(text)}{MARK if room else ""}</td>'


def number_html(text: str) -> str:
    """A number with its interval in lighter ink and its marks with their meaning."""
    mean, sign, rest = text.partition(" ± ")
    half, _, mark = rest.partition(" ")
    shown = _marked(mean)
    if sign:
        shown += f' <span class="pm">± {esc(half)}</span>'
    return f"{shown} {_marked(mark)}" if mark else shown


def _marked(text: str) -> str:
    shown = esc(text)
    for sign, (kind, meaning) in _MARKS.items():
        shown = shown.replace(
            sign, f'<abbr class="mark {kind}" title="{esc(meaning)}">{sign}</abbr>'
        )
    return shown


def pictures(intervals: Sequence[Interval], *, higher_is_better: bool = True) -> list[str]:
    """A dot and a whisker each, on one scale; an entry far behind all others is an arrow."""
    if not intervals:
        return []
    spans = {str(number): (each.low, each.high) for number, each in enumerate(intervals)}
    behind = off_scale(spans, higher_is_better=higher_is_better)
    seen = [span for number, span in spans.items() if number not in behind]
    low, high = min(span[0] for span in seen), max(span[1] for span in seen)
    unit = (WIDE - 8) / ((high - low) or 1.0)
    drawn = []
    for number, each in enumerate(intervals):
        left, dot, right = (4 + unit * (end - low) for end in (each.low, each.mean, each.high))
        mark = f'<path d="M{left:.1f} 6H{right:.1f}"/><circle cx="{dot:.1f}" cy="6" r="3"/>'
        if str(number) in behind:
            mark = '<path d="M8 3L4 6L8 9"/>' if dot < 0 else '<path d="M92 3L96 6L92 9"/>'
        drawn.append(
            f'<svg class="whisker" viewBox="0 0 {WIDE} 12" aria-hidden="true">{mark}</svg>'
        )
    return drawn


def bar(share: float) -> str:
    """A small bar for a share of 1; the number stands beside it."""
    return (
        f'<svg class="share" viewBox="0 0 {WIDE} 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{WIDE * share:.1f}" height="8"/></svg>'
    )


def plain(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table within a row's details; the cells are HTML, the first names its row."""
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
    """Names and what they are; the values are HTML."""
    return (
        "<dl>"
        + "".join(f"<dt>{esc(name)}</dt><dd>{to}</dd>" for name, to in pairs.items())
        + "</dl>"
    )
