"""Wrong answers of preference pairs: random ones, the data's, or the model's to a corrupted image.

``random_answer``  another choice of a closed question; for an open one the answer to another
                   question of the same ``Example.subset``. No image is needed.
``data``           the ``rejected`` answer of each example that has one (``Example.rejected``).
``blank_image``    the start model's answer to a uniformly grey image.
``no_image``       its answer to the prompt without an image: the language prior.
``noise_image``    its answer to the image with Gaussian noise of a severity from 1 to 5.

A mined answer is dropped if it equals a right one (logged as ``dropped_equal``), or if it is empty
or has not ended at ``max_answer_tokens`` (``dropped_none``). The remaining examples are a biased
subset: if the model says "yes" without the image, every existence question that remains has the
right answer "no". ``refill`` keeps the other examples, with a random wrong answer.

The number of pairs by question type and right answer is logged, and pairs are refused if a filter
favours a right answer (``methods/_preference/balance.py``).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from PIL import Image

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Inputs
from steelyard.harness.core.options import require
from steelyard.harness.core.progress import console
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.generation import continuations
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import balance
from steelyard.methods._preference.trl_data import AnswerPair
from steelyard.tasks.answers import normalise, without_reasoning
from steelyard.tasks.corruptions import SEVERITIES, corrupt

Negatives = Literal["random_answer", "data", "blank_image", "no_image", "noise_image"]
GREY = (127, 127, 127)  # middle of the range: neither dark nor bright


@dataclass(frozen=True, slots=True)
class PairOptions:
    """Options of every method that trains on pairs; the method's ``Config`` extends them."""

    negatives: Negatives = "random_answer"
    """One default for all methods, so that a board compares losses. It drops no example and costs
    nothing; on the generated world it scores as ``no_image`` does."""
    severity: int = 3
    """Severity of ``noise_image``, 1 to 5."""
    max_pairs: int = 1024
    """Maximum number of training examples to make pairs of, drawn at random; the data's own pairs
    are all used."""
    refill: bool = True
    """Take a random wrong answer if the mined one is dropped, and keep the example."""
    beta: float = 0.1
    """Strength of the pull towards the start model."""
    weights: ClassVar[tuple[str, ...]] = ()
    """Options of the method that are weights of its loss."""

    def __post_init__(self) -> None:
        require(self, "severity", self.severity in SEVERITIES, "a whole number from 1 to 5")
        require(self, "max_pairs", self.max_pairs >= 1, "at least 1")
        require(self, "beta", self.beta > 0, "a number above 0")
        for name in self.weights:
            require(self, name, getattr(self, name) >= 0, "a weight of at least 0")

    def check_data(self, examples: Sequence[Example]) -> None:
        """Refuse data without pairs where they are asked for; print a hint if pairs are not used.

        The harness calls it before any run begins.
        """
        count = sum(bool(example.rejected) for example in examples)
        if self.negatives == "data" and not count:
            raise UserError(
                f"negatives=data: none of {len(examples)} training rows has a 'rejected' answer; "
                "add them, or choose other negatives, such as random_answer."
            )
        if self.negatives != "data" and count:
            console.print(
                f"{count} of {len(examples)} training rows have a 'rejected' answer that "
                f"negatives={self.negatives} does not use: --set negatives=data trains on them.",
            )


