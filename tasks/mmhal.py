"""MMHal-Bench: 96 open questions of eight types, whose answers only a judge can rate.

Sun et al., LLaVA-RLHF, arXiv 2309.14525. GPT-4 rates an answer from 0 to 6; the score is the mean
rating, and below 3 an answer counts as a hallucination. Without a judge nothing here says whether
an answer is right: then only ``answered`` and ``length`` are reported. Ratings are used where
``ratings`` names a file of them. With 96 items a rate is known to some ten points at best, so no
board ranks by this set.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.tasks import metrics
from steelyard.tasks._shared import judged as _judged
from steelyard.tasks._shared import official, questions

FILE = "response_template.json"
TYPES = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)
"""Question types in the order in which the official file repeats them, where it names none.

The official eval_gpt4.py counts on that order too, question ``i`` being of type ``i % 8``."""
RATINGS = ("0", "1", "2", "3", "4", "5", "6")
FAITHFUL = 3
"""Least rating of an answer without hallucination, as in the official eval_gpt4.py."""
COLUMNS = (
    "question_type",
    "question_topic",
    "image_id",
    "image_src",
    "image_path",
    "image_content",
    "question",
    "gt_answer",
)
"""Of the official file, as far as a copy has them. Named in the features of MMHal-Bench.py, the
official loading script on the hub, which adds ``image_path`` from the file in test_data.zip."""
NAMES = ("image_path", "image_src")
"""Where a row names its picture, by path or address."""

Row = Mapping[str, Any]


def load(root: Path, *, max_bad: float = 0.01, ratings: str = "") -> Corpus:
    """Read ``response_template.json``; pictures lie in ``images`` under their original names.

    Ids are positions in the file, from ``0``. ``ratings`` names a file of a judge's ratings, lines
    of ``{"id": ..., "answer": ..., "rating": 0 to 6}``.

    Raises:
        UserError: files are missing or malformed, or what ``build_corpus`` checks.
    """
    judged = _judged.read(ratings, "rating", RATINGS)

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        found = questions.files(folder, FILE)
        if not found:
            raise UserError(f"No {FILE} in {folder}: check the data folder and its layout.")
        rows = enumerate(questions.listed(found[0]))
        return [_example(folder, place, *row, split, judged) for place, row in rows]

    notes = {"judge": "ratings" if judged is not None else "none, so no score"}
    return questions.corpus("mmhal", root, read, notes=notes, max_bad=max_bad)


def _example(
    root: Path, place: int, where: str, row: Row, split: str, judged: _judged.Verdicts | None
) -> Example:
    id_ = f"{questions.prefix(split)}{place}"
    name = _picture(where, row)
    return Example(
        id_,
        questions.image_path(root, name),
        questions.field(where, row, "question"),
        (),
        answers=(questions.field(where, row, "gt_answer"),),
        subset=str(row.get("question_type") or TYPES[place % len(TYPES)]),
        cluster=name,
        facts=_judged.facts(judged, id_),
    )


def _picture(where: str, row: Row) -> str:
    key = next((key for key in NAMES if row.get(key)), NAMES[-1])
    return PurePosixPath(urlparse(questions.field(where, row, key)).path).name


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row: the question alone, as officially."""
    return doc["text"] or ""


def doc_to_target(doc: metrics.Question) -> str:
    """The human answer."""
    return questions.first_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """What can be said of one answer without a judge, and its rating where there is one."""
    answer = results[0]
    shares: metrics.Shares = {
        "answered": (bool(answer.strip()), 1),
        "length": (len(answer.split()), 1),
        "item": metrics.answered(doc, answer),
    }
    rating = _judged.of(doc, answer)
    if rating is None:
        return shares
    points = int(rating)
    return {**shares, "score": (points, 1), "hallucination": (points < FAITHFUL, 1)}


def write_official(rows: Iterator[Row], folder: Path) -> None:
    """Write rows of a hub copy, in their order, as ``response_template.json`` and pictures."""
    kept = []
    for place, row in enumerate(rows):
        name = _picture(f"row {place + 1} of the copy", row)
        official.write_image(official.column(row, "image"), folder / "images", name)
        kept.append({key: row[key] for key in row if key in COLUMNS})
    official.write_json(folder / FILE, kept)
