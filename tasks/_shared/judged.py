"""Verdicts of a judge on answers, read from a file of the user.

A line is ``{"id": ..., "answer": ..., KEY: ...}``. A verdict is for exactly this answer: it is
never used for another model's answer to the same question.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.readers import read_rows
from steelyard.tasks._shared import questions
from steelyard.tasks.metrics import QuestionDoc

Verdicts = Mapping[str, Mapping[str, str]]
"""Verdict by question id and answer."""


def read(path: str, key: str, allowed: Sequence[str]) -> Verdicts | None:
    """Read the verdicts of a file; None for an empty path."""
    if not path:
        return None
    if not Path(path).is_file():
        raise UserError(f"No file of verdicts at {path}: a line is {_line(key, allowed)}.")
    verdicts: dict[str, dict[str, str]] = {}
    for where, row in read_rows(Path(path)):
        verdict = questions.one_of(where, row, key, allowed)
        answer = row.get("answer")
        if not isinstance(answer, str):
            raise UserError(f"{where}: no 'answer'; a line is {_line(key, allowed)}.")
        of_question = verdicts.setdefault(questions.field(where, row, "id"), {})
        # Runs of a judge may overlap: only a contradiction is an error.
        if of_question.setdefault(answer, verdict) != verdict:
            raise UserError(f"{where}: a second, different {key} of the same answer: {verdict}.")
    return verdicts


def facts(verdicts: Verdicts | None, id: str) -> dict[str, tuple[str, ...]]:
    if verdicts is None:
        return {}
    of_question = verdicts.get(id, {})
    # Two parallel tuples, for an item's facts are tuples of strings.
    return {"judged": tuple(of_question), "verdicts": tuple(of_question.values())}


def verdict_on(doc: QuestionDoc, answer: str) -> str | None:
    """Return the verdict on this answer; None without a file, UserError if it has none."""
    if "judged" not in doc["facts"]:
        return None
    verdicts = dict(zip(doc["facts"]["judged"], doc["facts"]["verdicts"], strict=True))
    if answer not in verdicts:
        raise UserError(
            f"The file of verdicts has none on this answer to {doc['id']}: {answer[:60]!r}. "
            "Judge the answers of this run, or leave verdicts out."
        )
    return verdicts[answer]


def _line(key: str, allowed: Sequence[str]) -> str:
    return f'{{"id": ..., "answer": ..., "{key}": {" | ".join(allowed)}}}'
