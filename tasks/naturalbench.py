"""NaturalBench: two questions about two images, with opposite answers on them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.harness.data.reading import find_file
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import official, questions

FILE = "naturalbench.jsonl"
SUFFIXES = {
    "yes_no": "Please answer Yes or No.",
    "multiple_choice": "Please output the letter corresponding to the correct option.",
}
"""The official instruction by type of question."""
LABELS = {"yes_no": ("Yes", "No"), "multiple_choice": ("A", "B")}
OPTIONS = re.compile(r"(?:\s+Options?\s*:?)?\s*\(?\bA\s*[:.)].*\bB\s*[:.)].*", re.DOTALL)
"""Options at the end of a question: a mark of A that a mark of B follows."""
ITEMS = tuple((question, image) for question in (0, 1) for image in (0, 1))
"""Question and image of a group's four items, in the order of the hub copy with one item a row."""


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``naturalbench.jsonl``: columns of the hub's copy, with images as files in ``images``.

    Columns and instructions are those of the authors' ``naturalbench_vqa.py``. A line is a
    group: Index, Question_Type, Question_0, Question_1, Image_0, Image_1, and the answers
    Image_0_Question_0 to Image_1_Question_1. Subsets are the two types of question.
    """
    return questions.corpus(
        "naturalbench", root, _examples, notes={}, max_bad=max_bad, by_cluster=True
    )


def _examples(root: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
    rows = read_rows(find_file(root, FILE))
    for where, row, question, image in ((*row, *item) for row in rows for item in ITEMS):
        # Copies differ in the column's name.
        column = "Question_Type" if "Question_Type" in row else "Question Type"
        kind = questions.one_of(where, row, column, LABELS)
        group = f"{questions.prefix(split)}{questions.field(where, row, 'Index')}"
        key = f"Image_{image}_Question_{question}"
        label = str(row.get(key)).strip().capitalize()
        if label not in LABELS[kind]:
            allowed = " or ".join(LABELS[kind])
            raise UserError(f"{where}: '{key}' is {row.get(key)!r}, allowed are {allowed}.")
        text, options = questions.field(where, row, f"Question_{question}"), ""
        if kind == "multiple_choice" and (match := OPTIONS.search(text)):
            # Options are instruction, which no corruption may change.
            text, options = text[: match.start()], text[match.start() :]
        yield Example(
            f"{group}/q{question}_i{image}",
            questions.image_path(root, questions.field(where, row, f"Image_{image}")),
            text,
            answers=(label,),
            choices=LABELS[kind],
            subset=kind,
            cluster=group,
            facts={"options": (options,), "place": (str(question), str(image))},
        )


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy as one line a group: BaiqiL/NaturalBench, or a copy with one item a row.

    The latter (Index, Image, Question, Answer, Question_Type) has four successive numbers a group.
    """
    groups: dict[int, dict[str, Any]] = {}
    for row in rows:
        index = int(official.column(row, "Index"))
        has_group = "Question_0" in row
        number = index if has_group else index // len(ITEMS)
        group = groups.setdefault(number, {"Index": number})
        group["Question_Type"] = official.column(row, "Question_Type", "Question Type")
        items = ITEMS if has_group else (ITEMS[index % len(ITEMS)],)
        for question, image in items:
            key = f"Image_{image}_Question_{question}"
            text = official.column(row, f"Question_{question}", "Question")
            group[f"Question_{question}"] = text
            group[key] = official.column(row, key, "Answer")
            group[f"Image_{image}"] = name = f"{number}_{image}.jpg"
            content = official.column(row, f"Image_{image}", "Image")
            official.write_image(content, folder / "images", name)
    official.write_lines(folder / FILE, groups.values())


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    """Add the options and the official instruction to the question."""
    question = f"{doc['text'] or ''}{doc['facts']['options'][0]}"
    return f"{question} {SUFFIXES[doc['subset']]}".strip()


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one answer by the official rule: its first label."""
    label = answers.first_of(results[0], doc["choices"])
    right = float(label == doc["answers"][0])
    question, image = doc["facts"]["place"]
    group = doc["cluster"]
    return {
        "group_accuracy": (group, right),
        "question_accuracy": (f"{group}/q{question}", right),
        "image_accuracy": (f"{group}/i{image}", right),
        "accuracy": (right, 1),
        "unparsed": (label is None, 1),
        "item": metrics.answer_item(doc, results[0]),
    }
