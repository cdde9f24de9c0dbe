"""Write tables of cells as Markdown and LaTeX, and bullet lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steelyard.leaderboards.output.escape import md, tex

if TYPE_CHECKING:
    pass


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


def sheet_markdown(sheet: Sheet) -> str:
    """Return a table in Markdown."""
    lines = [[md(name) for name in sheet.header]]
    lines.append(["---" if column == 1 else "--:" for column in range(len(sheet.header))])
    for row in sheet.rows:
        texts = [md(cell.text) for cell in row]
        lines.append(
            [f"**{text}**" if cell.best else text for cell, text in zip(row, texts, strict=True)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page_markdown(
    title: str,
    about: str,
    sheets: Sequence[Sheet],
    notes: Sequence[str],
    rules: Sequence[str],
    pictures: Sequence[str],
) -> str:
    """Return a page: title, description, tables, notes, rules, and pictures by file name."""
    parts = [f"# {md(title)}", md(about)]
    parts += [f"## {md(sheet.title)}\n\n{sheet_markdown(sheet)}" for sheet in sheets]
    parts += bullets("## Notes\n\n", notes) + bullets("## How to read this\n\n", rules)
    parts += [f"![{name.rpartition('.')[0]}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


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
