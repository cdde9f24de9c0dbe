"""Content of a data card and its Markdown page; the terminal shows the page with less rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from steelyard.harness.core.characters import md
from steelyard.harness.data import card
from steelyard.harness.data.reading import ordered_splits
from steelyard.harness.datacheck.annotations import count_text

FORMAT = 2
"""Version of ``card.json``; its core has a version of its own, which is hashed."""
PAGE_ROWS, TERMINAL_ROWS = 200, 15
"""Most rows of a table in the page and on the terminal; ``card.json`` has all."""


class CardSection(TypedDict):
    """Table with text below it; a row maps column names to cells, fractions are floats."""

    rows: Sequence[Mapping[str, Any]]
    text: str


class DataCard(TypedDict):
    """Content of ``card.json``; no path of the machine, no time."""

    format: int
    task: str
    card: str | None
    core: card.Core | None
    about: dict[str, str]
    generated: bool
    problems: list[str]
    warnings: list[str]
    sections: dict[str, CardSection]


def table(rows: Iterable[Any] = (), text: str = "") -> CardSection:
    """Build a section of mappings or named tuples, whose fields become columns."""
    mappings = [row if isinstance(row, dict) else row._asdict() for row in rows]
    return {"rows": mappings, "text": text}


def markdown(data_card: DataCard, max_rows: int = PAGE_ROWS) -> str:
    """Render the card as a Markdown page with at most ``max_rows`` rows per table."""
    lines = [f"# Data card: {data_card['task']}", ""]
    lines += [f"Card {data_card['card'] or 'none'}. {md(verdict(data_card))}"]
    lists = {"Problems": data_card["problems"], "Warnings": data_card["warnings"]}
    for title, messages in lists.items():
        if messages:
            lines += ["", f"## {title}", "", *(f"- {md(message)}" for message in messages)]
    for title, section in data_card["sections"].items():
        rows, text = section["rows"], section["text"]
        if rows or text:
            lines += ["", f"## {title}"]
        if rows:
            lines += ["", _line(name.replace("_", " ") for name in rows[0])]
            lines += [_line("---" for _ in rows[0])]
            lines += [_line(_cell(*pair) for pair in row.items()) for row in rows[:max_rows]]
        if len(rows) > max_rows:
            lines += ["", f"{len(rows) - max_rows:,} more rows in card.json."]
        if text:
            lines += ["", md(text)]
    return "\n".join(lines) + "\n"


def verdict(data_card: DataCard) -> str:
    """Say in one line whether a run accepts the data, with the first problem if not."""
    if data_card["problems"] or not data_card["core"]:
        return f"refused: {data_card['problems'][0]}"
    splits = data_card["core"]["splits"]
    counts = (f"{name} {splits[name]['items']:,}" for name in ordered_splits(splits))
    return f"usable: {', '.join(counts)}"


def closing(data_card: DataCard) -> list[str]:
    """Return the verdict, then what is wrong, left out, leaked or not there, a line each."""
    lines = [verdict(data_card), *data_card["problems"][1:], *data_card["warnings"]]
    absent = [
        row["path"] + (f" ({row['note']})" if row["note"] else "")
        for row in data_card["sections"]["Expected layout"]["rows"]
        if row["state"] == "missing"
    ]
    return [*lines, *([f"Not found: {', '.join(absent)}."] if absent else [])]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}"
    if isinstance(value, list):
        return md(", ".join(value))
    if isinstance(value, str):
        return md(value[:12] if name == "sha256" else value)
    return count_text(value)


def split_tables(core: card.Core, repeated: Mapping[str, int]) -> dict[str, CardSection]:
    """Tabulate the splits of the core, their labels and their subsets."""
    splits = {name: core["splits"][name] for name in ordered_splits(core["splits"])}
    columns = ("items", "images", "without image", "without text")
    rows = []
    for name, split in splits.items():
        counts = {column: split[column] for column in columns}
        skipped = sum(core["skipped"].get(name, {}).values())
        rows.append({"split": name, **counts, "skipped": skipped, "repeated": repeated[name]})
    notes = "; ".join(f"{key}: {value}" for key, value in core["notes"].items())
    text = "Repeated: with image and text of another item of the split."
    sections = {"Splits": table(rows, f"{text} Read as {notes}." if notes else text)}
    for kind in ("label", "subset"):
        names = dict.fromkeys(name for split in splits.values() for name in split[f"{kind}s"])
        rows = []
        for name in names:
            numbers = {key: split[f"{kind}s"].get(name, 0) for key, split in splits.items()}
            rows.append(
                {kind: name}
                | {key: f"{n:,} ({n / splits[key]['items']:.1%})" for key, n in numbers.items()}
            )
        sections[f"{kind.capitalize()}s"] = table(rows)
    return sections
