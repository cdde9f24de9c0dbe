"""What tasks of questions about images share: prompts, rows, files, and the corpus they make."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import IMAGE_SUFFIXES, build_corpus, read_json
from steelyard.tasks.metrics import Question

SHORT = "\nAnswer the question using a single word or phrase."
"""Follows a question that has a short answer."""
LETTER = "\nAnswer with the option's letter from the given choices directly."
"""Follows the options of a question."""
CAPTION = "Describe this image in one sentence."
VALIDATION = "val"
"""Folder with a validation part in the layout of the whole."""
IMAGE_FOLDERS = (
    "images",
    "image",
    "val2014",
    "train2014",
    "val2017",
    "train2017",
    "test2015",
    "gqa/images",
    ".",
)
"""Where images lie, first found first taken."""

Read = Callable[[Path, list[Skipped], str], list[Example]]
"""Examples of a folder; rows that cannot be used are added to the list under this split's name."""


def prompt(doc: Question) -> str:
    """The question with the instruction how to answer, which alone is left of a blanked one."""
    return f"{doc['text'] or ''}{SHORT}".strip()


def first_answer(doc: Question) -> str:
    """The reference answer to train on."""
    return doc["answers"][0]


def usual_answer(doc: Question) -> str:
    """The reference answer given most often, the first of those that are level."""
    return Counter(doc["answers"]).most_common(1)[0][0]


def image_path(root: Path, name: str) -> Path:
    """Where the image lies; in ``images`` where it is nowhere, so that it is reported there."""
    paths = (root / folder / name for folder in IMAGE_FOLDERS)
    return next((path for path in paths if path.is_file()), root / IMAGE_FOLDERS[0] / name)


def images_by_number(root: Path) -> dict[int, Path]:
    """Images by the number that ends their names: ``COCO_val2014_000000000042.jpg`` is 42."""
    found: dict[int, Path] = {}
    for folder in IMAGE_FOLDERS:
        for path in sorted((root / folder).glob("*")):
            digits = path.stem.rpartition("_")[2]
            if path.suffix.lower() in IMAGE_SUFFIXES and digits.isdecimal():
                found.setdefault(int(digits), path)
    return found


def files(root: Path, *patterns: str) -> list[Path]:
    """JSON files of the folder, packed or not, that fit the first pattern that any fits.

    A pattern is of the name without ``.gz``, after a subfolder if any.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"No data folder at {root}: give the folder that holds {patterns[0]}.")
    for pattern in patterns:
        folder, _, wanted = pattern.rpartition("/")
        names = {path.name: path for path in (root / folder).glob("*.json*")}
        # A copy beside its packed original must not be read twice.
        packed = {name for name in names if name.removesuffix(".gz") in names.keys() - {name}}
        plain = {name.removesuffix(".gz"): names[name] for name in sorted(names.keys() - packed)}
        if found := [path for name, path in plain.items() if fnmatchcase(name, wanted)]:
            return found
    return []


def listed(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """``("file: row number", row)`` of a JSON file that is a list of objects."""
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise UserError(f"{path}: expected a list of objects, one a question.")
    for number, row in enumerate(content, start=1):
        yield f"{path}: row {number}", row


def field(where: str, row: Mapping[str, Any], key: str) -> str:
    """A row's string or number, as a string; anything else is a UserError naming the line."""
    value = row.get(key)
    # type(), for True is an int to Python.
    if type(value) not in (str, int) or value == "":
        raise UserError(f"{where}: '{key}' must be a string or a number, found {value!r}.")
    return str(value)


def strings(where: str, row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A row's list of strings, empty where it is absent; anything else is a UserError."""
    value = row.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{where}: '{key}' must be a list of strings, found {value!r}.")
    return tuple(value)


def pictures(where: str, root: Path, row: Mapping[str, Any]) -> tuple[Path | None, str]:
    """A row's image, and its name as the cluster; null means a question without an image."""
    if "image" in row and row["image"] is None:
        return None, ""
    name = field(where, row, "image")
    return image_path(root, name), name


def corpus(
    task: str,
    root: Path,
    read: Read,
    *,
    notes: Mapping[str, str],
    max_bad: float,
    whole: bool = False,
    holds: Callable[[Path], bool] | None = None,
) -> Corpus:
    """A set made for evaluation: ``test`` in the folder, and ``val`` in ``val`` if it holds one.

    ``whole`` says that a metric looks at all items of a cluster together; ``holds`` tells whether
    a folder has a set, by JSON files unless given.

    Raises:
        UserError: what ``build_corpus`` or ``read`` checks.
    """
    skipped: list[Skipped] = []
    splits: dict[str, Sequence[Example]] = {"test": read(root, skipped, "test")}
    # A folder of that name may also hold images.
    if (root / VALIDATION).is_dir() and (holds or _has_json)(root / VALIDATION):
        splits["val"] = read(root / VALIDATION, skipped, "val")
    return build_corpus(
        task,
        root,
        (),
        splits,
        multi_label=False,
        skipped=skipped,
        notes=notes,
        max_bad=max_bad,
        whole_clusters=whole,
    )


def prefix(split: str) -> str:
    """Begins the ids of a split that numbers its rows as the test files do."""
    return "" if split == "test" else f"{split}/"


def _has_json(folder: Path) -> bool:
    return any({".json", ".jsonl"} & set(path.suffixes) for path in folder.iterdir())
