"""Shared by tasks of questions about images: prompts, rows, files, and building a corpus.

Prompt and answer functions are named in the tasks' YAML files.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import short_repr
from steelyard.harness.data.reading import IMAGE_SUFFIXES, build_corpus
from steelyard.tasks.metrics import QuestionDoc

SHORT = "\nAnswer the question using a single word or phrase."
"""Follows a question that has a short answer."""
LETTER = "\nAnswer with the option's letter from the given choices directly."
"""Follows the options of a question."""
CAPTION = "Describe this image in one sentence."
VALIDATION = "val"
"""Folder with a validation part in the layout of the data folder."""
IMAGE_FOLDERS = (
    "images", "image", "val2014", "train2014", "val2017", "train2017", "test2015", "gqa/images",
    ".",
)  # fmt: skip
"""Folders of images, searched in this order."""

SourceRow = Mapping[str, Any]
FolderReader = Callable[[Path, list[Skipped], str], Iterable[Example]]
"""Reads a folder; adds rows that cannot be used to the list, under the split's name."""


def prompt(doc: QuestionDoc) -> str:
    """Add the instruction how to answer to the question; without a question return it alone."""
    return f"{doc['text'] or ''}{SHORT}".strip()


def first_answer(doc: QuestionDoc) -> str:
    """Return the reference answer to train on."""
    return doc["answers"][0]


def most_frequent_answer(doc: QuestionDoc) -> str:
    """Return the most frequent reference answer, the first one of a tie."""
    return Counter(doc["answers"]).most_common(1)[0][0]


def image_path(root: Path, name: str, folders: Sequence[str] = IMAGE_FOLDERS) -> Path:
    """Find an image; if there is none, return its path in the first folder, to be reported.

    A name that no file has may be written as other systems do: with ``%20`` or backslashes, spaces
    around it, accents as separate characters, or the ending in capitals or not.
    """
    accents = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a name may be no path
    endings = (stem + suffix.lower(), stem + suffix.upper())
    names = (name, name.strip(), name.replace("\\", "/"), unquote(name), *accents, *endings)
    # No listing: ``val2014`` alone has 40 504 files.
    paths = (root / folder / each for each in dict.fromkeys(names) for folder in folders)
    # Not Path.is_file(), which fails on a name that is too long.
    first = root / folders[0] / name
    return next((path for path in paths if os.path.isfile(path)), first)  # noqa: PTH113


def images_by_number(root: Path) -> dict[int, Path]:
    """Map images by the number that ends their names: ``COCO_val2014_000000000042.jpg`` is 42."""
    images: dict[int, Path] = {}
    for folder in IMAGE_FOLDERS:
        for path in listing(root / folder, *IMAGE_SUFFIXES):
            # COCO names end with the number, other copies are only the number.
            digits = path.stem.rpartition("_")[2]
            if digits.isdecimal():
                # The first folder wins, as in ``image_path``.
                images.setdefault(int(digits), path)
    return images


def files(root: Path, *patterns: str) -> list[Path]:
    """List JSON files of a folder, packed or not, that match the first pattern with a match.

    A pattern is for the name without ``.gz``, after a subfolder if any.
    """
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: give the folder that holds {patterns[0]}.")
    for pattern in patterns:
        folder, _, name_pattern = pattern.rpartition("/")
        names = {path.name: path for path in listing(root / folder) if ".json" in path.name}
        # A copy beside its packed original must not be read twice.
        packed = {name for name in names if name.removesuffix(".gz") in names.keys() - {name}}
        plain = {name.removesuffix(".gz"): names[name] for name in sorted(names.keys() - packed)}
        if paths := [path for name, path in plain.items() if fnmatchcase(name, name_pattern)]:
            return paths
    return []


def first_file(root: Path, *patterns: str) -> Path:
    """Return the first file of ``files``; UserError if there is none."""
    paths = files(root, *patterns)
    if not paths:
        names = " or ".join(patterns)
        raise UserError(f"No {names} in {root}: check the data folder and its layout.")
    return paths[0]


