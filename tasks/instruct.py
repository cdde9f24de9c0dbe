"""Training pool of the generative track: questions and captions, scored by exact match."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.data.reading import build_corpus, find_file, read_json_lines
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import questions

CAPTION = "caption"
"""Kind of a row whose question is an instruction and whose answer is a sentence."""
PLAIN = "question"
"""Kind of a row without ``kind``."""


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``train.jsonl``, ``val.jsonl`` and, if it exists, ``test.jsonl``.

    Rows have id, image (null for none), question, answer, and may have choices and kind.
    """
    paths = {split: find_file(root, f"{split}.jsonl") for split in ("train", "val")}
    if (root / "test.jsonl").is_file():
        paths["test"] = root / "test.jsonl"
    return build_corpus(
        "instruct",
        root,
        (),
        {split: list(_examples(root, path)) for split, path in paths.items()},
        notes={},
        max_bad=max_bad,
    )


def _examples(root: Path, path: Path) -> Iterator[Example]:
    for where, row in read_json_lines(path):
        question = questions.field(where, row, "question")
        kind = questions.field(where, row, "kind") if row.get("kind") else PLAIN
        caption = kind == CAPTION
        image, name = questions.image_of(where, root, row)
        yield Example(
            questions.field(where, row, "id"),
            image,
            None if caption else question,
            answers=(questions.field(where, row, "answer"),),
            choices=questions.strings(where, row, "choices"),
            subset=kind,
            cluster=name,
            # Only an instruction: it has no text that a corruption could change.
            facts={"instruction": (question,)} if caption else {},
        )


def doc_to_text(doc: metrics.QuestionDoc) -> str:
    """Return a caption's instruction, or a question with the instruction for short answers."""
    return doc["facts"].get("instruction", (questions.prompt(doc),))[0]


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    """Score one answer; captions do not count, for no two people write the same one."""
    counted = doc["subset"] != CAPTION
    right = answers.exact(results[0], doc["answers"]) if counted else 0
    return {"accuracy": (right, counted), "item": metrics.answer_item(doc, results[0])}
