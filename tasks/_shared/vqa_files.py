"""Read VQAv2's pair of files: questions, and ten people's answers to each."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.tasks._shared import questions as _questions

FOLDERS = (".", "questions", "annotations")
MANY_TYPES = 20
"""With more question types than this, the subsets are answer types."""


def find(root: Path, kind: str, part: str) -> Path | None:
    """Find the only file of ``questions`` or ``annotations`` with ``part`` in its name, or None."""
    patterns = (f"{folder}/*{part}*{kind}.json" for folder in FOLDERS)
    return _questions.only_file(root, kind, *patterns)


def examples(
    folder: Path,
    questions: Path,
    annotations: Path,
    image_name: Callable[[int], str],
    split: str,
    skipped: list[Skipped],
    kind: str = "",
) -> Iterator[Example]:
    """Yield questions with their reference answers; list those without an annotation as skipped.

    ``image_name`` gives an image's path by COCO's number; images of other names are found by the
    number that ends them. The subset is the annotation's column ``kind``, by default
    ``question_type``, or ``answer_type`` if there are many question types.
    """
    # Listed only if an image does not have its usual name.
    by_number = cache(lambda: _questions.images_by_number(folder))
    answered = _questions.by_key(read_rows(annotations, "annotations"), "question_id")
    if not kind:
        types = {str(row.get("question_type", "")) for _, row in answered.values()}
        kind = "question_type" if len(types) <= MANY_TYPES else "answer_type"
    asked_rows = list(read_rows(questions, "questions"))
    # Else all questions would be listed as skipped, without the cause.
    if asked_rows and not any(str(row.get("question_id")) in answered for _, row in asked_rows):
        raise UserError(
            f"{annotations} answers none of the {len(asked_rows)} questions of {questions.name}: "
            "they are of different parts or versions."
        )
    for where, row in asked_rows:
        id = _questions.field(where, row, "question_id")
        image = _questions.whole_number(where, row, "image_id")
        name = f"{_questions.prefix(split)}{id}"
        if id not in answered:
            skipped.append(Skipped(name, split, f"no annotation in {annotations.name}"))
            continue
        path = folder / image_name(image)
        yield Example(
            name,
            path if path.is_file() else by_number().get(image, path),
            _questions.field(where, row, "question"),
            answers=_questions.references(*answered[id]),
            subset=str(answered[id][1].get(kind) or ""),
            cluster=str(image),
        )
