"""VQAv2: open questions about COCO photos, each answered by ten people."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official as _official
from steelyard.tasks._shared import questions as _questions
from steelyard.tasks._shared import vqa_files

PARTS = {
    "train": "train2014",
    "validation": "val2014",
    "testdev": "test-dev2015",
    "test": "test2015",
}
"""The official names of the parts, by those of the hub copy."""
FILES = {
    "questions": "v2_OpenEnded_mscoco_{}_questions.json",
    "annotations": "v2_mscoco_{}_annotations.json",
}
HIDDEN = ("test-dev2015", "test2015")
"""Parts without public answers."""


def load(root: Path, *, max_bad: float = 0.01, part: str = "val2014") -> Corpus:
    """Read ``v2_OpenEnded_mscoco_<part>_questions.json`` and ``v2_mscoco_<part>_annotations.json``.

    Images that have not the official names are found by the number that ends theirs. Subsets are
    the three answer types.

    Raises:
        UserError: files are missing or malformed, no question has an annotation, or what
            ``build_corpus`` checks.
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        questions, annotations = (
            _file(folder, kind, part) for kind in ("questions", "annotations")
        )
        elsewhere = cache(lambda: _questions.images_by_number(folder))

        def image_of(number: int) -> Path:
            official = folder / image_name(part, number)
            return official if official.is_file() else elsewhere().get(number, official)

        return list(
            vqa_files.examples(questions, annotations, image_of, split, skipped, "answer_type")
        )

    return _questions.corpus("vqav2", root, read, notes={"part": part}, max_bad=max_bad)


def image_name(part: str, number: int) -> str:
    """Where COCO keeps an image of a part; both test parts share a folder."""
    folder = part.replace("test-dev", "test")
    return f"{folder}/COCO_{folder}_{number:012}.jpg"


def _file(root: Path, kind: str, part: str) -> Path:
    found = vqa_files.find(root, kind, f"v2_*{part}")
    if found is not None:
        return found
    if part in HIDDEN:
        raise UserError(
            f"The answers of {part} are not public, only the EvalAI server scores them: use "
            "--data-set part=val2014."
        )
    there = [path.name for path in sorted(root.glob(f"*{kind}.json"))]
    raise UserError(
        f"No {FILES[kind].format(part)} in {root} (there: {', '.join(there) or 'none'}): choose "
        f"among {', '.join(PARTS.values())} by --data-set part=..."
    )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, image_id, image, question, answers and types) as published.

    A part whose answers are hidden gets its questions alone.
    """
    questions, annotations = defaultdict(list), defaultdict(list)
    for row in rows:
        part = PARTS.get(row[_official.SPLIT], row[_official.SPLIT])
        ids = {key: int(_official.column(row, key)) for key in ("image_id", "question_id")}
        name = image_name(part, ids["image_id"])
        _official.write_image(_official.column(row, "image"), folder, name)
        questions[part].append({**ids, "question": _official.column(row, "question")})
        if given := row.get("answers"):
            types = {key: row.get(key) for key in ("question_type", "answer_type")}
            chosen = {"multiple_choice_answer": row.get("multiple_choice_answer")}
            annotations[part].append({**ids, **types, **chosen, "answers": _listed(given)})
    for kind, parts in (("questions", questions), ("annotations", annotations)):
        for part, listed in parts.items():
            _official.write_json(folder / FILES[kind].format(part), {kind: listed})


def _listed(given: Any) -> list[dict[str, Any]]:
    """Answers as a list of objects: some copies hold an object of lists."""
    if not isinstance(given, Mapping):
        return [dict(answer) for answer in given]
    return [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row."""
    return _questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row: the one given most often."""
    return _questions.usual_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer by its agreement with the ten."""
    score = answers.soft(results[0], doc["answers"])
    return {"accuracy": (score, 1), "item": metrics.answered(doc, results[0])}
