"""Visual question answering with short free answers, scored as VQAv2 is."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.data import Corpus, Example, Skipped
from steelyard.harness.errors import UserError, unknown
from steelyard.harness.reading import read_json, read_json_lines
from steelyard.tasks import _questions, answers, metrics

SCORERS = {"soft": answers.soft, "exact": answers.exact}
FOLDERS = (".", "questions", "annotations")
MANY_TYPES = 20
"""With more question types than this, answer types are scored apart."""
Row = Mapping[str, Any]


def load(root: Path, *, max_bad: float = 0.01, scoring: str = "soft", part: str = "") -> Corpus:
    """Read VQAv2's ``*questions.json`` and ``*annotations.json``, or one ``annotations.jsonl``.

    ``part`` chooses among several pairs by what is in the file names, such as ``val2014``. Images
    are found by the number that ends their names. A line of ``annotations.jsonl`` is an image with
    its ``qas`` (qa_id, question, answer). ``scoring`` is VQAv2's ``soft`` accuracy, or ``exact``.

    Raises:
        UserError: files are missing or malformed, a question has no annotation, or what
            ``build_corpus`` checks.
    """
    if scoring not in SCORERS:
        raise unknown("scoring of vqa", scoring, SCORERS)

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        pairs = _one(folder, "questions", part)
        if pairs is None:
            return list(_listed(folder, split, scoring))
        annotations = _one(folder, "annotations", part)
        if annotations is None:
            raise UserError(f"No *annotations.json in {folder} to answer {pairs.name}.")
        return list(_official(folder, pairs, annotations, split, scoring))

    return _questions.corpus("vqa", root, read, notes={"scoring": scoring}, max_bad=max_bad)


def _one(root: Path, kind: str, part: str) -> Path | None:
    """The one file of its kind, or None where there is none."""
    patterns = (f"{folder}/*{part}*{kind}.json" for folder in FOLDERS)
    found = _questions.files(root, *patterns)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"Several {kind} files in {root}: {names}. Choose by part=..., as val2014.")
    return found[0] if found else None


def _official(
    root: Path, questions: Path, annotations: Path, split: str, scoring: str
) -> Iterator[Example]:
    known = {_number(annotations, row, "question_id"): row for row in _rows(annotations)}
    types = {str(row.get("question_type", "")) for row in known.values()}
    kind = "question_type" if len(types) <= MANY_TYPES else "answer_type"
    images = _questions.images_by_number(root)
    for row in _rows(questions):
        number = _number(questions, row, "question_id")
        image = _number(questions, row, "image_id")
        if number not in known:
            raise UserError(f"{annotations}: no annotation of question {number}.")
        yield Example(
            f"{_questions.prefix(split)}{number}",
            images.get(image, root / "images" / f"{image:012}.jpg"),
            _questions.field(f"{questions}: question {number}", row, "question"),
            (),
            answers=_references(annotations, known[number]),
            subset=str(known[number].get(kind, "")),
            cluster=str(image),
            facts={"scoring": (scoring,)},
        )


def _rows(path: Path) -> list[Row]:
    kind = "questions" if "questions" in path.name else "annotations"
    content = read_json(path)
    rows = content.get(kind) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: '{kind}' must be a list of objects.")
    return rows


def _number(path: Path, row: Row, key: str) -> int:
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


def _listed(root: Path, split: str, scoring: str) -> Iterator[Example]:
    path = root / "annotations.jsonl"
    if not path.is_file():
        raise UserError(f"No *questions.json or {path.name} in {root}: check its layout.")
    for where, row in read_json_lines(path):
        image, name = _questions.pictures(where, root, row)
        asked = row.get("qas")
        if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
            raise UserError(f"{where}: 'qas' must be a list of objects.")
        for one in asked:
            yield Example(
                f"{_questions.prefix(split)}{_questions.field(where, one, 'qa_id')}",
                image,
                _questions.field(where, one, "question"),
                (),
                answers=(_questions.field(where, one, "answer"),),
                cluster=name,
                facts={"scoring": (scoring,)},
            )


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row."""
    return _questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row."""
    return _questions.first_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer by the scoring the data was read with."""
    score = SCORERS[doc["facts"]["scoring"][0]](results[0], doc["answers"])
    return {"accuracy": (score, 1), "item": metrics.answered(doc, results[0])}
