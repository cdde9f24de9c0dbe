"""VQAv2: open questions about COCO photos, each with the answers of ten people."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.folders import listing
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official, vqa_files
from steelyard.tasks._shared import questions as _questions

PARTS = {
    "train": "train2014",
    "validation": "val2014",
    "testdev": "test-dev2015",
    "test": "test2015",
}
"""Official names of the parts by their names in the hub copy."""
FILES = {
    "questions": "v2_OpenEnded_mscoco_{}_questions.json",
    "annotations": "v2_mscoco_{}_annotations.json",
}
HIDDEN = ("test-dev2015", "test2015")
"""Parts without public answers."""


def load(root: Path, *, max_bad: float = 0.01, part: str = "val2014") -> Corpus:
    """Read ``v2_OpenEnded_mscoco_<part>_questions.json`` and ``v2_mscoco_<part>_annotations.json``.

    Images without their official names are found by the number that ends their names. Subsets
    are the three answer types.
    """

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        questions, annotations = (_file(folder, kind, part) for kind in FILES)
        name = partial(image_name, part)
        # Official scores are by answer type.
        kind = "answer_type"
        return vqa_files.examples(folder, questions, annotations, name, split, skipped, kind)

    return _questions.corpus("vqav2", root, read, notes={"part": part}, max_bad=max_bad)


def image_name(part: str, number: int) -> str:
    """Return COCO's path of an image of a part; both test parts share a folder."""
    folder = part.replace("test-dev", "test")
    return f"{folder}/COCO_{folder}_{number:012}.jpg"


def _file(root: Path, kind: str, part: str) -> Path:
    path = vqa_files.find(root, kind, f"v2_*{part}")
    if path is not None:
        return path
    if part in HIDDEN:
        raise UserError(
            f"The answers of {part} are not public, only the EvalAI server scores them: use "
            "--data-set part=val2014."
        )
    names = [path.name for path in listing(root, f"{kind}.json")]
    raise UserError(
        f"No {FILES[kind].format(part)} in {root} (its files: {', '.join(names) or 'none'}): "
        f"choose among {', '.join(PARTS.values())} by --data-set part=..."
    )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, image_id, image, question, answers and types).

    A part with hidden answers has only a file of questions.
    """
    questions, annotations = defaultdict(list), defaultdict(list)
    for row in rows:
        part = PARTS.get(row[official.SPLIT], row[official.SPLIT])
        ids = {key: int(official.column(row, key)) for key in ("image_id", "question_id")}
        name = image_name(part, ids["image_id"])
        official.write_image(official.column(row, "image"), folder, name)
        questions[part].append({**ids, "question": official.column(row, "question")})
        if references := row.get("answers"):
            keys = ("question_type", "answer_type", "multiple_choice_answer")
            types = {key: row.get(key) for key in keys}
            if isinstance(references, Mapping):  # some copies have an object of lists
                answer_rows = zip(*references.values(), strict=True)
                references = [dict(zip(references, row, strict=True)) for row in answer_rows]
            annotations[part].append({**ids, **types, "answers": [*map(dict, references)]})
    for kind, parts in (("questions", questions), ("annotations", annotations)):
        for part, entries in parts.items():
            official.write_json(folder / FILES[kind].format(part), {kind: entries})


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    score = answers.soft(results[0], doc["answers"])
    return {"accuracy": (score, 1), "item": metrics.answer_item(doc, results[0])}
