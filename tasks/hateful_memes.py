"""Hateful Memes: is this meme hateful, from its picture and the words on it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import build_corpus, carve, find_file, read_json_lines
from steelyard.tasks import metrics
from steelyard.tasks._shared import official

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
"""What copies write for a label, in lower case with ``_`` between words."""
VAL_SHARE = 0.1
"""Share of each class of train carved as validation when dev serves as the test split."""

Row = tuple[str, Example, bool]
"""Where it stands (``file:line``), the example, whether the file gives a label."""


def load(root: Path, *, max_bad: float = 0.01, val: str = "seen", test: str = "seen") -> Corpus:
    """Read ``<split>.jsonl`` rows of id, img, text and label; images lie where ``img`` says.

    ``val`` and ``test`` choose ``seen`` or ``unseen``; the notes name the file of each and the
    phase of the challenge that the copy is of. With ``test="dev"``, for copies without labelled
    test files as the first phase's, dev (seen) is the test split and validation is carved from
    train. The remaining official splits are kept under their own names; their unlabelled rows are
    skipped.

    Raises:
        UserError: files are missing or malformed, a row of a split in use has no label, or what
            ``build_corpus`` checks.
    """
    roles = _roles(val, test)
    phase = _phase(root)
    sources = {role: _source(root, phase, split) for role, split in roles.items()}
    if (root / PACKED).is_file() and not (root / "img").is_dir():
        raise UserError(f"The images in {root} are packed: unpack {PACKED} there.")
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
    notes = {role: path.name for role, path in sources.items()} | {"phase": phase}
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


def _phase(root: Path) -> str:
    """Which phase of the challenge the files are of, by their names: ``1``, ``2`` or unknown."""
    if any((root / name).is_file() for name in SECOND_PHASE):
        return "2"
    return "1" if any((root / name).is_file() for name in FIRST_PHASE) else "unknown"


def _source(root: Path, phase: str, split: str) -> Path:
    if phase == "1" and split.endswith("_unseen"):
        raise UserError(
            f"{root} is of the challenge's first phase ({', '.join(FIRST_PHASE)}), which has no "
            "unseen files: use val=seen and test=seen, or test=dev where test has no labels."
        )
    return find_file(root, *FILES[split])


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
        first = path.name in FIRST_PHASE
        what = " as published in the challenge's first phase" if first else ""
        raise UserError(
            f"{len(bare)} of {len(rows)} rows of {path.name} have no label{what} ({bare[0]}), so "
            f"it cannot serve as {role}: use labelled files, or --data-set test=dev to score dev."
        )
    return [example for _, example, _ in rows]


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a copy with columns img or image, text, label and perhaps id as the published tree.

    Its splits keep their names where they are official; ``validation`` and ``test`` become the
    first phase's ``dev`` and ``test``, for the copy does not say which of the later ones they are.
    """
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        split = str(row[official.SPLIT])
        split = {"validation": "dev", "val": "dev"}.get(split, split)
        if f"{split}.jsonl" not in (*FIRST_PHASE, *SECOND_PHASE, "train.jsonl"):
            raise UserError(f"The copy has a split {split!r}, which Hateful Memes does not have.")
        id = row.get("id", f"{split}_{len(found[split]):05}")
        # Ids that are numbers have lost the leading zeros that file names have.
        stem = f"{id:05}" if isinstance(id, int) else str(id)
        name = row["img"] if isinstance(row.get("img"), str) else f"img/{stem}.png"
        official.write_image(row.get("image", row.get("img")), folder, name)
        label = _label(row.get("label"))
        known = {} if label is None else {"label": label}
        text = official.column(row, "text")
        found[split].append({"id": id, "img": name, "text": text or "", **known})
    for split, listed in found.items():
        official.write_lines(folder / f"{split}.jsonl", listed)


def _label(given: Any) -> int | None:
    """0, 1, or None for a row without a label, from what copies write for them."""
    if given is None or given in ("", -1):
        return None
    number = int(given) if isinstance(given, bool | int | float) and given in (0, 1) else given
    said = str(number).strip().lower().replace("-", "_").replace(" ", "_")
    if said not in LABELS:
        raise UserError(f"The copy has a label {given!r}, which means neither hateful nor not.")
    return LABELS[said]


def choices(classes: Sequence[str]) -> list[str]:
    """Answer strings in class order: no, yes."""
    return [ANSWERS[CLASSES.index(name)] for name in classes]


def prompt(text: str | None, classes: Sequence[str]) -> str:
    """Question with the meme's words before it, or alone where there are none."""
    shown = f'A meme with "{text}" written on it.\n' if text else ""
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
