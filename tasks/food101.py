"""UPMC Food-101: the dish in a photo with the title (or text) of its recipe page."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import csv_rows, read_text
from steelyard.harness.data.reading import (
    IMAGE_SUFFIXES,
    build_corpus,
    carve,
    check_spelling,
    find_file,
)
from steelyard.tasks import metrics
from steelyard.tasks._shared import official

VAL_FRACTION = 0.1
"""Fraction of each class of train carved as validation: there is no official validation split."""
COLUMNS = {
    "file": ("image_path", "img_path", "image", "img", "file", "filename", "file_name"),
    "text": ("text", "title"),
    "label": ("label", "class", "category"),
}
"""Accepted header names, in lower case."""
TEXTS = ("titles", "pages")
PAGE = ".txt"
"""Suffix of a page, which some rows of the published tables name in place of its photo."""


class FoodRow(NamedTuple):
    file: str
    text: str | None
    label: str


def load(root: Path, *, max_bad: float = 0.01, text: str = "titles") -> Corpus:
    """Read ``images/<split>/<class>/<file>`` with titles or page texts.

    ``text="titles"`` reads ``texts/<split>_titles.csv``, with a header or without; ``text="pages"``
    lists the image folders and reads ``texts_txt/<class>/<stem>.txt``. Images without a row or a
    page are skipped and listed; either split may be absent. Ids are ``<split>/<class>/<stem>`` by
    the folder on disk, so a carved validation item keeps ``train/``.
    """
    check_known("text of food101", text, TEXTS)
    skipped: list[Skipped] = []
    read = _title_rows if text == "titles" else _page_rows
    # With neither, the reader says which file it expects.
    present = [split for split in ("train", "test") if (root / _listing(split, text)).exists()]
    rows = {split: read(root, split, skipped) for split in present or ["train"]}
    # Without train, the data can only be scored: by a model that knows these classes.
    classes = tuple(sorted({row.label for row in rows.get("train", rows.get("test", ()))}))
    check_spelling(row.label for table in rows.values() for row in table)
    # A class without training items cannot be learnt: most likely a folder is incomplete.
    foreign = sorted({row.label for row in rows.get("test", ())} - set(classes))
    if foreign:
        raise UserError(f"Classes of test that are not in train: {', '.join(foreign)}.")
    splits: dict[str, Sequence[Example]] = {
        split: _examples(root, split, rows[split], classes) for split in rows
    }
    notes = {"text": text}
    if "train" in splits:
        splits["train"], splits["val"] = carve(splits["train"], VAL_FRACTION)
        notes["val"] = f"{VAL_FRACTION:.0%} of each class of train, by hash of the id"
    return build_corpus(
        "food101", root, classes, splits, skipped=skipped, notes=notes, max_bad=max_bad
    )


def _listing(split: str, text: str) -> str:
    """Return the file or folder that lists a split's images."""
    return f"texts/{split}_titles.csv" if text == "titles" else f"images/{split}"


def _examples(
    root: Path, split: str, rows: Sequence[FoodRow], classes: tuple[str, ...]
) -> list[Example]:
    index = {name: (number,) for number, name in enumerate(classes)}
    images = root / "images" / split
    return [
        Example(f"{split}/{label}/{Path(file).stem}", images / label / file, text, index[label])
        for file, text, label in rows
    ]


def _title_rows(root: Path, split: str, skipped: list[Skipped]) -> list[FoodRow]:
    name = _listing(split, "titles")
    order: Sequence[int] = ()
    rows: list[FoodRow] = []
    unusable: set[str] = set()
    """Images of rows that are skipped already."""
    for where, cells, fault in csv_rows(read_text(find_file(root, name)), name):
        if not order and not fault:
            # The official tables have no header: file, title, class.
            order = (0, 1, 2) if _is_photo(cells[0]) else _header(where, cells)
            if not _is_photo(cells[0]):
                continue
        if not fault and len(cells) <= max(order):
            fault = f"{len(cells)} cells, expected file, title and class"
        if not fault:
            file, title, label = (cells[index].strip() for index in order)
            fault = "" if label else "no class"
        if fault:
            unusable.update(_photo(cell) for cell in cells if _is_photo(cell))
            reason = fault if fault == "no class" else f"malformed: {fault}"
            skipped.append(Skipped(where, split, reason))
        else:
            rows.append(FoodRow(_photo(file), title or None, label))
    if not rows:
        raise UserError(f"{root / name}: no usable row: check that the file is complete.")
    listed = {(row.label, row.file) for row in rows}
    for image in _images(root, split):
        label = image.parent.name
        if (label, image.name) not in listed and image.name not in unusable:
            reason = f"no row in {Path(name).name}"
            skipped.append(Skipped(f"{split}/{label}/{image.stem}", split, reason))
    return rows