def make_pairs(
    backbone: Vlm, data: TrainData, meter: Meter, options: PairOptions, seed: int
) -> tuple[AnswerPair, ...]:
    """Return right and wrong answers of up to ``max_pairs`` examples, in random order.

    Generation is charged to the phase ``mine``.

    Raises:
        UserError: no example gives a pair, or examples with one right answer give them more often
            than those with another.
    """
    generator = np.random.default_rng(seed_for(seed, "preferences", "order"))
    candidates = positions = generator.permutation(len(data)).tolist()
    if options.negatives == "data":
        positions = [i for i in positions if data.examples[i].rejected]
        answers: list[str | None] = [data.examples[i].rejected for i in positions]
    elif options.negatives == "random_answer":
        candidates = positions = positions[: options.max_pairs]
        answers = random_answers(data, positions, seed)
    else:
        # Before the cut, so that items without an image take no part of ``max_pairs``.
        positions = [i for i in positions if data.examples[i].image is not None]
        candidates = positions = positions[: options.max_pairs]
        with meter.phase("mine"):
            answers = mined_answers(backbone, data, meter, positions, options)
    refill = random_answers(data, positions, seed) if options.refill else [None] * len(positions)
    pairs, dropped = [], dict.fromkeys(("equal", "none"), 0.0)
    for position, answer, substitute in zip(positions, answers, refill, strict=True):
        # Pairs of the data may differ in form alone.
        fault = None if options.negatives == "data" else _fault(data, position, answer)
        if fault:
            dropped[fault] += 1
        rejected = substitute if fault else answer
        if rejected is not None:
            pairs.append(AnswerPair(position, data.turn(position).answer, rejected))
    meter.log({"pairs": float(len(pairs))} | {f"dropped_{k}": v for k, v in dropped.items()})
    if not pairs:
        raise UserError(
            f"negatives={options.negatives} gave no wrong answer to {len(positions)} example(s): "
            "choose other negatives, a higher severity or more data."
        )
    strata = dict(zip(candidates, balance.strata(data, candidates), strict=True))
    choose = "Add pairs" if options.negatives == "data" else "Set refill=true"
    hint = f"{choose}, or choose negatives=random_answer."
    balance.check(meter, [*strata.values()], [strata[pair.position] for pair in pairs], hint)
    return tuple(pairs)


def _fault(data: TrainData, position: int, answer: str | None) -> Literal["equal", "none"] | None:
    if answer is None or not normalise(answer):
        return "none"
    right = (data.turn(position).answer, *data.examples[position].answers)
    return "equal" if normalise(answer) in map(normalise, right) else None


def random_answers(data: TrainData, positions: Sequence[int], seed: int) -> list[str | None]:
    """Return for each example another choice, or the answer to another question of its subset.

    None if there is no such answer. The draw depends on the example's id, not on ``positions``.
    """
    # Values of a dictionary, not of a set, so that the order of answers is the same in every run.
    by_subset: dict[str, dict[str, None]] = defaultdict(dict)
    for example in data.examples:
        if example.answers and not example.choices:
            by_subset[example.subset][example.answers[0]] = None
    answers: list[str | None] = []
    for position in positions:
        turn, example = data.turn(position), data.examples[position]
        right = {normalise(turn.answer), *map(normalise, example.answers)}
        choices = turn.choices or tuple(by_subset[example.subset])
        wrong = [answer for answer in choices if normalise(answer) not in right]
        generator = np.random.default_rng(seed_for(seed, "random answer", example.id))
        answers.append(wrong[int(generator.integers(len(wrong)))] if wrong else None)
    return answers


def mined_answers(
    backbone: Vlm, data: TrainData, meter: Meter, positions: Sequence[int], options: PairOptions
) -> list[str | None]:
    """Generate greedy answers to corrupted examples; None for an answer that has not ended."""
    size, max_tokens = backbone.recipe.batch_size, backbone.config.max_answer_tokens

    def answer(start: int) -> list[str | None]:
        inputs = [
            corrupted_inputs(data.turn(i).inputs, options, data.examples[i].id)
            for i in positions[start : start + size]
        ]
        answers: list[str | None] = []
        for ids in continuations(backbone, meter, backbone.collate(inputs), max_tokens):
            text = without_reasoning(backbone.decode(ids))
            answers.append(text if ids[-1] in backbone.eos_ids else None)
        return answers

    batches = meter.checkpoints.collect("answers", range(0, len(positions), size), answer)
    return [answer for batch in batches for answer in batch]


def corrupted_inputs(inputs: Inputs, options: PairOptions, item: str) -> Inputs:
    """Return the inputs of an item with the image blanked, removed or noisy."""
    assert inputs.image is not None
    if options.negatives == "no_image":
        return replace(inputs, image=None)
    if options.negatives == "blank_image":
        return replace(inputs, image=Image.new("RGB", inputs.image.size, GREY))
    return with_noise(inputs, options.severity, f"mined {item}")


def with_noise(inputs: Inputs, severity: int, key: str) -> Inputs:
    """Return the inputs with noise on the image.

    Evaluation seeds its noise with the item's id alone; ``key`` must be another text, so that
    training does not see the same noise.
    """
    # Noise takes nothing from a donor, so the last argument is never called.
    noisy = corrupt("image-noise", severity, key, inputs, lambda generator: inputs)
    return replace(inputs, image=noisy.image)
