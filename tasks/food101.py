"""UPMC Food-101: which dish is this, from a photo and the title (or text) of its recipe page."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import IMAGE_SUFFIXES, build_corpus, carve, find_file, read_csv
from steelyard.tasks import metrics
from steelyard.tasks._shared import official

VAL_SHARE = 0.1
"""Share of each class's training items carved as validation: there is no official one."""
COLUMNS = {
    "file": ("image_path", "img_path", "image", "img", "file", "filename", "file_name"),
    "text": ("text", "title"),
    "label": ("label", "class", "category"),
}
"""Header names understood, in lower case."""
TEXTS = ("titles", "pages")

Row = tuple[str, str | None, str]
"""Image file name, text, class name."""


def load(root: Path, *, max_bad: float = 0.01, text: str = "titles") -> Corpus:
    """Read ``images/<split>/<class>/<file>`` with titles or page texts.

    ``text="titles"`` reads ``texts/<split>_titles.csv``, with a header or without; ``text="pages"``
    lists the image folders and reads ``texts_txt/<class>/<stem>.txt``. Images without a row or a
    page are skipped and listed. Ids are ``<split>/<class>/<stem>`` by the folder on disk, so a
    carved validation item keeps ``train/``.

    Raises:
        UserError: files are missing or malformed, a test class is not in train, or what
            ``build_corpus`` checks.
    """
    if text not in TEXTS:
        raise unknown("text of food101", text, TEXTS)
    skipped: list[Skipped] = []
    read = _title_rows if text == "titles" else _page_rows
    rows = {split: read(root, split, skipped) for split in ("train", "test")}
    classes = tuple(sorted({label for _, _, label in rows["train"]}))
    foreign = sorted({label for _, _, label in rows["test"]} - set(classes))
    if foreign:
        raise UserError(f"Classes of test that train does not have: {', '.join(foreign)}.")
    train, val = carve(_examples(root, "train", rows["train"], classes), VAL_SHARE)
    return build_corpus(
        "food101",
        root,
        classes,
        {"train": train, "val": val, "test": _examples(root, "test", rows["test"], classes)},
        multi_label=False,
        skipped=skipped,
        notes={"text": text, "val": f"{VAL_SHARE:.0%} of each class of train, by hash of the id"},
        max_bad=max_bad,
    )


def _examples(
    root: Path, split: str, rows: Sequence[Row], classes: tuple[str, ...]
) -> list[Example]:
    index = {name: number for number, name in enumerate(classes)}
    return [
        Example(
            f"{split}/{label}/{Path(file).stem}",
            root / "images" / split / label / file,
            text,
            (index[label],),
        )
        for file, text, label in rows
    ]


def _title_rows(root: Path, split: str, skipped: list[Skipped]) -> list[Row]:
    path = find_file(root, f"texts/{split}_titles.csv")
    order: tuple[int, int, int] | None = None
    rows: list[Row] = []
    unclassed: set[str] = set()
    for where, cells in read_csv(path):
        if order is None:
            if Path(cells[0].strip()).suffix.lower() not in IMAGE_SUFFIXES:
                order = _header(where, cells)
                continue
            order = (0, 1, 2)
        if len(cells) <= max(order):
            raise UserError(f"{where}: {len(cells)} cells, expected file, title and class.")
        file, title, label = (cells[place].strip() for place in order)
        if label:
            rows.append((Path(file).name, title or None, label))
        else:
            unclassed.add(Path(file).name)
            skipped.append(Skipped(file, split, "no class"))
    named = {(label, file) for file, _, label in rows}
    for image in _images(root, split):
        label = image.parent.name
        if (label, image.name) not in named and image.name not in unclassed:
            reason = f"no row in {path.name}"
            skipped.append(Skipped(f"{split}/{label}/{image.stem}", split, reason))
    return rows


def _images(root: Path, split: str) -> list[Path]:
    """Image files of a split by name, one folder a class."""
    files = sorted((root / "images" / split).glob("*/*"))
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def _header(where: str, cells: Sequence[str]) -> tuple[int, int, int]:
    names = [cell.strip().lower() for cell in cells]
    places = [
        next((names.index(name) for name in known if name in names), None)
        for known in COLUMNS.values()
    ]
    file, text, label = places
    if file is None or text is None or label is None:
        wanted = "; ".join(f"{kind}: {' or '.join(known)}" for kind, known in COLUMNS.items())
        raise UserError(
            f"{where}: the first cell is no image file, and the row is no header with {wanted}."
        )
    return file, text, label