def only_file(root: Path, kind: str, *patterns: str) -> Path | None:
    """Return the only file of ``files``, or None; UserError if there are several."""
    paths = files(root, *patterns)
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"Several {kind} files in {root}: {names}. Choose by part=..., as val2014.")
    return paths[0] if paths else None


def by_key(rows: Iterable[tuple[str, SourceRow]], key: str) -> dict[str, tuple[str, SourceRow]]:
    """Map rows with their places by a key's value; UserError if two have the same."""
    index: dict[str, tuple[str, SourceRow]] = {}
    for where, row in rows:
        value = field(where, row, key)
        if value in index:
            raise UserError(f"{where}: {key} {value} is that of {index[value][0]}: keep one.")
        index[value] = where, row
    return index


def field(where: str, row: SourceRow, key: str) -> str:
    """Return a row's string or number as a string; UserError with ``where`` for anything else."""
    value = row.get(key)
    # type(), for True is an int to Python.
    if type(value) not in (str, int) or not str(value).strip():
        raise UserError(
            f"{where}: '{key}' must be a string or a number, found {short_repr(value)}."
        )
    return str(value)


def whole_number(where: str, row: SourceRow, key: str) -> int:
    """Return a row's whole number, which may be written as a string; UserError otherwise."""
    value = row.get(key)
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    raise UserError(f"{where}: '{key}' must be a number, found {short_repr(value)}.")


def strings(where: str, row: SourceRow, key: str) -> tuple[str, ...]:
    """Return a row's list of strings, empty if it is absent; UserError for anything else."""
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise UserError(f"{where}: '{key}' must be a list of strings, found {short_repr(value)}.")
    return tuple(value)


def references(where: str, row: SourceRow) -> tuple[str, ...]:
    """Return the reference answers of a row, one as a string or several in a list.

    An answer is a string, a number, or an object with ``answer``.
    """
    value = row.get("answers")
    parts = value if isinstance(value, list) else [value]
    answers = [part.get("answer") if isinstance(part, Mapping) else part for part in parts]
    if not answers or not all(type(answer) in (str, int) for answer in answers):
        raise UserError(f"{where}: 'answers' must be a list of answers, found {short_repr(value)}.")
    return tuple(map(str, answers))


def objects(where: str, row: SourceRow, key: str) -> list[SourceRow]:
    """Return a row's list of objects; UserError for anything else."""
    values = row.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UserError(f"{where}: '{key}' must be a list of objects.")
    return values


def one_of(where: str, row: SourceRow, key: str, allowed: Iterable[str]) -> str:
    """Return a row's value as a string; UserError if it is none of the allowed ones."""
    value = row.get(key)
    if str(value) not in allowed:
        raise UserError(f"{where}: {key} {short_repr(value)}, allowed are {', '.join(allowed)}.")
    return str(value)


def image_of(where: str, root: Path, row: SourceRow) -> tuple[Path | None, str]:
    """Return a row's image, and its name as the cluster; None for ``"image": null``."""
    if "image" in row and row["image"] is None:
        return None, ""
    name = field(where, row, "image")
    return image_path(root, name), name


def corpus(
    task: str,
    root: Path,
    read: FolderReader,
    *,
    notes: Mapping[str, str],
    max_bad: float,
    by_cluster: bool = False,
    holds: Callable[[Path], object] = lambda folder: files(folder, "*"),
) -> Corpus:
    """Read an evaluation set: ``test`` in the folder, and ``val`` in its subfolder ``val`` if any.

    ``by_cluster``: a metric needs all items of a cluster, so one lost image removes the others.
    ``holds`` is true for a folder that has a set; without it, for one that has JSON files.
    """
    skipped: list[Skipped] = []
    splits: dict[str, Sequence[Example]] = {"test": list(read(root, skipped, "test"))}
    # A folder of that name may also hold images.
    if (root / VALIDATION).is_dir() and holds(root / VALIDATION):
        splits["val"] = list(read(root / VALIDATION, skipped, "val"))
    return build_corpus(
        task, root, (), splits, skipped=skipped, notes=notes, max_bad=max_bad, by_cluster=by_cluster
    )


def prefix(split: str) -> str:
    """Return a prefix for ids of other splits, which number their rows as the test files do."""
    return "" if split == "test" else f"{split}/"
