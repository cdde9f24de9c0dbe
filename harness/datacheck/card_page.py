"""Content of a data card, and its Markdown page; the terminal shows the same page, cut shorter."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from steelyard.harness.data import card
from steelyard.harness.data.reading import ordered_splits
from steelyard.harness.datacheck import annotations, duplicates, layout, text_only

PAGE_ROWS, TERMINAL_ROWS = 200, 15
"""Most rows of a table in the page and on the terminal; ``card.json`` has all."""
LEAK_COUNTS: tuple[Literal["items", "id", "image", "near_duplicate", "text", "image_and_text"], ...]
LEAK_COUNTS = ("items", "id", "image", "near_duplicate", "text", "image_and_text")


class Tree(TypedDict):
    """The layout of the folder: expected paths, a summary of the files, the subfolder to use."""

    expected: list[layout.ExpectedPath]
    files: list[str]
    nested: str


class TextOnly(TypedDict):
    """Text-only baseline, or why there is none."""

    rows: list[text_only.TextOnlyScore]
    unsuitable: str


class ItemFindings(TypedDict):
    """Findings about items and images; ``core`` and its hash ``card`` are None without items."""

    card: str | None
    core: card.Core | None
    skipped: list[list[str]]
    images: duplicates.ImageSummary
    unused: duplicates.UnusedImages
    leaks: list[duplicates.Leak]
    repeated: dict[str, int]
    text_only: TextOnly


class DataCard(ItemFindings):
    """Content of ``card.json``; no path of the machine, no time."""

    format: int
    task: str
    generated: bool
    problems: list[str]
    warnings: list[str]
    tree: Tree
    files: list[annotations.AnnotationFile]
    about: dict[str, str]


class Section(NamedTuple):
    """A table with text below it; without rows, the text alone."""

    title: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    text: str = ""


def markdown(data_card: DataCard, max_rows: int = PAGE_ROWS) -> str:
    """Render the card as a Markdown page with at most ``max_rows`` rows per table."""
    lines = [f"# Data card: {data_card['task']}", ""]
    lines += [f"Card {data_card['card'] or 'none'}. {_escape(verdict(data_card))}"]
    for title, texts in (
        ("Problems", data_card["problems"]),
        ("Warnings", data_card["warnings"]),
    ):
        if texts:
            lines += ["", f"## {title}", "", *(f"- {_escape(text)}" for text in texts)]
    for section in _sections(data_card):
        if section.rows or section.text:
            lines += ["", f"## {section.title}"]
        if section.rows:
            lines += ["", _line(section.headers), _line(["---"] * len(section.headers))]
            lines += [_line(map(_escape, row)) for row in section.rows[:max_rows]]
        if len(section.rows) > max_rows:
            lines += ["", f"{len(section.rows) - max_rows:,} more rows in card.json."]
        if section.text:
            lines += ["", _escape(section.text)]
    return "\n".join(lines) + "\n"


def verdict(data_card: DataCard) -> str:
    """Say in one line whether a run accepts the data, with the first problem if not."""
    if data_card["problems"]:
        return f"refused: {data_card['problems'][0]}"
    counts = (f"{name} {split['items']:,}" for name, split in _splits(data_card).items())
    return f"usable: {', '.join(counts)}"


_MARKUP = re.compile(r"[\\`*\[\]|<&]|(?<!\w)_+|_+(?!\w)")


def _escape(text: str) -> str:
    return _MARKUP.sub(lambda match: "".join(f"\\{sign}" for sign in match[0]), text)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _splits(data_card: DataCard) -> dict[str, Any]:
    """Return the splits of the core, train, val and test first."""
    splits = data_card["core"]["splits"] if data_card["core"] else {}
    return {name: splits[name] for name in ordered_splits(splits)}


def _sections(data_card: DataCard) -> Iterator[Section]:
    tree, about = data_card["tree"], data_card["about"]
    rows = [(row["path"], row["note"], row["state"], row["where"]) for row in tree["expected"]]
    text = ""
    if tree["nested"]:
        text = f"The expected layout is in the subfolder {tree['nested']}: use that as data folder."
    yield Section("Expected layout", ("path", "", "state", "where"), rows, text)
    yield Section("Files", ("path",), [(line,) for line in tree["files"]])
    yield _annotation_files(data_card)
    if data_card["core"]:
        yield _split_table(data_card)
        yield _counts(data_card, "labels")
        yield _counts(data_card, "subsets")
    yield _skipped(data_card)
    yield _images(data_card)
    yield _leakage(data_card)
    yield _text_only(data_card)
    yield Section("Licence", text=f"{about['licence']}. Source: {about['source']}.")


def _annotation_files(data_card: DataCard) -> Section:
    rows = [
        (
            file["path"],
            annotations.count_text(file["rows"]),
            f"{file['bytes']:,}",
            file["sha256"][:12],
            " ".join([file["official"], *file["faults"]]).strip(),
        )
        for file in data_card["files"]
    ]
    return Section("Annotation files", ("file", "rows", "bytes", "sha256", "state"), rows)


def _split_table(data_card: DataCard) -> Section:
    core = data_card["core"] or {}
    columns = ("items", "images", "without image", "without text")
    rows = [
        (
            name,
            *(f"{split[column]:,}" for column in columns),
            f"{sum(core['skipped'].get(name, {}).values()):,}",
            f"{data_card['repeated'][name]:,}",
        )
        for name, split in _splits(data_card).items()
    ]
    notes = "; ".join(f"{key}: {value}" for key, value in core["notes"].items())
    text = "Repeated: with image and text of another item of the split."
    text += f" Read as {notes}." if notes else ""
    return Section("Splits", ("split", *columns, "skipped", "repeated"), rows, text)


def _counts(data_card: DataCard, key: str) -> Section:
    """Tabulate labels or subsets of each split."""
    splits = _splits(data_card)
    names = dict.fromkeys(name for split in splits.values() for name in split[key])
    rows = [
        (name, *(_count(split[key].get(name, 0), split["items"]) for split in splits.values()))
        for name in names
    ]
    return Section(key.capitalize(), (key.removesuffix("s"), *splits), rows)


def _count(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.1f} %)"


def _skipped(data_card: DataCard) -> Section:
    rows = data_card["skipped"]
    if data_card["core"] is None:
        rows = [["", fault["image"], fault["reason"]] for fault in data_card["images"]["faulty"]]
    return Section("Skipped rows", ("split", "item", "reason"), rows)


def _images(data_card: DataCard) -> Section:
    images, unused = data_card["images"], data_card["unused"]
    if not images["files"]:
        return Section("Images", text="There are none.")
    pixels = ", ".join(f"{name} {size}" for name, size in images["pixels"].items())
    rows = [
        ("image files", f"{images['files']:,}", pixels),
        ("missing or unreadable", f"{len(images['faulty']):,}", ""),
        ("duplicates (same bytes)", *_groups(images["duplicates"])),
        ("near-duplicates", *_groups(images["near_duplicates"])),
        ("named by no row", f"{unused['images']:,}", ", ".join(unused["examples"])),
    ]
    return Section("Images", ("", "images", "such as"), rows)


def _groups(groups: duplicates.ImageGroups) -> tuple[str, str]:
    examples = "; ".join(" = ".join(paths) for paths in groups["examples"])
    return f"{groups['images']:,}", examples


def _leakage(data_card: DataCard) -> Section:
    rows = [
        (
            f"{leak['first']} to {leak['second']}",
            *(f"{leak[key]:,}" for key in LEAK_COUNTS),
            ", ".join(leak["examples"]),
        )
        for leak in data_card["leaks"]
    ]
    headers = ("splits", *(key.replace("_", " ") for key in LEAK_COUNTS), "such as")
    text = "Items of the second split whose id, image (same bytes), text or near-duplicate image"
    return Section("Leakage", headers, rows, f"{text} is in the first." if rows else "")


def _text_only(data_card: DataCard) -> Section:
    baseline = data_card["text_only"]
    if baseline["unsuitable"]:
        return Section("Text-only baseline", text=f"Not measured: {baseline['unsuitable']}.")
    rows = [
        (
            f"{row['split']} {row['subset']}".strip(),
            f"{row['items']:,}",
            f"{row['majority']:.1%}",
            f"{row['from_text']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            row["fitted"],
        )
        for row in baseline["rows"]
    ]
    headers = ("items of", "items", "one answer", "text only", "95 %", "fitted on")
    text = "One answer: the best to give to all. Text only: naive Bayes on words and word pairs."
    return Section("Text-only baseline", headers, rows, text)
