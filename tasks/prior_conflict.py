"""Colour questions where language prior and image agree, and where they do not."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.readers import read_rows
from steelyard.harness.data.reading import find_file
from steelyard.tasks import answers, metrics
from steelyard.tasks._shared import questions

FILE = "questions.jsonl"
AGREEING = "in_prior"
HELD_OUT = "held_out"
SUBSETS = (AGREEING, "counter_prior", HELD_OUT)
"""The answer follows the language prior; it does not; it does not and is new to training."""


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read ``questions.jsonl``: id, image, question, answer, prior, subset and choices."""
    return questions.corpus("prior_conflict", root, _examples, notes={}, max_bad=max_bad)


def _examples(root: Path, skipped: list[Skipped], split: str) -> Iterator[Example]:
    for where, row in read_rows(find_file(root, FILE)):
        words = {key: questions.field(where, row, key) for key in ("question", "answer", "prior")}
        choices = questions.strings(where, row, "choices")
        for key in ("answer", "prior"):
            if words[key] not in choices:
                raise UserError(f"{where}: {key} '{words[key]}' is not one of the choices.")
        subset = questions.one_of(where, row, "subset", SUBSETS)
        if (words["answer"] == words["prior"]) != (subset == AGREEING):
            raise UserError(f"{where}: answer and prior do not match subset '{subset}'.")
        image, name = questions.image_of(where, root, row)
        yield Example(
            f"{questions.prefix(split)}{questions.field(where, row, 'id')}",
            image,
            words["question"],
            answers=(words["answer"],),
            choices=choices,
            subset=subset,
            cluster=name,
            facts={"prior": (words["prior"],)},
        )


def process_results(doc: metrics.QuestionDoc, results: Sequence[str]) -> metrics.AnswerScores:
    choice = answers.choice(results[0], doc["choices"])
    correct = choice == doc["answers"][0]
    agreeing, held_out = doc["subset"] == AGREEING, doc["subset"] == HELD_OUT
    return {
        # Held-out items count as counter-prior too.
        "counter_prior": (correct and not agreeing, not agreeing),
        "held_out": (correct and held_out, held_out),
        "in_prior": (correct and agreeing, agreeing),
        "prior_following": (not agreeing and choice == doc["facts"]["prior"][0], not agreeing),
        "accuracy": (correct, 1),
        "invalid": (choice is None, 1),
        "item": metrics.answer_item(doc, results[0]),
    }
