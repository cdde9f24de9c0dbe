"""Reports: tables and numbers with one writer for Markdown, CSV, JSON and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import csv_text, json_text
from steelyard.leaderboards.output.sheet import Sheet, bullets, sheet_latex, sheet_markdown

SCHEMA = 3


@dataclass(frozen=True, slots=True)
class ReportPart:
    """Part of a report with a heading of its own."""

    title: str
    about: str
    sheets: Sequence[Sheet]
    notes: Sequence[str] = ()
    pictures: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Page of tables with its numbers for machines; figures are named, not held."""

    stem: str
    """File name without ending."""
    title: str
    about: str = ""
    links: Mapping[str, str] | None = None
    """Files by their names on the page, put below the description."""
    sheets: Sequence[Sheet] = ()
    parts: Sequence[ReportPart] = ()
    notes: Sequence[str] = ()
    rules: Sequence[str] = ()
    pictures: Sequence[str] = ()
    rows: Sequence[Mapping[str, object]] = ()
    """Lines of the CSV file by column; missing ones are blank."""
    content: Mapping[str, Any]
    latex_about: str = ""
    """Description below each LaTeX table; without it there is no LaTeX."""

    def files(self) -> dict[str, bytes]:
        """Return every file by name, the page first."""
        texts = {"md": self.markdown(), "csv": self.csv(), "json": self.json()}
        if self.latex_about:
            texts["tex"] = self.latex()
        return {f"{self.stem}.{kind}": text.encode() for kind, text in texts.items()}

    def markdown(self) -> str:
        blocks = [f"# {md(self.title)}"]
        blocks += [md(self.about)] if self.about else []
        blocks += [file_links(self.links)] if self.links else []
        blocks += [f"## {md(sheet.title)}\n\n{sheet_markdown(sheet)}" for sheet in self.sheets]
        for part in self.parts:
            blocks += [f"## {md(part.title)}", *([md(part.about)] if part.about else [])]
            for sheet in part.sheets:
                heading = "" if sheet.title == part.title else f"### {md(sheet.title)}\n\n"
                blocks.append(heading + sheet_markdown(sheet))
            blocks += [*bullets("", part.notes), *map(image, part.pictures)]
        blocks += bullets("## Notes\n\n", self.notes)
        blocks += bullets("## How to read this\n\n", self.rules)
        return "\n\n".join([*blocks, *map(image, self.pictures)]) + "\n"

    def csv(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        return csv_text([names, *([row.get(name, "") for name in names] for row in self.rows)])

    def json(self) -> str:
        return json_text({"schema": SCHEMA, **self.content})

    def latex(self) -> str:
        """Return the tables with booktabs rules, for inclusion in a document."""
        return "\n".join(sheet_latex(sheet, self.latex_about) for sheet in self.sheets)


def image(name: str) -> str:
    """Return Markdown that shows a picture file."""
    return f"![{name.rpartition('.')[0]}]({name})"


def file_links(files: Mapping[str, str]) -> str:
    return " · ".join(f"[{name}]({path})" for name, path in files.items())