def _is_photo(cell: str) -> bool:
    return Path(cell.strip()).suffix.lower() in {*IMAGE_SUFFIXES, PAGE}


def _photo(cell: str) -> str:
    """Return the name of the image that a cell names, by a path or by its page."""
    path = Path(cell.strip())
    return path.with_suffix(".jpg").name if path.suffix.lower() == PAGE else path.name


def _images(root: Path, split: str) -> list[Path]:
    """List the image files of a split by name, from one folder a class."""
    labels = listing(root / "images" / split)
    return [path for label in labels for path in listing(label, *IMAGE_SUFFIXES)]


def _header(where: str, cells: Sequence[str]) -> list[int]:
    names = [cell.strip().lower() for cell in cells]
    accepted = (next(filter(names.__contains__, columns), "") for columns in COLUMNS.values())
    order = [names.index(name) for name in accepted if name]
    if twice := [names[index] for index in order if names.count(names[index]) > 1]:
        raise UserError(f"{where}: the header has two columns '{twice[0]}': keep one.")
    if len(order) < len(COLUMNS):
        header = "; ".join(f"{kind}: {' or '.join(names)}" for kind, names in COLUMNS.items())
        raise UserError(
            f"{where}: the first cell is no image file, and the row is no header with {header}."
        )
    return order


def _page_rows(root: Path, split: str, skipped: list[Skipped]) -> list[FoodRow]:
    images, texts = root / "images" / split, root / "texts_txt"
    for folder in (images, texts):
        if not folder.is_dir():
            raise UserError(f"No folder {folder}: text=pages needs images/{split} and texts_txt.")
    rows: list[FoodRow] = []
    for image in _images(root, split):
        label = image.parent.name
        page = texts / label / f"{image.stem}.txt"
        if page.is_file():
            # Crawled pages mix encodings; keep a page with an invalid byte.
            content = read_text(page, lenient=True).strip()
            rows.append(FoodRow(image.name, content or None, label))
        else:
            skipped.append(Skipped(f"{split}/{label}/{image.stem}", split, "no page text"))
    return rows


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a copy with columns image, title or text, and label or class in the official layout.

    Files keep their names if the copy has them. A validation part is added to train, for there is
    no official one.
    """
    titles: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    paths: set[tuple[str, str, str]] = set()
    for row in rows:
        split = "test" if row[official.SPLIT] == "test" else "train"
        label = official.column(row, *COLUMNS["label"])
        if not isinstance(label, str) or not label.strip() or label.strip().isdecimal():
            raise UserError(
                f"The copy labels a class {label!r}: its name is needed, for copies number the "
                "classes differently."
            )
        # As in the official folder names.
        label = label.strip().replace(" ", "_")
        image = official.column(row, "image", "img")
        path = image.get("path") if isinstance(image, Mapping) else None
        name = next((row[key] for key in COLUMNS["file"] if isinstance(row.get(key), str)), path)
        file = Path(name or "").name
        # Names in a copy may repeat.
        if not file or (split, label, file) in paths:
            file = f"{label}_{len(titles[split])}.jpg"
        paths.add((split, label, file))
        official.write_image(image, folder / "images" / split / label, file)
        text = official.column(row, *COLUMNS["text"])
        # One line a title: line ends within cells break simple readers.
        titles[split].append((file, " ".join(str(text or "").split()), label))
    for split, split_rows in titles.items():
        official.write_csv(folder / "texts" / f"{split}_titles.csv", split_rows)


def choices(classes: Sequence[str]) -> list[str]:
    """Return answer strings in class order: names with spaces."""
    return [name.replace("_", " ") for name in classes]


def doc_to_text(doc: metrics.ClassDoc) -> str:
    """Ask for the dish, after the text of the recipe page if there is one."""
    page = f'The recipe page says: "{doc["text"]}"\n' if doc["text"] else ""
    return (
        f"{page}Which dish is this? Answer with one name from this list: "
        f"{', '.join(choices(doc['classes']))}."
    )


def doc_to_target(doc: metrics.ClassDoc) -> str:
    return choices(doc["classes"])[doc["labels"][0]]


def process_results(doc: metrics.ClassDoc, results: Sequence[str]) -> metrics.ClassScores:
    """Score one answer, a JSON list of class probabilities; ValueError when it is not one."""
    answer = metrics.probabilities(results[0], len(doc["classes"]), multi_label=False)
    confidence = max(answer)
    return metrics.class_scores(doc, ["accuracy"], [answer.index(confidence)], confidence)
