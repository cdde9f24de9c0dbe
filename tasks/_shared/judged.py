"""Verdicts of a judge on answers, read from a file that the user's own judge wrote.

A line is ``{"id": ..., "answer": ..., KEY: ...}``. A verdict belongs to the very answer it was
given on: it is never used for another model's answer to the same question.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.data.reading import read_json_lines
from steelyard.tasks._shared import questions
from steelyard.tasks.metrics import Question

Facts = Mapping[str, tuple[str, ...]]
Verdicts = Mapping[str, Mapping[str, str]]
"""By id of the question, the verdict on each answer."""


def read(path: str, key: str, allowed: Sequence[str]) -> Verdicts | None:
    """The verdicts of a file; None where no file is named.

    Raises:
        UserError: the file is missing or malformed, a verdict is none of those allowed, or an
            answer has two.
    """
    if not path:
        return None
    if not Path(path).is_file():
        raise UserError(f"No file of verdicts at {path}: a line is {_line(key, allowed)}.")
    found: dict[str, dict[str, str]] = {}
    for where, row in read_json_lines(Path(path)):
        verdict = str(row.get(key))
        if verdict not in allowed:
            raise UserError(f"{where}: {key} {row.get(key)!r}, allowed are {', '.join(allowed)}.")
        answer = row.get("answer")
        if not isinstance(answer, str):
            raise UserError(f"{where}: no 'answer'; a line is {_line(key, allowed)}.")
        of_question = found.setdefault(questions.field(where, row, "id"), {})
        if of_question.setdefault(answer, verdict) != verdict:
            raise UserError(f"{where}: a second {key} of the same answer: {verdict}.")
    return found


def facts(found: Verdicts | None, id: str) -> Facts:
    """What a question carries of the verdicts; nothing where no file was named."""
    if found is None:
        return {}
    own = found.get(id, {})
    return {"judged": tuple(own), "verdicts": tuple(own.values())}


def of(doc: Question, answer: str) -> str | None:
    """The verdict on this answer; None where no file was named.

    Raises:
        UserError: the file has no verdict on it.
    """
    if "judged" not in doc["facts"]:
        return None
    own = dict(zip(doc["facts"]["judged"], doc["facts"]["verdicts"], strict=True))
    if answer not in own:
        raise UserError(
            f"The file of verdicts has none on this answer to {doc['id']}: {answer[:60]!r}. "
            "Judge the answers of this run, or leave verdicts out."
        )
    return own[answer]


def _line(key: str, allowed: Sequence[str]) -> str:
    return f'{{"id": ..., "answer": ..., "{key}": {" | ".join(allowed)}}}'
