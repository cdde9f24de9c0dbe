"""CHAIR: objects in a caption that are not in the image.

Rohrbach et al., EMNLP 2018: CHAIRi is the fraction of mentions of absent objects, pooled over
captions, CHAIRs the fraction of captions with one; objects in the human captions count as present.
Counted as by the official code and by lmms-eval's ``coco_cap_chair``, but mentions are found
differently: those lemmatise with NLTK and have 403 words for COCO's 80 classes, here plurals are
undone by rule and there are 204 words. lmms-eval asks for a detailed description, where models
invent more than in the one sentence asked for here, and fails if no caption mentions an object.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_object, read_rows, read_text
from steelyard.tasks import metrics
from steelyard.tasks._shared import objects as _objects
from steelyard.tasks._shared import questions

LIST = "images.jsonl"
SYNONYMS = "synonyms.txt"
FOLDERS = (".", "annotations")


def load(root: Path, *, max_bad: float = 0.01, part: str = "") -> Corpus:
    """Read ``images.jsonl`` (image, objects, captions), or COCO's instances and captions.

    Rows whose objects are null are unlabelled and left out; the notes count them. COCO's files
    are ``instances_*.json`` and optionally ``captions_*.json``, chosen by ``part`` if several.
    ``synonyms.txt`` has a line ``name, synonym, ...`` for each object; without it, names, their
    plurals and, for COCO's classes, everyday words are recognised. Objects in human captions count
    as present.
    """
    unlabelled: dict[str, int] = {}

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        rows = list(_listed(folder) if (folder / LIST).is_file() else _official(folder, part))
        labelled = [row for row in rows if row["objects"] is not None]
        unlabelled[split] = len(rows) - len(labelled)
        if (root / SYNONYMS).is_file():
            content = read_text(root / SYNONYMS).split("\n")
            lines = tuple(line for line in content if line.strip())
        else:
            # Labels that are all classes of COCO get COCO's everyday words.
            names = {name.lower() for row in labelled for name in row["objects"]}
            is_coco = names <= set(_objects.coco_names())
            lines = _objects.COCO if is_coco else tuple(sorted(names))
        return [_example(folder, row, lines, split) for row in labelled]

    corpus = questions.corpus("chair", root, read, notes={}, max_bad=max_bad)
    counts = ", ".join(f"{split} {count}" for split, count in unlabelled.items())
    return replace(corpus, notes={"not labelled": counts})


def _listed(root: Path) -> Iterator[Mapping[str, Any]]:
    for where, row in read_rows(root / LIST):
        unlabelled = row.get("objects") is None
        yield {
            "image": questions.field(where, row, "image"),
            "objects": None if unlabelled else questions.strings(where, row, "objects"),
            "captions": questions.strings(where, row, "captions"),
        }


def _official(root: Path, part: str) -> Iterator[Mapping[str, Any]]:
    """Read COCO's files: every image of the instances file, with the names of its objects."""
    instances, described = (_coco(root, kind, part) for kind in ("instances", "captions"))
    if instances is None:
        raise UserError(f"No {LIST} or instances_*.json in {root}: check the data folder.")
    names = {id: questions.field(*at, "name") for id, at in _by_id(instances, "categories").items()}
    objects, captions = defaultdict(list), defaultdict(list)
    for where, row in _rows(instances, "annotations"):
        category = questions.field(where, row, "category_id")
        if category not in names:
            raise UserError(f"{where}: no category has the id {category}.")
        objects[questions.field(where, row, "image_id")].append(names[category])
    for where, row in _rows(described, "annotations") if described else ():
        image = questions.field(where, row, "image_id")
        captions[image].append(questions.field(where, row, "caption"))
    for id, (where, row) in _by_id(instances, "images").items():
        yield {
            "image": questions.field(where, row, "file_name"),
            # An image has one annotation for each instance of a class.
            "objects": tuple(dict.fromkeys(objects[id])),
            "captions": tuple(captions[id]),
        }


CocoFile = tuple[Path, questions.SourceRow]


def _coco(root: Path, kind: str, part: str) -> CocoFile | None:
    patterns = (f"{folder}/{kind}_*{part}*.json" for folder in FOLDERS)
    path = questions.only_file(root, kind, *patterns)
    return (path, read_object(path)) if path else None


def _rows(file: CocoFile, key: str) -> Iterator[tuple[str, questions.SourceRow]]:
    path, content = file
    for number, row in enumerate(questions.objects(str(path), content, key), start=1):
        yield f"{path}: {key} {number}", row


def _by_id(file: CocoFile, key: str) -> dict[str, tuple[str, questions.SourceRow]]:
    return questions.by_key(_rows(file, key), "id")


def _example(root: Path, row: Mapping[str, Any], lines: tuple[str, ...], split: str) -> Example:
    # Labels may be synonyms of a name in the vocabulary.
    labels = {label: _objects.mentions(label, lines) for label in row["objects"]}
    for label, names in labels.items():
        if not names:
            raise UserError(f"{row['image']}: object '{label}' is not in {SYNONYMS}.")
    captions = [_objects.mentions(text, lines) for text in row["captions"]]
    present = tuple(
        dict.fromkeys(name for names in (*labels.values(), *captions) for name in names)
    )
    return Example(
        f"{questions.prefix(split)}{row['image']}",
        questions.image_path(root, row["image"]),
        None,
        answers=row["captions"],
        cluster=row["image"],
        facts={"objects": present, "vocabulary": lines},
    )


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    """Return the instruction alone, for there is no text beside the image."""
    return questions.CAPTION


def doc_to_target(doc: metrics.QuestionDoc) -> str:
    """Return a human caption, or the objects if there is none."""
    return doc["answers"][0] if doc["answers"] else ", ".join(doc["facts"]["objects"])


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one caption by the objects it mentions.

    A caption without objects hallucinates none: recall and length show such captions.
    """
    present = set(doc["facts"]["objects"])
    names = _objects.mentions(results[0], tuple(doc["facts"]["vocabulary"]))
    wrong = sum(name not in present for name in names)
    return {
        "chair_i": (wrong, len(names)),
        "chair_s": (wrong > 0, 1),
        "recall": (len(present & set(names)), len(present)),
        "length": (len(results[0].split()), 1),
        "item": metrics.answer_item(doc, results[0]),
    }
