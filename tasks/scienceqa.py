"""ScienceQA: school questions with options, some about an image and some about text only."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.core.readers import read_object
from steelyard.harness.data.reading import build_corpus, find_file
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official, questions

HOMES = (".", "data/scienceqa", "scienceqa")
"""Folders of the two JSON files, searched in this order."""
SPLITS = ("train", "val", "test")
IMAGE, TEXT_ONLY = "image", "text_only"
SUBJECTS = {
    "natural science": "natural_accuracy",
    "social science": "social_accuracy",
    "language science": "language_accuracy",
}
"""Metrics by subject."""


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``problems.json``, ``pid_splits.json`` and ``images/<split>/<id>/image.png``.

    The three splits are the official ones. Questions without an image are the subset
    ``text_only``; the others are the set called IMG.
    """
    path = find_file(root, *(f"{home}/problems.json" for home in HOMES))
    problems, ids = read_object(path), read_object(find_file(path.parent, "pid_splits.json"))
    splits: dict[str, Sequence[Example]] = {}
    for split in SPLITS:
        if not isinstance(ids.get(split), list):
            raise UserError(f"{path.parent / 'pid_splits.json'}: '{split}' must be a list of ids.")
        absent = [id for id in ids[split] if str(id) not in problems]
        if absent:
            raise UserError(
                f"{path} has no problem {absent[0]}, one of {len(absent)} that {split} of "
                "pid_splits.json lists: the two files are of different versions."
            )
        rows = ((str(id), problems[str(id)]) for id in ids[split])
        examples = [_example(path, split, id, row) for id, row in rows]
        # Copies may lack train or val, but a task is scored on test.
        if examples or split == "test":
            splits[split] = examples
    return build_corpus("scienceqa", root, (), splits, notes={"context": "hint"}, max_bad=max_bad)


def _example(path: Path, split: str, id: str, row: Any) -> Example:
    where = f"{path}: problem {id}"
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}.")
    options = questions.strings(where, row, "choices")
    letters = tuple(ascii_uppercase[: len(options)])
    answer = row.get("answer")
    if type(answer) is not int or not 0 <= answer < len(options):
        raise UserError(
            f"{where}: 'answer' must be the index of one of its {len(options)} choices."
        )
    hint = str(row.get("hint") or "").strip()
    question = questions.field(where, row, "question")
    image = None
    if name := row.get("image"):
        image = questions.image_path(path.parent, f"{split}/{id}/{name}", ("images", "."))
    return Example(
        id,
        image,
        f"Context: {hint}\n{question}" if hint else question,
        answers=(letters[answer],),
        choices=letters,
        subset=IMAGE if image else TEXT_ONLY,
        facts={"options": options, "subject": (str(row.get("subject") or ""),)},
    )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (image, question, choices, answer, hint, ...) in the official layout.

    Its rows have no numbers, so they are numbered in order. Only the first configuration is used:
    ScienceQA-IMG, which follows ScienceQA-FULL, is a part of it.
    """
    problems: dict[str, dict[str, Any]] = {}
    ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    first = None
    for row in rows:
        first = first or row[official.CONFIG]
        if row[official.CONFIG] != first:
            continue
        split = {"validation": "val"}.get(row[official.SPLIT], row[official.SPLIT])
        image = official.column(row, "image")
        content = {
            key: official.column(row, key) for key in ("question", "choices", "answer", "hint")
        }
        content["choices"] = [str(option) for option in content["choices"]]
        details = {key: row[key] for key in ("subject", "topic", "grade") if key in row}
        id = str(len(problems) + 1)
        if image is not None:
            official.write_image(image, folder / "images" / split / id, "image.png")
        file = None if image is None else "image.png"
        problems[id] = {**content, **details, "image": file, "split": split}
        ids[split].append(id)
    official.write_json(folder / "problems.json", problems)
    official.write_json(folder / "pid_splits.json", ids)


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    """Build the prompt: context and question are text, the options belong to the instruction."""
    options = zip(doc["choices"], doc["facts"]["options"], strict=True)
    listed = "".join(f"\n{letter}. {option}" for letter, option in options)
    return f"{doc['text'] or ''}{listed}{questions.LETTER}".strip()


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    letter = answers.letter(results[0], doc["choices"])
    right = float(letter == doc["answers"][0])
    subject = SUBJECTS.get(doc["facts"]["subject"][0])
    return {
        "accuracy": (right, 1),
        **({subject: (right, 1)} if subject else {}),
        "unparsed": (letter is None, 1),
        "item": metrics.answer_item(doc, results[0]),
    }
