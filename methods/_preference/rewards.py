"""Rewards of sampled answers by rules: for the right answer, and for its form.

Each reward is 0 or 1. The functions have the signature of TRL's reward functions: keyword lists
with one entry per completion. They return None for rows of the offline stream, which TRL leaves out
of sums and means. They read two data columns: ``solution``, the right answer, None in an offline
row; and ``choices``, all answers that a closed question allows, empty for an open one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from steelyard.harness.core.examples import Example
from steelyard.tasks.answers import exact

Reward = Callable[..., list[float | None]]
PHRASE_WORDS = 3  # an open question can be verified if its answer is at most this long


def verifiable(example: Example) -> bool:
    """Return True if answers can be checked by comparison: closed or short open questions."""
    if example.choices or example.labels:
        return True
    return bool(example.answers) and 0 < len(example.answers[0].split()) <= PHRASE_WORDS


def well_formed(answer: str, choices: Sequence[str], finished: bool) -> bool:
    """Return True if an answer is one of the choices, or one short phrase, and has ended.

    Choices are compared regardless of case, but not normalised: "a red ball." is not "red ball".
    """
    words = answer.strip().casefold()
    if not finished or not words:
        return False
    if choices:
        return words in {choice.casefold() for choice in choices}
    return "\n" not in words and len(words.split()) <= PHRASE_WORDS


def correctness(
    completions: Sequence[Any], solution: Sequence[str | None], **columns: object
) -> list[float | None]:
    """Return 1 for answers that equal the right one after normalisation."""
    return [
        None if right is None else exact(text_of(completion), [right])
        for completion, right in zip(completions, solution, strict=True)
    ]


def formatting(eos_ids: Sequence[int]) -> Reward:
    """Return the reward for the form of an answer; ``eos_ids`` are the tokens that end one."""
    ends = set(eos_ids)

    def form(
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        solution: Sequence[str | None],
        choices: Sequence[Sequence[str]],
        **columns: object,
    ) -> list[float | None]:
        rows = zip(completions, completion_ids, solution, choices, strict=True)
        return [
            None
            if right is None
            else float(well_formed(text_of(completion), allowed, bool(ids) and ids[-1] in ends))
            for completion, ids, right, allowed in rows
        ]

    return form


def text_of(completion: Any) -> str:
    """Return the text of a completion, which TRL passes as a conversation."""
    return str(completion[0]["content"])