def _page_rows(root: Path, split: str, skipped: list[Skipped]) -> list[Row]:
    images, texts = root / "images" / split, root / "texts_txt"
    for folder in (images, texts):
        if not folder.is_dir():
            raise UserError(f"No folder {folder}: text=pages needs images/{split} and texts_txt.")
    rows: list[Row] = []
    for image in _images(root, split):
        label = image.parent.name
        page = texts / label / f"{image.stem}.txt"
        if page.is_file():
            # Crawled pages mix encodings; a stray byte is no reason to lose the page.
            content = page.read_text(encoding="utf-8", errors="replace").strip()
            rows.append((image.name, content or None, label))
        else:
            skipped.append(Skipped(f"{split}/{label}/{image.stem}", split, "no page text"))
    return rows


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a copy with columns image, title or text, and label or class as the published tree.

    Files keep their names where the copy has them. A validation part goes to train, for there is
    no official one.

    Raises:
        UserError: a column is missing, or a label is a number and not a name.
    """
    titles: defaultdict[str, list[tuple[str, str, str]]] = defaultdict(list)
    used: set[tuple[str, str, str]] = set()
    for row in rows:
        split = "test" if row[official.SPLIT] == "test" else "train"
        label = _class_name(official.column(row, *COLUMNS["label"]))
        picture = official.column(row, "image", "img")
        file = _file_name(row, picture)
        if not file or (split, label, file) in used:
            file = f"{label}_{len(titles[split])}.jpg"
        used.add((split, label, file))
        official.write_image(picture, folder / "images" / split / label, file)
        text = official.column(row, *COLUMNS["text"])
        titles[split].append((file, " ".join(str(text or "").split()), label))
    for split, listed in titles.items():
        path = folder / "texts" / f"{split}_titles.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file_:
            csv.writer(file_, lineterminator="\n").writerows(listed)


def _class_name(label: Any) -> str:
    if isinstance(label, str) and label.strip() and not label.strip().isdecimal():
        return label.strip().replace(" ", "_")
    raise UserError(
        f"The copy labels a class {label!r}: its name is needed, for copies number the classes "
        "differently."
    )


def _file_name(row: Mapping[str, Any], picture: Any) -> str:
    """The image's own file name, empty where the copy does not say it."""
    path = picture.get("path") if isinstance(picture, Mapping) else None
    given = next((row[key] for key in COLUMNS["file"] if isinstance(row.get(key), str)), path)
    return Path(given).name if given else ""


def choices(classes: Sequence[str]) -> list[str]:
    """Answer strings in class order: names with spaces."""
    return [name.replace("_", " ") for name in classes]


def prompt(text: str | None, classes: Sequence[str]) -> str:
    """Question with the page's words before it, or alone where there are none."""
    shown = f'The recipe page says: "{text}"\n' if text else ""
    return (
        f"{shown}Which dish is this? Answer with one name from this list: "
        f"{', '.join(choices(classes))}."
    )


def doc_to_text(doc: metrics.Doc) -> str:
    """Prompt of a row."""
    return prompt(doc["text"], doc["classes"])


def doc_to_target(doc: metrics.Doc) -> str:
    """Right answer of a row."""
    return choices(doc["classes"])[doc["labels"][0]]


def process_results(doc: metrics.Doc, results: Sequence[str]) -> metrics.Result:
    """Score one answer, a JSON list of class probabilities; ValueError when it is not one."""
    answer = metrics.probabilities(results[0], len(doc["classes"]), multi_label=False)
    confidence = max(answer)
    predicted = answer.index(confidence)
    correct = float(predicted == doc["labels"][0])
    return {
        "accuracy": correct,
        "item": {
            "id": doc["id"],
            "cluster": doc["id"],
            "target": doc["labels"],
            "predicted": [predicted],
            "score": correct,
            "confidence": confidence,
        },
    }
