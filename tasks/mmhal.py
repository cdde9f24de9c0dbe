"""MMHal-Bench: 96 open questions of eight types, which only a judge can rate.

Sun et al., LLaVA-RLHF, arXiv 2309.14525. GPT-4 rates an answer from 0 to 6; the score is the mean
rating, and below 3 an answer counts as a hallucination. Without a judge only ``answered`` and
``length`` are reported; the loader's option ``ratings`` names a file of ratings. With 96 items the
95 % interval of a rate is some ten points wide to either side, so no board ranks by this set.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.tasks import metrics
from steelyard.tasks._shared import judged, official, questions

FILE = "response_template.json"
TYPES = (
    "attribute", "adversarial", "comparison", "counting",
    "relation", "environment", "holistic", "other",
)  # fmt: skip
"""Question types in the order in which the official file repeats them, if it names none.

The official eval_gpt4.py relies on that order too: question ``i`` is of type ``i % 8``."""
RATINGS = ("0", "1", "2", "3", "4", "5", "6")
FAITHFUL = 3
"""Least rating of an answer without hallucination, as in the official eval_gpt4.py."""
COLUMNS = (
    "question_type", "question_topic", "image_id", "image_src",
    "image_path", "image_content", "question", "gt_answer",
)  # fmt: skip
"""Columns of the official file that a copy may have. Source: the features of MMHal-Bench.py, the
official loading script on the hub, which adds ``image_path`` from the file in test_data.zip."""
NAMES = ("image_path", "image_src")
"""Columns with the path or address of the image."""


def load(root: Path, *, max_bad: float = 0.01, ratings: str = "") -> Corpus:
    """Read ``response_template.json``; images are in ``images`` under their original names.

    Ids are positions in the file, from ``0``. ``ratings`` names a file of a judge's ratings, lines
    of ``{"id": ..., "answer": ..., "rating": 0 to 6}``.
    """
    verdicts = judged.read(ratings, "rating", RATINGS)

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        path = questions.first_file(folder, FILE)
        for index, (where, row) in enumerate(read_rows(path)):
            id_ = f"{questions.prefix(split)}{index}"
            name = _image_name(where, row)
            yield Example(
                id_,
                questions.image_path(folder, name),
                questions.field(where, row, "question"),
                answers=(questions.field(where, row, "gt_answer"),),
                subset=str(row.get("question_type") or TYPES[index % len(TYPES)]),
                cluster=name,
                facts=judged.facts(verdicts, id_),
            )

    notes = {"judge": "ratings" if verdicts is not None else "none, so no score"}
    return questions.corpus("mmhal", root, read, notes=notes, max_bad=max_bad)


def _image_name(where: str, row: questions.SourceRow) -> str:
    key = next((key for key in NAMES if row.get(key)), NAMES[-1])
    return PurePosixPath(urlparse(questions.field(where, row, key)).path).name


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    # No instruction: answers are sentences, which a judge rates.
    return doc["text"] or ""


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    answer = results[0]
    scores: metrics.AnswerScores = {
        "answered": (bool(answer.strip()), 1),
        "length": (len(answer.split()), 1),
        "item": metrics.answer_item(doc, answer),
    }
    rating = judged.verdict_on(doc, answer)
    if rating is None:
        return scores
    points = int(rating)
    return {**scores, "score": (points, 1), "hallucination": (points < FAITHFUL, 1)}


def write_official(rows: Iterator[questions.SourceRow], folder: Path) -> None:
    """Write rows of a hub copy, in their order, as ``response_template.json`` and images."""
    entries = []
    for number, row in enumerate(rows, start=1):
        name = _image_name(f"row {number} of the copy", row)
        official.write_image(official.column(row, "image"), folder / "images", name)
        entries.append({key: row[key] for key in row if key in COLUMNS})
    official.write_json(folder / FILE, entries)
