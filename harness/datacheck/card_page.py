"""A data card to read: the same tables as Markdown and on the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steelyard.harness.data.reading import CORE
from steelyard.harness.datacheck.annotations import said

ROWS = 15
"""Lines of a table on the terminal; the card's files hold all."""
PAGE_ROWS = 200
Card = Mapping[str, Any]
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A table with words under it; one without rows is its words alone."""

    title: str
    headers: Row = ()
    rows: Sequence[Row] = ()
    words: str = ""


def sections(card: Card) -> list[Section]:
    """What a card says, in order; parts that say nothing are left out."""
    found = Section("Found tree", ("path",), [(line,) for line in card["tree"]["found"]])
    made = [_tree(card), found, _files(card), *_read(card), _unusable(card), _images(card)]
    rest = [_leaks(card), _blind(card), _about(card)]
    return [one for one in (*made, *rest) if one.rows or one.words]


def verdict(card: Card) -> str:
    """One line: usable or refused, and why."""
    if card["problems"]:
        return f"refused: {card['problems'][0]}"
    items = (f"{name} {row['items']:,}" for name, row in _splits(card).items())
    return f"usable: {', '.join(items)}"


def _splits(card: Card) -> dict[str, Any]:
    """Splits of the core, train, val and test first."""
    splits = card["core"]["splits"]
    order = [*filter(splits.__contains__, CORE), *sorted(splits.keys() - set(CORE))]
    return {name: splits[name] for name in order}


def markdown(card: Card) -> str:
    """The whole card as a page."""
    lines = [f"# Data card: {card['task']}", "", f"Card {card['card'] or 'none'}. {verdict(card)}"]
    for kind in ("problems", "warnings"):
        if card[kind]:
            lines += ["", f"## {kind.capitalize()}", "", *(f"- {line}" for line in card[kind])]
    for section in sections(card):
        lines += ["", f"## {section.title}", ""]
        if section.rows:
            lines += [_line(section.headers), _line(["---"] * len(section.headers))]
            lines += map(_line, section.rows[:PAGE_ROWS])
            if more := section.rows[PAGE_ROWS:]:
                lines += ["", f"{len(more):,} rows more in card.json."]
        lines += ["", section.words] if section.rows and section.words else [section.words]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def show(card: Card, console: Console) -> None:
    """The card on the terminal, long tables cut."""
    for section in sections(card):
        if section.rows:
            table = Table(*section.headers, title=section.title, title_justify="left")
            for row in section.rows[:ROWS]:
                table.add_row(*map(escape, row))
            if more := section.rows[ROWS:]:
                table.add_row(f"... {len(more):,} more", *[""] * (len(section.headers) - 1))
            console.print(table)
        if section.words:
            title = "" if section.rows else f"[bold]{section.title}[/] "
            console.print(f"{title}{escape(section.words)}", highlight=False, soft_wrap=True)
    for problem in card["problems"]:
        console.print(f"[red]refused[/] {escape(problem)}", highlight=False, soft_wrap=True)
    for warning in card["warnings"]:
        console.print(f"[yellow]note[/] {escape(warning)}", highlight=False, soft_wrap=True)
    if not card["problems"]:
        console.print(f"[green]{escape(verdict(card))}[/]", highlight=False, soft_wrap=True)


def _tree(card: Card) -> Section:
    tree = card["tree"]
    rows = [(row["path"], row["note"], row["state"], row["where"]) for row in tree["expected"]]
    words = ""
    if tree["nested"]:
        words = f"The expected tree stands in {tree['nested']}: give that as the data folder."
    return Section("Expected tree", ("path", "", "state", "where"), rows, words)


def _files(card: Card) -> Section:
    rows = [
        (
            file["path"],
            said(file["rows"]),
            f"{file['bytes']:,}",
            file["sha256"][:12],
            " ".join([file["official"], *file["faults"]]).strip(),
        )
        for file in card["files"]
    ]
    return Section("Annotation files", ("file", "rows", "bytes", "sha256", "state"), rows)


def _read(card: Card) -> Iterator[Section]:
    if card["core"] is None:
        return
    splits = _splits(card)
    numbers = ("items", "images", "without image", "without text")
    skipped = card["core"]["skipped"]
    rows = [
        (name, *(f"{row[key]:,}" for key in numbers), f"{sum(skipped.get(name, {}).values()):,}",
         f"{card['repeated'][name]:,}")
        for name, row in splits.items()
    ]  # fmt: skip
    notes = "; ".join(f"{key}: {value}" for key, value in card["core"]["notes"].items())
    words = "Repeated: with image and text of another item of the split."
    words += f" Read as {notes}." if notes else ""
    yield Section("Splits", ("split", *numbers, "skipped", "repeated"), rows, words)
    for kind in ("labels", "subsets"):
        names = list(dict.fromkeys(name for row in splits.values() for name in row[kind]))
        rows = [
            (name, *(_share(row[kind].get(name, 0), row["items"]) for row in splits.values()))
            for name in names
        ]
        yield Section(kind.capitalize(), (kind[:-1], *splits), rows)


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({100 * count / whole:.1f} %)"


def _unusable(card: Card) -> Section:
    rows = [(split, id, reason) for split, id, reason in card["skipped"]]
    if card["core"] is None:
        rows = [("", fault["image"], fault["reason"]) for fault in card["images"]["faulty"]]
    return Section("Rows left out", ("split", "item", "reason"), rows)


def _images(card: Card) -> Section:
    shown, unused = card["images"], card["unused"]
    if not shown["files"]:
        return Section("Images", words="There are none.")
    copies, alike = shown["copies"], shown["alike"]
    pixels = ", ".join(f"{name} {size}" for name, size in shown["pixels"].items())
    rows = [
        ("image files", f"{shown['files']:,}", pixels),
        ("missing or unreadable", f"{len(shown['faulty']):,}", ""),
        ("same bytes as another", f"{copies['images']:,}", _groups(copies["first"])),
        ("looks like another", f"{alike['images']:,}", _groups(alike["first"])),
        ("named by no row", f"{unused['images']:,}", ", ".join(unused["first"])),
    ]
    return Section("Images", ("", "images", "such as"), rows)


def _groups(groups: Sequence[Sequence[str]]) -> str:
    return "; ".join(" = ".join(group) for group in groups)


def _leaks(card: Card) -> Section:
    kinds = ("ids", "image", "alike", "text", "image and text")
    rows = [
        (
            f"{row['from']} to {row['to']}",
            f"{row['items']:,}",
            *(f"{row[kind]:,}" for kind in kinds),
            ", ".join(row["first"]),
        )
        for row in card["leaks"]
    ]
    words = "Items of the second split whose id, image (same bytes), like image or text is in the"
    headers = ("splits", "items", *kinds, "such as")
    return Section("Leakage", headers, rows, f"{words} first." if rows else "")


def _blind(card: Card) -> Section:
    found = card["blind"]
    if found["why not"]:
        return Section("Solved blind", words=f"Not measured: {found['why not']}.")
    rows = [
        (f"{row['split']} {row['subset']}".strip(), f"{row['items']:,}", f"{row['majority']:.1%}",
         f"{row['from_text']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}", row["fitted"])
        for row in found["rows"]
    ]  # fmt: skip
    headers = ("items of", "items", "one answer", "text only", "95 %", "fitted on")
    words = "One answer: the best to give to all. Text only: naive Bayes on words and word pairs."
    return Section("Solved blind", headers, rows, words)


def _about(card: Card) -> Section:
    about = card["about"]
    return Section("Licence", words=f"{about['licence']}. Source: {about['source']}.")
