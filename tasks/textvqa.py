"""TextVQA: questions that need the writing in a photo to be read."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.data.reading import find_file, read_json
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official
from steelyard.tasks._shared import questions as _questions

QUESTIONS = "TextVQA_0.5.1_{}.json"
TOKENS = "TextVQA_Rosetta_OCR_v0.2_{}.json"
FOLDERS = {"train": "train_images", "val": "train_images", "test": "test_images"}
"""Where the images of a part lie."""
OCR = ("none", "tokens")
PARTS = {"train": "train", "validation": "val", "test": "test"}
"""Official names of the parts, by those of the hub copy."""


def load(root: Path, *, max_bad: float = 0.01, part: str = "val", ocr: str = "none") -> Corpus:
    """Read ``TextVQA_0.5.1_<part>.json`` and ``train_images/<image_id>.jpg``.

    ``ocr="tokens"`` adds the words that an OCR system found to each question, from
    ``TextVQA_Rosetta_OCR_v0.2_<part>.json``: an easier task whose scores are not comparable.

    Raises:
        UserError: files are missing or malformed, the part has no answers, or what
            ``build_corpus`` checks.
    """
    if part not in FOLDERS:
        raise unknown("part of textvqa", part, FOLDERS)
    if ocr not in OCR:
        raise unknown("ocr of textvqa", ocr, OCR)

    def read(folder: Path, skipped: list[Skipped], split: str) -> list[Example]:
        path = find_file(folder, QUESTIONS.format(part))
        found = _tokens(find_file(folder, TOKENS.format(part))) if ocr == "tokens" else None
        return [_example(folder, path, row, part, split, found) for row in _rows(path)]

    notes = {"part": part, "ocr": ocr}
    return _questions.corpus("textvqa", root, read, notes=notes, max_bad=max_bad)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    content = read_json(path)
    rows = content.get("data") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: 'data' must be a list of objects.")
    return rows


def _tokens(path: Path) -> dict[str, tuple[str, ...]]:
    """Words found on each image."""
    rows = _rows(path)
    return {
        _questions.field(f"{path}: row {number}", row, "image_id"): _questions.strings(
            f"{path}: row {number}", row, "ocr_tokens"
        )
        for number, row in enumerate(rows, start=1)
    }


def _example(
    root: Path,
    path: Path,
    row: Mapping[str, Any],
    part: str,
    split: str,
    found: Mapping[str, Sequence[str]] | None,
) -> Example:
    id = _questions.field(str(path), row, "question_id")
    where = f"{path}: question {id}"
    if not row.get("answers"):
        raise UserError(
            f"{where} has no 'answers': those of test are not public, use --data-set part=val."
        )
    image = _questions.field(where, row, "image_id")
    question = _questions.field(where, row, "question")
    if found is not None:
        question += f"\nReference OCR token: {', '.join(found.get(image, ()))}"
    return Example(
        f"{_questions.prefix(split)}{id}",
        root / FOLDERS[part] / f"{image}.jpg",
        question,
        (),
        answers=_questions.strings(where, row, "answers"),
        cluster=image,
    )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (image_id, image, question_id, question, answers, ocr_tokens) as published.

    A test part has no answers.
    """
    asked: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    tokens: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        part = PARTS.get(row[official.SPLIT], row[official.SPLIT])
        image = str(official.column(row, "image_id"))
        place = FOLDERS.get(part, "train_images")
        official.write_image(official.column(row, "image"), folder / place, f"{image}.jpg")
        content = {key: official.column(row, key) for key in ("question_id", "question")}
        given = [str(answer) for answer in row.get("answers") or ()]
        known = {"answers": given} if any(given) else {}
        asked[part].append({"image_id": image, **content, **known})
        tokens[part][image] = {"image_id": image, "ocr_tokens": list(row.get("ocr_tokens") or ())}
    for part, questions in asked.items():
        official.write_json(folder / QUESTIONS.format(part), {"data": questions})
        found = list(tokens[part].values())
        official.write_json(folder / TOKENS.format(part), {"data": found})


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row."""
    return _questions.prompt(doc)


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row: the one given most often."""
    return _questions.usual_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer by its agreement with the ten."""
    score = answers.soft(results[0], doc["answers"], answers.normalise_evalai)
    return {"accuracy": (score, 1), "item": metrics.answered(doc, results[0])}
