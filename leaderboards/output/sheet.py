"""Write tables of cells as Markdown and LaTeX, and bullet lists."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steelyard.leaderboards.output.escape import md, tex
from steelyard.leaderboards.output.style import shorten

if TYPE_CHECKING:
    from rich.table import Table

VERDICTS = ("▲", "▼")
"""Marks of numbers that differ from the control."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Plain text of one cell; each format escapes it."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """Table of text cells; columns after the second are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def text_sheet(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> Sheet:
    """Build a table without marks of the best."""
    return Sheet(title, tuple(header), tuple(tuple(map(Cell, row)) for row in rows))


def sheet_markdown(sheet: Sheet) -> str:
    lines = [[md(name) for name in sheet.header]]
    # The second column has names, all others numbers.
    lines.append(["---" if column == 1 else "--:" for column in range(len(sheet.header))])
    for row in sheet.rows:
        texts = [md(cell.text) for cell in row]
        lines.append(
            [f"**{text}**" if cell.best else text for cell, text in zip(row, texts, strict=True)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(title: str, lines: Sequence[str]) -> list[str]:
    """Return a list under its title; nothing without lines."""
    return [title + "\n".join(f"- {md(line)}" for line in lines)] if lines else []


def sheet_latex(sheet: Sheet, about: str) -> str:
    """Return a LaTeX table; it needs the packages booktabs and textcomp."""
    columns = "rl" + "r" * (len(sheet.header) - 2)
    rows = [
        [rf"\textbf{{{tex(cell.text)}}}" if cell.best else tex(cell.text) for cell in row]
        for row in sheet.rows
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(sheet.title)}. {tex(about)}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(tex, sheet.header)) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def sheet_terminal(
    sheet: Sheet,
    *,
    columns: Sequence[int] | None = None,
    left: Container[int] = (1,),
    widest: int | None = None,
    **options: Any,
) -> "Table":
    """Return a table for the terminal.

    Args:
        sheet: table of texts; a no-break space in the header ends no line.
        columns: indices of the columns to show, by default all.
        left: columns that are not numbers.
        widest: characters of these columns at most; longer texts are cut.
        options: those of ``rich.table.Table``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False,
        title_justify="left", caption_justify="left", **{"title": Text(sheet.title), **options},
    )  # fmt: skip
    indices = range(len(sheet.header)) if columns is None else columns
    for index in indices:
        table.add_column(
            Text(sheet.header[index]), justify="left" if index in left else "right",
            vertical="bottom", no_wrap=True, overflow="ellipsis",
            max_width=widest if index in left else None,
        )  # fmt: skip
    for row in sheet.rows:
        table.add_row(*(Text(row[i].text, style="bold" if row[i].best else "") for i in indices))
    return table


def terminal_tables(sheet: Sheet, width: int, names: int = 2) -> Iterator["Table"]:
    """Yield tables of ``width`` characters at most, with the first ``names`` columns in each.

    Headings are broken into words, the arrow of a direction with the last.
    """
    from rich.cells import cell_len

    arrows = [title.replace(" ↑", "\xa0↑").replace(" ↓", "\xa0↓") for title in sheet.header]
    header = tuple(title.replace(" ", "\n") for title in arrows)
    columns = [_aligned([row[index] for row in sheet.rows]) for index in range(len(header))]
    columns[names - 1] = [replace(cell, text=shorten(cell.text)) for cell in columns[names - 1]]
    rows = tuple(zip(*columns, strict=True))
    needs = [
        2 + max(map(cell_len, [*title.split("\n"), *(cell.text for cell in cells)]))
        for title, cells in zip(header, columns, strict=True)
    ]
    # Columns are never reordered: a table per group reads like one table.
    groups: list[list[int]] = []
    for index in range(names, len(header)):
        if not groups or sum(needs[i] for i in groups[-1]) + needs[index] > width:
            groups.append(list(range(names)))
        groups[-1].append(index)
    for group in groups:
        yield sheet_terminal(Sheet(sheet.title, header, rows), columns=group, left=(names - 1,))


def _aligned(cells: Sequence[Cell]) -> list[Cell]:
    """Make room for the verdict that other numbers of the column have: they end at the right."""
    if not any(cell.text.endswith(VERDICTS) for cell in cells):
        return list(cells)
    return [
        cell if cell.text.endswith(VERDICTS) else replace(cell, text=f"{cell.text}  ")
        for cell in cells
    ]
