"""Hateful Memes: whether a meme is hateful, by its image and the words on it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import read_rows, short_repr
from steelyard.harness.data.reading import build_corpus, carve, find_file
from steelyard.tasks import metrics
from steelyard.tasks._shared import official, questions

CLASSES = ("not_hateful", "hateful")
ANSWERS = ("no", "yes")
THRESHOLD = 0.5
FILES = {
    "train": ("train.jsonl",),
    "dev_seen": ("dev_seen.jsonl", "dev.jsonl"),
    "dev_unseen": ("dev_unseen.jsonl",),
    "test_seen": ("test_seen.jsonl", "test.jsonl"),
    "test_unseen": ("test_unseen.jsonl",),
}
"""File names of the second challenge phase, then of the first, by official split."""
FIRST_PHASE = ("dev.jsonl", "test.jsonl")
SECOND_PHASE = ("dev_seen.jsonl", "dev_unseen.jsonl", "test_seen.jsonl", "test_unseen.jsonl")
PACKED = "img.tar.gz"
LABELS = {
    "0": 0, "not_hateful": 0, "non_hateful": 0, "not_hate": 0, "no": 0, "false": 0,
    "1": 1, "hateful": 1, "hate": 1, "yes": 1, "true": 1,
}  # fmt: skip
"""Labels as copies write them, in lower case with ``_`` between words."""
VAL_FRACTION = 0.1
"""Fraction of each class of train carved as validation if dev is the test split."""


def load(root: Path, *, max_bad: float = 0.01, val: str = "seen", test: str = "seen") -> Corpus:
    """Read ``<split>.jsonl`` rows of id, img, text and label; ``img`` is the path of the image.

    ``val`` and ``test`` choose ``seen`` or ``unseen``; the notes name the file of each and the
    phase of the challenge. With ``test="dev"``, for copies without labelled test files as in the
    first phase, dev (seen) is the test split and validation is carved from train. The remaining
    official splits keep their names; their unlabelled rows are skipped.
    """
    roles = _roles(val, test)
    names = {path.name for path in listing(root, ".jsonl")}
    phase = "2" if names & {*SECOND_PHASE} else "1" if names & {*FIRST_PHASE} else "unknown"
    sources = {role: _source(root, phase, split) for role, split in roles.items()}
    if (root / PACKED).is_file() and not (root / "img").is_dir():
        raise UserError(f"The images in {root} are packed: unpack {PACKED} there.")
    splits: dict[str, Sequence[Example]] = {
        role: _labelled(root, path, role) for role, path in sources.items()
    }
    skipped: list[Skipped] = []
    for split, file_names in FILES.items():
        if split in roles.values() or not names & {*file_names}:
            continue
        examples = [example for _, example in _rows(root, find_file(root, *file_names))]
        splits[split] = [row for row in examples if row.labels]
        # Only in splits without a role: in test or val a missing label is an error.
        skipped += [Skipped(row.id, split, "no label") for row in examples if not row.labels]
    notes = {role: path.name for role, path in sources.items()} | {"phase": phase}
    if "val" not in splits:
        splits["train"], splits["val"] = carve(splits["train"], VAL_FRACTION)
        notes["val"] = f"{VAL_FRACTION:.0%} of each class of train, by hash of the id"
    return build_corpus(
        "hateful_memes", root, CLASSES, splits, skipped=skipped, notes=notes, max_bad=max_bad,
        every_class=True,
    )  # fmt: skip


def _roles(val: str, test: str) -> dict[str, str]:
    """Map ``train``, ``val`` and ``test`` to official splits; no ``val`` if it is carved."""
    if test == "dev":
        return {"train": "train", "test": "dev_seen"}
    check_known("val split of hateful_memes", val, ("seen", "unseen"))
    check_known("test split of hateful_memes", test, ("seen", "unseen", "dev"))
    return {"train": "train", "val": f"dev_{val}", "test": f"test_{test}"}


def _source(root: Path, phase: str, split: str) -> Path:
    if phase == "1" and split.endswith("_unseen"):
        raise UserError(
            f"{root} is of the challenge's first phase ({', '.join(FIRST_PHASE)}), which has no "
            "unseen files: use val=seen and test=seen, or test=dev where test has no labels."
        )
    return find_file(root, *FILES[split])


def _rows(root: Path, path: Path) -> Iterator[tuple[str, Example]]:
    """Yield ``("file:line", item)``; an item without labels is unlabelled."""
    for where, row in read_rows(path):
        id, image, text, label = (row.get(key) for key in ("id", "img", "text", "label"))
        # type(), for True is an int to Python and equal to 1.
        if type(id) not in (int, str) or not isinstance(image, str):
            raise UserError(f"{where}: expected an 'id' and the image's path as 'img'.")
        if not isinstance(text, str | None):
            raise UserError(f"{where}: 'text' must be a string, found {short_repr(text)}.")
        if label is not None and (type(label) is not int or label not in (0, 1)):
            raise UserError(f"{where}: label {short_repr(label)}, allowed are 0, 1 or none.")
        labels = () if label is None else (label,)
        words = text if text and text.strip() else None
        yield where, Example(str(id), questions.image_path(root, image, (".",)), words, labels)


def _labelled(root: Path, path: Path, role: str) -> list[Example]:
    rows = list(_rows(root, path))
    if unlabelled := [where for where, example in rows if not example.labels]:
        phase = " as in the challenge's first phase" if path.name in FIRST_PHASE else ""
        raise UserError(
            f"{len(unlabelled)} of {len(rows)} rows of {path.name} have no label{phase} "
            f"({unlabelled[0]}), so it cannot be the {role} split: use labelled files, or "
            "--data-set test=dev to score dev."
        )
    return [example for _, example in rows]


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a copy with columns img or image, text, label and perhaps id in the official layout.

    Official splits keep their names; ``validation`` and ``test`` become ``dev`` and ``test`` of the
    first phase, for the copy does not say which of the later files they are.
    """
    by_split: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        split = str(row[official.SPLIT])
        split = {"validation": "dev", "val": "dev"}.get(split, split)
        if f"{split}.jsonl" not in (*FIRST_PHASE, *SECOND_PHASE, "train.jsonl"):
            raise UserError(f"The copy has a split {split!r}, which Hateful Memes does not have.")
        id = row.get("id", f"{split}_{len(by_split[split]):05}")
        # Numeric ids have lost the leading zeros of the file names.
        stem = f"{id:05}" if isinstance(id, int) else str(id)
        name = row["img"] if isinstance(row.get("img"), str) else f"img/{stem}.png"
        official.write_image(row.get("image", row.get("img")), folder, name)
        label = _label(row.get("label"))
        text = official.column(row, "text")
        row_label = {} if label is None else {"label": label}
        by_split[split].append({"id": id, "img": name, "text": text or "", **row_label})
    for split, split_rows in by_split.items():
        official.write_lines(folder / f"{split}.jsonl", split_rows)


