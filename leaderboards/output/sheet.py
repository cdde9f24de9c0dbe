"""Write tables of cells as Markdown, LaTeX and for a terminal, and bullet lists."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from steelyard.harness.core.characters import md
from steelyard.leaderboards.output.escape import tex
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


def terminal_tables(sheet: Sheet, width: int, names: int = 2) -> Iterator["Table"]:
    """Yield tables of ``width`` characters at most, with the first ``names`` columns in each.

    Headings are broken into words, the arrow of a direction with the last; long names are cut.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    arrows = [title.replace(" ↑", "\xa0↑").replace(" ↓", "\xa0↓") for title in sheet.header]
    header = [title.replace(" ", "\n") for title in arrows]
    columns = [_aligned([row[index] for row in sheet.rows]) for index in range(len(header))]
    columns[names - 1] = [replace(cell, text=shorten(cell.text)) for cell in columns[names - 1]]
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
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False,
            title=Text(f"\n{sheet.title}"), title_justify="left",
        )  # fmt: skip
        for index in group:
            is_name = index < names and any(cell.text[:1].isalpha() for cell in columns[index])
            justify: Literal["left", "right"] = "left" if is_name else "right"
            table.add_column(Text(header[index]), justify=justify, vertical="bottom", no_wrap=True,
                             overflow="ellipsis")  # fmt: skip
        for row in zip(*(columns[index] for index in group), strict=True):
            table.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        yield table


def _aligned(cells: Sequence[Cell]) -> list[Cell]:
    """Make room for the verdict that other numbers of the column have: they end at the right."""
    if not any(cell.text.endswith(VERDICTS) for cell in cells):
        return list(cells)
    return [
        cell if cell.text.endswith(VERDICTS) else replace(cell, text=f"{cell.text}  ")
        for cell in cells
    ]
