"""Verified rewards of sampled answers: is it the right one, and is it an answer and nothing else.

Each is 0 or 1, in the signature of TRL's reward functions: keyword lists with one entry a
completion, and None for rows that the reward does not judge (those of another stream), which TRL
leaves out of sums and means. The data columns they read are ``solution`` (the right answer, None in
an offline row) and ``choices`` (all answers a closed question allows; empty where it is open).
"""

from collections.abc import Callable, Sequence
from typing import Any

from steelyard.harness.core.examples import Example
from steelyard.tasks.answers import exact

Reward = Callable[..., list[float | None]]
PHRASE_WORDS = 3  # an open question whose answer is at most this long can be verified


def verifiable(example: Example) -> bool:
    """Whether an answer can be checked by comparison: a closed question or a short open one."""
    if example.choices or example.labels:
        return True
    return bool(example.answers) and 0 < len(example.answers[0].split()) <= PHRASE_WORDS


def well_formed(answer: str, choices: Sequence[str], finished: bool) -> bool:
    """Whether an answer is one of the choices, or one short phrase, and ended there.

    Choices are compared without regard to case, but not normalised: "a red ball." is no choice.
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
    """1 where the answer equals the right one after normalisation."""
    return [
        None if right is None else exact(spoken(completion), [right])
        for completion, right in zip(completions, solution, strict=True)
    ]


def formatting(eos_ids: Sequence[int]) -> Reward:
    """The reward for the form of an answer, given the tokens that end one."""
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
            else float(well_formed(spoken(completion), allowed, bool(ids) and ids[-1] in ends))
            for completion, ids, right, allowed in rows
        ]

    return form


def spoken(completion: Any) -> str:
    """The text of a conversational completion, as TRL hands it over."""
    return str(completion[0]["content"])