def _label(value: Any) -> int | None:
    """Read a copy's label: 0, 1, or None for a row without one."""
    # The datasets library writes -1 for a hidden label.
    if value is None or value in ("", -1):
        return None
    number = int(value) if isinstance(value, bool | int | float) and value in (0, 1) else value
    word = str(number).strip().lower().replace("-", "_").replace(" ", "_")
    if word not in LABELS:
        raise UserError(f"The copy has a label {value!r}, which means neither hateful nor not.")
    return LABELS[word]


def choices(classes: Sequence[str]) -> list[str]:
    """Return answer strings in class order: no, yes."""
    return [ANSWERS[CLASSES.index(name)] for name in classes]


def doc_to_text(doc: metrics.ClassDoc) -> str:
    """Ask whether the meme is hateful, after the words on it if there are any."""
    words = f'A meme with "{doc["text"]}" written on it.\n' if doc["text"] else ""
    # Reversed: "yes or no" is the usual order of words.
    return f"{words}Is this meme hateful? Answer {' or '.join(reversed(choices(doc['classes'])))}."


def doc_to_target(doc: metrics.ClassDoc) -> str:
    return choices(doc["classes"])[doc["labels"][0]]


def process_results(doc: metrics.ClassDoc, results: Sequence[str]) -> metrics.ClassScores:
    """Score one answer, a JSON list of class probabilities; ValueError when it is not one."""
    _, hateful = metrics.probabilities(results[0], len(CLASSES), multi_label=False)
    predicted = [int(hateful >= THRESHOLD)]
    scores = metrics.class_scores(doc, ["accuracy", "macro_f1"], predicted, hateful)
    return {"auroc": (doc["labels"][0], hateful), **scores}
