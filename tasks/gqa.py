"""GQA: compositional questions about photos, by what they ask for and how they are built."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import read_json
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
"""Metrics by what a question asks for, as the official files call it."""


def load(root: Path, *, max_bad: float = 0.01, part: str = "testdev_balanced") -> Corpus:
    """Read ``<part>_questions.json``, an object of questions by id, and ``images/<imageId>.jpg``.

    Subsets are the structural types (verify, query, choose, logical, compare).

    Raises:
        UserError: files are missing or malformed, or what ``build_corpus`` checks.
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        patterns = [f"{place}/{part}_questions.json" for place in FOLDERS]
        found = _questions.files(folder, *patterns)
        if not found:
            raise UserError(
                f"No {part}_questions.json in {folder}: choose another part, such as val_balanced, "
                "by --data-set part=..."
            )
        return list(_examples(folder, found[0], split))

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
                "in every question; use --data-set part=testdev_balanced or mend the file."
            )
        image = _questions.field(where, row, "imageId")
        structural, semantic = _types(where, row)
        yield Example(
            f"{_questions.prefix(split)}{id}",
            _questions.image_path(root, f"{image}.jpg"),
            _questions.field(where, row, "question"),
            (),
            answers=(_questions.field(where, row, "answer"),),
            subset=structural,
            cluster=image,
            facts={"semantic": (semantic,)},
        )


def _types(where: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """How a question is built and what it asks for; both may be left out."""
    types = row.get("types") or {}
    if not isinstance(types, dict):
        raise UserError(f"{where}: 'types' must be an object, found {types!r}.")
    structural, semantic = (str(types.get(key) or "") for key in ("structural", "semantic"))
    if semantic and semantic not in SEMANTIC:
        raise UserError(f"{where}: semantic type {semantic!r}, allowed are {', '.join(SEMANTIC)}.")
    return structural, semantic


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy as published: its images and its instructions are separate configurations.

    ``testdev_balanced_images`` has id and image, ``testdev_balanced_instructions`` the questions.
    """
    asked: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        part, _, kind = str(row[official.CONFIG]).rpartition("_")
        if kind == "images":
            name = f"{official.column(row, 'id')}.jpg"
            official.write_image(official.column(row, "image"), folder / "images", name)
        elif kind == "instructions":
            content = {key: row[key] for key in row.keys() - {official.CONFIG, official.SPLIT}}
            asked[part][str(official.column(row, "id"))] = content
        else:
            raise UserError(
                f"The copy has a configuration {row[official.CONFIG]!r}: expected "
                "testdev_balanced_images and testdev_balanced_instructions."
            )
    for part, questions in asked.items():
        official.write_json(folder / f"{part}_questions.json", questions)


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row."""
    return _questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row."""
    return _questions.first_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer by exact match without case and punctuation."""
    score = answers.exact(results[0], doc["answers"], answers.plain)
    semantic = doc["facts"]["semantic"][0]
    typed: metrics.Shares = {SEMANTIC[semantic]: (score, 1)} if semantic else {}
    return {"accuracy": (score, 1), **typed, "item": metrics.answered(doc, results[0])}
