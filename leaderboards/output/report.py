"""Reports: tables, numbers and figures with one writer for every format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard.harness.core.characters import md
from steelyard.leaderboards.output.files import csv_text, exact, json_text, write_files
from steelyard.leaderboards.output.sheet import Sheet, bullets, sheet_latex, sheet_markdown
from steelyard.leaderboards.output.style import Figures, render
from steelyard.leaderboards.stats.intervals import Interval

SCHEMA = 4


@dataclass(frozen=True, slots=True)
class ReportPart:
    """Part of a report with a heading of its own."""

    title: str
    about: str = ""
    sheets: Sequence[Sheet] = ()
    notes: Sequence[str] = ()
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Page of tables and figures, with its numbers for machines."""

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
    figures: Figures = field(default_factory=dict)
    """By stem, those of the parts not included."""
    rows: Sequence[Mapping[str, object]] = ()
    """Lines of the CSV file by column; an interval has three columns, None is blank."""
    content: Mapping[str, Any]
    """JSON file."""
    latex_about: str = ""
    """Description below each LaTeX table; without it there is no LaTeX."""

    @property
    def all_figures(self) -> Figures:
        """Return every figure by stem, those of the parts first."""
        parts = [part.figures for part in self.parts]
        return {stem: draw for figures in (*parts, self.figures) for stem, draw in figures.items()}

    def write(self, out: Path) -> list[Path]:
        """Write all files and figures into ``out``; return their paths, the page first."""
        return write_files(out, self.files() | render(self.all_figures))

    def files(self) -> dict[str, bytes]:
        """Return every file but the figures by name, the page first."""
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
            blocks += [*bullets("", part.notes), *map(image, part.figures)]
        blocks += bullets("## Notes\n\n", self.notes)
        blocks += bullets("## How to read this\n\n", self.rules)
        return "\n\n".join([*blocks, *map(image, self.figures)]) + "\n"

    def csv(self) -> str:
        rows = [dict(_fields(row)) for row in self.rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return csv_text([names, *([row.get(name, "") for name in names] for row in rows)])

    def json(self) -> str:
        return json_text({"schema": SCHEMA, **self.content})

    def latex(self) -> str:
        """Return the tables with booktabs rules, for inclusion in a document."""
        return "\n".join(sheet_latex(sheet, self.latex_about) for sheet in self.sheets)


def image(stem: str) -> str:
    """Return Markdown that shows a figure."""
    return f"![{stem}]({stem}.svg)"


def file_links(files: Mapping[str, str]) -> str:
    return " · ".join(f"[{name}]({path})" for name, path in files.items())


def _fields(row: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the columns of a row; an interval without a name has the columns mean, low and high."""
    for name, value in row.items():
        if isinstance(value, Interval):
            names = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
            yield from zip(names, map(exact, value.ends), strict=True)
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif value is not None:
            yield name, exact(value) if isinstance(value, float) else value
