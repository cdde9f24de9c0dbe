"""The training pool of the generative track: questions and captions, scored by exact match."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.data.reading import build_corpus, find_file, read_json_lines
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import questions

CAPTION = "caption"
"""Kind of a row whose question is the whole instruction and whose answer is a sentence."""
PLAIN = "question"
"""Kind of a row that names none."""


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``train.jsonl``, ``val.jsonl`` and ``test.jsonl``, where there is one.

    Rows have id, image (null for none), question, answer, and may have choices and kind.

    Raises:
        UserError: files are missing or malformed, or what ``build_corpus`` checks.
    """
    paths = {split: find_file(root, f"{split}.jsonl") for split in ("train", "val")}
    if (root / "test.jsonl").is_file():
        paths["test"] = root / "test.jsonl"
    return build_corpus(
        "instruct",
        root,
        (),
        {split: list(_examples(root, path)) for split, path in paths.items()},
        multi_label=False,
        skipped=(),
        notes={},
        max_bad=max_bad,
    )


def _examples(root: Path, path: Path) -> Iterator[Example]:
    for where, row in read_json_lines(path):
        asked = questions.field(where, row, "question")
        kind = questions.field(where, row, "kind") if row.get("kind") else PLAIN
        caption = kind == CAPTION
        image, name = questions.pictures(where, root, row)
        yield Example(
            questions.field(where, row, "id"),
            image,
            None if caption else asked,
            (),
            answers=(questions.field(where, row, "answer"),),
            choices=questions.strings(where, row, "choices"),
            subset=kind,
            cluster=name,
            # An instruction alone: there is no evidence in it that a corruption could take away.
            facts={"instruction": (asked,)} if caption else {},
        )


def doc_to_text(doc: metrics.Question) -> str:
    """Prompt of a row: a caption's instruction as it is, any other question with the usual one."""
    return doc["facts"].get("instruction", (questions.prompt(doc),))[0]


def doc_to_target(doc: metrics.Question) -> str:
    """Right answer of a row."""
    return questions.first_answer(doc)


def process_results(doc: metrics.Question, results: Sequence[str]) -> metrics.Shares:
    """Score one answer; captions have no share, for no two people write the same one."""
    counted = doc["subset"] != CAPTION
    right = answers.exact(results[0], doc["answers"]) if counted else 0
    return {"accuracy": (right, counted), "item": metrics.answered(doc, results[0])}
