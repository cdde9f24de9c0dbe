"""TextVQA: questions that need reading the words in a photo."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.harness.data.reading import find_file
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official
from steelyard.tasks._shared import questions as _questions

QUESTIONS = "TextVQA_0.5.1_{}.json"
TOKENS = "TextVQA_Rosetta_OCR_v0.2_{}.json"
FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}
"""Folder of the images of each part."""
OCR = ("none", "tokens")
PARTS = {"train": "train", "validation": "val", "test": "test"}
"""Official names of the parts by their names in the hub copy."""


def load(root: Path, *, max_bad: float = 0.01, part: str = "val", ocr: str = "none") -> Corpus:
    """Read ``TextVQA_0.5.1_<part>.json`` and ``train_images/<image_id>.jpg``.

    ``ocr="tokens"`` adds the words of an OCR system to each question, from
    ``TextVQA_Rosetta_OCR_v0.2_<part>.json``: an easier task with scores that do not compare.
    """
    check_known("part of textvqa", part, FOLDERS)
    check_known("ocr of textvqa", ocr, OCR)

    def read(folder: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
        path = find_file(folder, QUESTIONS.format(part))
        tokens = _tokens(find_file(folder, TOKENS.format(part))) if ocr == "tokens" else None
        for where, row in read_rows(path, "data"):
            id = _questions.field(where, row, "question_id")
            if not row.get("answers"):
                raise UserError(
                    f"{where} has no 'answers': those of test are not public, use "
                    "--data-set part=val."
                )
            image = _questions.field(where, row, "image_id")
            question = _questions.field(where, row, "question")
            if tokens is not None:
                question += f"\nReference OCR token: {', '.join(tokens.get(image, ()))}"
            yield Example(
                f"{_questions.prefix(split)}{id}",
                folder / FOLDERS[part] / f"{image}.jpg",
                question,
                answers=_questions.references(where, row),
                cluster=image,
            )

    notes = {"part": part, "ocr": ocr}
    return _questions.corpus("textvqa", root, read, notes=notes, max_bad=max_bad)


def _tokens(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the words on each image, by its id."""
    rows = _questions.by_key(read_rows(path, "data"), "image_id")
    return {id: _questions.strings(*located, "ocr_tokens") for id, located in rows.items()}


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (image_id, image, question_id, question, answers, ocr_tokens).

    A test part has no answers.
    """
    questions: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    tokens: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        part = PARTS.get(row[official.SPLIT], row[official.SPLIT])
        image = str(official.column(row, "image_id"))
        images = folder / FOLDERS.get(part, "train_images")
        official.write_image(official.column(row, "image"), images, f"{image}.jpg")
        content = {key: official.column(row, key) for key in ("question_id", "question")}
        references = [str(answer) for answer in row.get("answers") or ()]
        if any(references):
            # Absent and not empty, as in the official test file.
            content["answers"] = references
        questions[part].append({"image_id": image, **content})
        # Several questions are about one image: its words are kept once.
        tokens[part][image] = {"image_id": image, "ocr_tokens": list(row.get("ocr_tokens") or ())}
    for part, rows_of_part in questions.items():
        official.write_json(folder / QUESTIONS.format(part), {"data": rows_of_part})
        tokens_of_part = list(tokens[part].values())
        official.write_json(folder / TOKENS.format(part), {"data": tokens_of_part})


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    score = answers.soft(results[0], doc["answers"], answers.normalise_evalai)
    return {"accuracy": (score, 1), "item": metrics.answer_item(doc, results[0])}
