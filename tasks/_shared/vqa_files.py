"""VQAv2's pair of files: questions, and what ten people answered to each."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Skipped
from steelyard.harness.data.reading import read_json
from steelyard.tasks._shared import questions as _questions

FOLDERS = (".", "questions", "annotations")
MANY_TYPES = 20
"""With more question types than this, answer types are scored apart."""
Row = Mapping[str, Any]


def find(root: Path, kind: str, part: str) -> Path | None:
    """The one file of ``questions`` or ``annotations`` with ``part`` in its name, or None.

    Raises:
        UserError: there are several.
    """
    patterns = (f"{folder}/*{part}*{kind}.json" for folder in FOLDERS)
    found = _questions.files(root, *patterns)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"Several {kind} files in {root}: {names}. Choose by part=..., as val2014.")
    return found[0] if found else None


def examples(
    questions: Path,
    annotations: Path,
    image_of: Callable[[int], Path],
    split: str,
    skipped: list[Skipped],
    kind: str = "",
) -> Iterator[Example]:
    """The questions with their references; those without an annotation are skipped and listed.

    ``image_of`` finds an image by COCO's number. The subset is the annotation's ``kind``: without
    one ``question_type``, or ``answer_type`` where there are many of those.

    Raises:
        UserError: a row is malformed, or not one question has an annotation.
    """
    known = {number(annotations, row, "question_id"): row for row in rows(annotations)}
    kind = kind or _usual_kind(known)
    asked = rows(questions)
    if asked and not any(row.get("question_id") in known for row in asked):
        raise UserError(
            f"{annotations} answers none of the {len(asked)} questions of {questions.name}: they "
            "are of different parts or versions."
        )
    for row in asked:
        id, image = number(questions, row, "question_id"), number(questions, row, "image_id")
        name = f"{_questions.prefix(split)}{id}"
        if id not in known:
            skipped.append(Skipped(name, split, f"no annotation in {annotations.name}"))
            continue
        yield Example(
            name,
            image_of(image),
            _questions.field(f"{questions}: question {id}", row, "question"),
            (),
            answers=_references(annotations, known[id]),
            subset=str(known[id].get(kind, "")),
            cluster=str(image),
        )


def _usual_kind(annotations: Mapping[int, Row]) -> str:
    types = {str(row.get("question_type", "")) for row in annotations.values()}
    return "question_type" if len(types) <= MANY_TYPES else "answer_type"


def rows(path: Path) -> list[Row]:
    """The list of objects that a file holds under ``questions`` or ``annotations``."""
    kind = "questions" if "questions" in path.name else "annotations"
    content = read_json(path)
    found = content.get(kind) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise UserError(f"{path}: '{kind}' must be a list of objects.")
    return found


def number(path: Path, row: Row, key: str) -> int:
    """A whole number of a row; anything else is a UserError."""
    if type(row.get(key)) is not int:
        raise UserError(f"{path}: '{key}' must be a number, found {row.get(key)!r}.")
    return int(row[key])


def _references(path: Path, row: Row) -> tuple[str, ...]:
    given = row.get("answers")
    listed = given if isinstance(given, list) else []
    known = tuple(str(one["answer"]) for one in listed if isinstance(one, dict) and "answer" in one)
    if not known or len(known) < len(listed):
        raise UserError(f"{path}: question {row['question_id']} has no list of 'answers'.")
    return known
