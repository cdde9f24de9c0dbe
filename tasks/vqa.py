"""Visual question answering with short free answers, scored as VQAv2."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import questions as _questions
from steelyard.tasks._shared import vqa_files

SCORERS = {"soft": answers.soft, "exact": answers.exact}


def load(root: Path, *, max_bad: float = 0.01, scoring: str = "soft", part: str = "") -> Corpus:
    """Read VQAv2's ``*questions.json`` and ``*annotations.json``, or one ``annotations.jsonl``.

    ``part`` chooses among several pairs by a part of the file names, such as ``val2014``. Images
    are found by the number that ends their names. A line of ``annotations.jsonl`` is an image with
    its ``qas`` (qa_id, question, answer). ``scoring`` is VQAv2's ``soft`` accuracy, or ``exact``.
    """
    check_known("scoring of vqa", scoring, SCORERS)

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterable[Example]:
        questions = vqa_files.find(folder, "questions", part)
        if questions is None:
            return _listed(folder, split, scoring)
        annotations = vqa_files.find(folder, "annotations", part)
        if annotations is None:
            raise UserError(f"No *annotations.json in {folder} to answer {questions.name}.")
        # COCO pads numbers to twelve digits.
        name = "images/{:012}.jpg".format
        rows = vqa_files.examples(folder, questions, annotations, name, split, skipped)
        # In the item, for scoring sees nothing but documents.
        return [replace(example, facts={"scoring": (scoring,)}) for example in rows]

    return _questions.corpus("vqa", root, read, notes={"scoring": scoring}, max_bad=max_bad)


def _listed(root: Path, split: str, scoring: str) -> Iterator[Example]:
    path = root / "annotations.jsonl"
    if not path.is_file():
        raise UserError(f"No *questions.json or {path.name} in {root}: check its layout.")
    for where, row in read_rows(path):
        image, name = _questions.image_of(where, root, row)
        for pair in _questions.objects(where, row, "qas"):
            yield Example(
                f"{_questions.prefix(split)}{_questions.field(where, pair, 'qa_id')}",
                image,
                _questions.field(where, pair, "question"),
                answers=(_questions.field(where, pair, "answer"),),
                cluster=name,
                facts={"scoring": (scoring,)},
            )


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    score = SCORERS[doc["facts"]["scoring"][0]](results[0], doc["answers"])
    return {"accuracy": (score, 1), "item": metrics.answer_item(doc, results[0])}
