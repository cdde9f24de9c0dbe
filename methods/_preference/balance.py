"""Balance of pairs: no right answer of a closed question may make pairs more often than another.

A filter that compares a mined answer with the truth keeps some right answers and drops others. If
the start model says "yes" without looking, only questions whose answer is "no" keep a pair, and
training on them teaches "no" and not the image. Counts are compared within a question type
(``Example.subset``), relative to the candidates before the filter: data that are uneven themselves
stay as they are.

Every method that filters mined answers calls this module: ``check`` where dropped answers can be
replaced, ``thin`` where they cannot.
"""

import math
from collections import Counter
from collections.abc import Sequence

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.training.train_data import TrainData
from steelyard.tasks.answers import normalise

MOST_SKEW = 3.0
LEAST = 10  # candidates; rates of rarer answers are too noisy to compare

Stratum = tuple[str, str]
"""Question type and right answer of a closed question."""


def strata(data: TrainData, positions: Sequence[int]) -> list[Stratum | None]:
    """Return the stratum of each training example; None for an open question."""
    result: list[Stratum | None] = []
    for position in positions:
        turn = data.turn(position)
        answer = normalise(turn.answer)
        closed = bool(turn.choices) or answer in ("yes", "no")
        result.append((data.examples[position].subset, answer) if closed else None)
    return result


def thin(candidates: Sequence[Stratum | None], survivors: Sequence[int]) -> list[int]:
    """Drop survivors of a filter until all right answers of a type have survived equally often.

    ``survivors`` are indices of ``candidates``; the first ones stay. Each answer keeps the survival
    rate of its type's worst one, rounded up; a type with an answer that never survives is dropped.
    """
    before = Counter(candidates)
    rates = survival(before, Counter(candidates[index] for index in survivors))
    kinds = {kind for kind, _ in rates}
    worst = {kind: min(rates[stratum] for stratum in rates if stratum[0] == kind) for kind in kinds}
    room = {stratum: math.ceil(worst[stratum[0]] * before[stratum]) for stratum in rates}
    result = []
    for index in survivors:
        stratum = candidates[index]
        if stratum in room:
            if not room[stratum]:
                continue
            room[stratum] -= 1
        result.append(index)
    return result


def check(
    meter: Meter, candidates: Sequence[Stratum | None], pairs: Sequence[Stratum | None], hint: str
) -> None:
    """Log the number of pairs by stratum, as ``pairs/TYPE/ANSWER``, and refuse a skew above 3:1.

    ``hint`` says what to set instead.

    Raises:
        UserError: two right answers of a type survived the filter at rates of more than 3:1.
    """
    before, after = Counter(candidates), Counter(pairs)
    rates = survival(before, after)
    meter.log({"pairs/" + "/".join(stratum): float(after[stratum]) for stratum in sorted(rates)})
    for kind in sorted({kind for kind, _ in rates}):
        members = [stratum for stratum in rates if stratum[0] == kind]
        low, high = (pick(members, key=rates.__getitem__) for pick in (min, max))
        # One pair more, because ``thin`` rounds up.
        if after[high] > MOST_SKEW * rates[low] * before[high] + 1:
            most, least = (
                f"{after[stratum]} of {before[stratum]} examples with the right answer "
                f"'{stratum[1]}'"
                for stratum in (high, low)
            )
            raise UserError(
                f"Pairs of '{kind}' questions are one-sided: {most} gave a pair, but {least}, a "
                f"skew of more than {MOST_SKEW:g}:1. {hint}"
            )


def survival(
    before: Counter[Stratum | None], after: Counter[Stratum | None]
) -> dict[Stratum, float]:
    """Return the fraction of candidates that survived, of strata with enough candidates."""
    return {
        stratum: after[stratum] / total
        for stratum, total in before.items()
        if stratum is not None and total >= LEAST
    }
