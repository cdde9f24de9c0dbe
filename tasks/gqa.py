"""GQA: compositional questions about photos, by semantic and structural type."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_json, short_repr
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official
from steelyard.tasks._shared import questions as _questions

FOLDERS = (".", "questions", "questions1.2")
SEMANTIC = {
    "obj": "object_accuracy",
    "attr": "attribute_accuracy",
    "cat": "category_accuracy",
    "rel": "relation_accuracy",
    "global": "global_accuracy",
}
"""Metric of each semantic type of the official files."""


def load(root: Path, *, max_bad: float = 0.01, part: str = "testdev_balanced") -> Corpus:
    """Read ``<part>_questions.json``, an object of questions by id, and ``images/<imageId>.jpg``.

    Subsets are the structural types (verify, query, choose, logical, compare).
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        paths = _questions.files(folder, *(f"{name}/{part}_questions.json" for name in FOLDERS))
        if not paths:
            raise UserError(
                f"No {part}_questions.json in {folder}: choose another part, such as val_balanced, "
                "by --data-set part=..."
            )
        return _examples(folder, paths[0], split)

    return _questions.corpus("gqa", root, read, notes={"part": part}, max_bad=max_bad)


def _examples(root: Path, path: Path, split: str) -> Iterator[Example]:
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise UserError(f"{path}: expected an object of questions by their ids.")
    for id, row in content.items():
        where = f"{path}: question {id}"
        if "answer" not in row:
            raise UserError(
                f"{where} has no 'answer': those of test are not public, and other parts have one "
                "in every question; use --data-set part=testdev_balanced or fix the file."
            )
        image = _questions.field(where, row, "imageId")
        types = row.get("types") or {}
        if not isinstance(types, dict):
            raise UserError(f"{where}: 'types' must be an object, found {short_repr(types)}.")
        structural, semantic = (str(types.get(key) or "") for key in ("structural", "semantic"))
        if semantic and semantic not in SEMANTIC:
            allowed = ", ".join(SEMANTIC)
            raise UserError(
                f"{where}: semantic type {short_repr(semantic)}, allowed are {allowed}."
            )
        yield Example(
            f"{_questions.prefix(split)}{id}",
            _questions.image_path(root, f"{image}.jpg"),
            _questions.field(where, row, "question"),
            answers=(_questions.field(where, row, "answer"),),
            subset=structural,
            # Many questions are about one image.
            cluster=image,
            facts={"semantic": (semantic,)},
        )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy in the official layout, from its two configurations.

    ``testdev_balanced_images`` has id and image, ``testdev_balanced_instructions`` the questions.
    """
    questions: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        part, _, kind = str(row[official.CONFIG]).rpartition("_")
        if kind == "images":
            name = f"{official.column(row, 'id')}.jpg"
            official.write_image(official.column(row, "image"), folder / "images", name)
        elif kind == "instructions":
            content = {k: row[k] for k in row if k not in (official.CONFIG, official.SPLIT)}
            questions[part][str(official.column(row, "id"))] = content
        else:
            raise UserError(
                f"The copy has a configuration {row[official.CONFIG]!r}: expected "
                "testdev_balanced_images and testdev_balanced_instructions."
            )
    for part, by_id in questions.items():
        official.write_json(folder / f"{part}_questions.json", by_id)


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    score = answers.exact(results[0], doc["answers"], answers.plain)
    semantic = doc["facts"]["semantic"][0]
    by_type: metrics.AnswerScores = {SEMANTIC[semantic]: (score, 1)} if semantic else {}
    return {"accuracy": (score, 1), **by_type, "item": metrics.answer_item(doc, results[0])}
