"""Hateful Memes: is this meme hateful, from its picture and the words on it."""

from collections.abc import Sequence
from pathlib import Path

from steelyard.harness.data import Corpus, Example, Skipped
from steelyard.harness.errors import UserError, unknown
from steelyard.harness.reading import build_corpus, carve, find_file, read_json_lines
from steelyard.tasks import metrics

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
VAL_SHARE = 0.1
"""Share of each class of train carved as validation when dev serves as the test split."""

Row = tuple[str, Example, bool]
"""Where it stands (``file:line``), the example, whether the file gives a label."""


def load(root: Path, *, max_bad: float = 0.01, val: str = "seen", test: str = "seen") -> Corpus:
    """Read ``<split>.jsonl`` rows of id, img, text and label; images lie where ``img`` says.

    ``val`` and ``test`` choose ``seen`` or ``unseen``. With ``test="dev"``, for copies without
    labelled test files, dev (seen) is the test split and validation is carved from train. The
    remaining official splits are kept under their own names; their unlabelled rows are skipped.

    Raises:
        UserError: files are missing or malformed, a row of a split in use has no label, or what
            ``build_corpus`` checks.
    """
    roles = _roles(val, test)
    sources = {role: find_file(root, *FILES[split]) for role, split in roles.items()}
    splits: dict[str, Sequence[Example]] = {
        role: _labelled(path, role, _rows(root, path)) for role, path in sources.items()
    }
    skipped: list[Skipped] = []
    for split, path in _files(root).items():
        if split in roles.values():
            continue
        rows = _rows(root, path)
        splits[split] = [example for _, example, labelled in rows if labelled]
        skipped += [Skipped(row.id, split, "no label") for _, row, labelled in rows if not labelled]
    notes = {role: path.name for role, path in sources.items()}
    if "val" not in splits:
        splits["train"], splits["val"] = carve(splits["train"], VAL_SHARE)
        notes["val"] = f"{VAL_SHARE:.0%} of each class of train, by hash of the id"
    return build_corpus(
        "hateful_memes",
        root,
        CLASSES,
        splits,
        multi_label=False,
        skipped=skipped,
        notes=notes,
        max_bad=max_bad,
    )


def _roles(val: str, test: str) -> dict[str, str]:
    """Official split of each role; no ``val`` when it is carved."""
    if test == "dev":
        return {"train": "train", "test": "dev_seen"}
    if val not in ("seen", "unseen"):
        raise unknown("val split of hateful_memes", val, ("seen", "unseen"))
    if test not in ("seen", "unseen"):
        raise unknown("test split of hateful_memes", test, ("seen", "unseen", "dev"))
    return {"train": "train", "val": f"dev_{val}", "test": f"test_{test}"}


def _files(root: Path) -> dict[str, Path]:
    """The files that exist, by official split."""
    # The second phase's name comes last and so wins where a copy has both.
    places = ((split, root / name) for split, names in FILES.items() for name in reversed(names))
    return {split: path for split, path in places if path.is_file()}


def _rows(root: Path, path: Path) -> list[Row]:
    rows: list[Row] = []
    for where, row in read_json_lines(path):
        id, image, text, label = (row.get(key) for key in ("id", "img", "text", "label"))
        if not isinstance(id, int | str) or not isinstance(image, str):
            raise UserError(f"{where}: expected an 'id' and the image's path as 'img'.")
        if not isinstance(text, str | None):
            raise UserError(f"{where}: 'text' must be a string, found {text!r}.")
        # type(), for True is an int to Python and equal to 1.
        if label is not None and (type(label) is not int or label not in (0, 1)):
            raise UserError(f"{where}: label {label!r}, allowed are 0, 1 or none.")
        labels = () if label is None else (label,)
        example = Example(str(id), root / image, text or None, labels)
        rows.append((where, example, label is not None))
    return rows


def _labelled(path: Path, role: str, rows: Sequence[Row]) -> list[Example]:
    bare = [where for where, _, labelled in rows if not labelled]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(rows)} rows of {path.name} have no label ({bare[0]}), so it "
            f"cannot serve as {role}: use labelled files, or test=dev to score on dev."
        )
    return [example for _, example, _ in rows]


def choices(classes: Sequence[str]) -> list[str]:
    """Answer strings in class order: no, yes."""
    return [ANSWERS[CLASSES.index(name)] for name in classes]


def prompt(evidence: str | None, classes: Sequence[str]) -> str:
    """Question with the meme's words before it, or alone where there are none."""
    shown = f'A meme with "{evidence}" written on it.\n' if evidence else ""
    return f"{shown}Is this meme hateful? Answer {' or '.join(reversed(choices(classes)))}."


def doc_to_text(doc: metrics.Doc) -> str:
    """Prompt of a row."""
    return prompt(doc["text"], doc["classes"])


def doc_to_target(doc: metrics.Doc) -> str:
    """Right answer of a row."""
    return choices(doc["classes"])[doc["labels"][0]]


def process_results(doc: metrics.Doc, results: Sequence[str]) -> metrics.Result:
    """Score one answer, a JSON list of class probabilities; ValueError when it is not one."""
    _, hateful = metrics.probabilities(results[0], len(CLASSES), multi_label=False)
    target, predicted = doc["labels"][0], int(hateful >= THRESHOLD)
    correct = float(predicted == target)
    return {
        "auroc": (target, hateful),
        "accuracy": correct,
        "macro_f1": (metrics.indicator([target], 2), metrics.indicator([predicted], 2)),
        "item": {
            "id": doc["id"],
            "cluster": doc["id"],
            "target": [target],
            "predicted": [predicted],
            "score": correct,
            "confidence": hateful,
        },
    }
