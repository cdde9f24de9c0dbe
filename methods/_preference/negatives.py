"""Wrong answers to prefer the right one to: drawn at random, or given when the image is damaged.

``random_answer``  another choice of a closed question; of an open one the answer to another
                   question of its part of the data (``Example.subset``). No image is looked at.
``blank_image``    what the start model says when the image is one even grey.
``no_image``       what it says when the prompt holds no image: its language prior.
``noise_image``    what it says when the image carries Gaussian noise of a severity from 1 to 5.

A mined answer that equals a right one makes no pair, nor does one that is empty or had not ended
at ``max_answer_tokens``; both are counted, as ``dropped_equal`` and ``dropped_none``. What is left
are the examples the damage matters to, a biased part of the data: a model trained on them alone
can unlearn the usual answer where it is right. ``refill`` keeps such examples, with a random wrong
answer.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference.trl_data import Pair
from steelyard.tasks.answers import normalise
from steelyard.tasks.corruptions import SEVERITIES, corrupt

Negatives = Literal["random_answer", "blank_image", "no_image", "noise_image"]
GREY = (127, 127, 127)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the wrong answers come from."""

    negatives: Negatives
    severity: int = 3
    """Of ``noise_image``, 1 to 5."""
    limit: int = 1024
    """Training examples to make pairs of, at most; a random part where there are more."""
    refill: bool = False
    """A random wrong answer where the mined one is no use."""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise UserError(f"severity={self.severity}: give a whole number from 1 to 5.")
        if self.limit < 1:
            raise UserError(f"max_pairs={self.limit}: give at least 1.")


def make_pairs(
    backbone: Vlm, data: TrainData, meter: Meter, source: Source, seed: int
) -> tuple[Pair, ...]:
    """Right and wrong answers of up to ``source.limit`` examples, in random order.

    Generation is charged to the phase ``mine``.

    Raises:
        UserError: no example gives a pair.
    """
    order = np.random.default_rng(seed_for(seed, "preferences", "order")).permutation(len(data))
    chosen = order.tolist()
    if source.negatives == "random_answer":
        chosen = chosen[: source.limit]
        wrong = random_answers(data, chosen, seed)
    else:
        chosen = [i for i in chosen if data.examples[i].image is not None][: source.limit]
        with meter.phase("mine"):
            wrong = mined_answers(backbone, data, chosen, source)
    spare = random_answers(data, chosen, seed) if source.refill else [None] * len(chosen)
    pairs, dropped = [], dict.fromkeys(("equal", "none"), 0.0)
    for position, answer, other in zip(chosen, wrong, spare, strict=True):
        fault = _fault(data, position, answer)
        if fault:
            dropped[fault] += 1
        kept = other if fault else answer
        if kept is not None:
            pairs.append(Pair(position, data.turn(position).answer, kept))
    meter.log({"pairs": float(len(pairs))} | {f"dropped_{k}": v for k, v in dropped.items()})
    if not pairs:
        raise UserError(
            f"negatives={source.negatives} gave no wrong answer to {len(chosen)} example(s): "
            "choose other negatives, a higher severity or more data."
        )
    return tuple(pairs)


def _fault(data: TrainData, position: int, answer: str | None) -> Literal["equal", "none"] | None:
    """Why an answer cannot be the wrong one of a pair."""
    if answer is None or not normalise(answer):
        return "none"
    right = (data.turn(position).answer, *data.examples[position].answers)
    return "equal" if normalise(answer) in map(normalise, right) else None


def random_answers(data: TrainData, positions: Sequence[int], seed: int) -> list[str | None]:
    """Another choice, or the answer of another question of the same part; None if there is none.

    The draw depends on the example's id alone, not on which others are drawn.
    """
    by_part: dict[str, dict[str, None]] = defaultdict(dict)  # a dict keeps the order, a set not
    for example in data.examples:
        if example.answers and not example.choices:
            by_part[example.subset][example.answers[0]] = None
    drawn: list[str | None] = []
    for position in positions:
        turn, example = data.turn(position), data.examples[position]
        taken = {normalise(turn.answer), *map(normalise, example.answers)}
        offered = turn.choices or tuple(by_part[example.subset])
        left = [answer for answer in offered if normalise(answer) not in taken]
        generator = np.random.default_rng(seed_for(seed, "random answer", example.id))
        drawn.append(left[int(generator.integers(len(left)))] if left else None)
    return drawn


def mined_answers(
    backbone: Vlm, data: TrainData, positions: Sequence[int], source: Source
) -> list[str | None]:
    """What the model says to each example when its image is damaged; None where it did not end.

    Greedy, in batches of the recipe's size.
    """
    size, longest = backbone.recipe.batch_size, backbone.config.max_answer_tokens
    said: list[str | None] = []
    for start in range(0, len(positions), size):
        corrupted = [
            corruption(data.turn(i).inputs, source, data.examples[i].id)
            for i in positions[start : start + size]
        ]
        for ids in backbone.continuations(backbone.collate(corrupted), longest):
            said.append(backbone.decode(ids) if ids[-1:] == [backbone.eos_id] else None)
    return said


def corruption(inputs: Inputs, source: Source, key: str) -> Inputs:
    """The inputs with their image blanked, removed or noisy."""
    assert inputs.image is not None
    if source.negatives == "no_image":
        return replace(inputs, image=None)
    if source.negatives == "blank_image":
        return replace(inputs, image=Image.new("RGB", inputs.image.size, GREY))
    # A key of its own, so that training never sees the very noise that evaluation adds.
    noisy = corrupt(
        "image-noise", source.severity, f"mined {key}", inputs, lambda generator: inputs
    )
    return replace(inputs, image=noisy.image)
