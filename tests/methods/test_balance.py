"""Balance of pairs by question type and right answer, by hand and with a model that says yes."""

from dataclasses import replace
from typing import Any

import numpy as np
import preference_toy as toy
import pytest

from steelyard.harness.budget.meter import Budget, Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.training.train_data import TrainData
from steelyard.methods._preference import balance, negatives
from steelyard.methods._preference.balance import Stratum
from steelyard.methods._preference.negatives import PairOptions

YES, NO = ("exists", "yes"), ("exists", "no")
RED, BLUE, GREEN = (("colour", name) for name in ("red", "blue", "green"))


@pytest.fixture(scope="module")
def backbone() -> Vlm:
    return toy.load(toy.random_base())


def questions(backbone: Vlm, answers: list[str], choices: tuple[str, ...]) -> TrainData:
    """Return training data with these right answers to questions of one type."""
    data = toy.data(backbone, len(answers), 0)
    examples = tuple(
        replace(example, answers=(answer,), choices=choices, subset="exists")
        for example, answer in zip(data.examples, answers, strict=True)
    )

    def turn(position: int) -> Any:
        answer = examples[position].answers[0]
        return replace(data.turn(position), answer=answer, choices=choices)

    return replace(data, examples=examples, turn=turn)


def test_survivors_are_thinned_to_the_rate_of_the_rarest_answer() -> None:
    candidates: list[Stratum | None] = [YES] * 20 + [NO] * 40 + [RED] * 10 + [BLUE] * 10 + [None]
    # 4 of 20, 24 of 40, 10 of 10, none of 10, and an open question.
    survivors = [*range(4), *range(20, 44), *range(60, 70), 80]
    expected = [*range(4), *range(20, 28), 80]  # a fifth of either; no colour that is balanced
    assert balance.thin(candidates, survivors) == expected
    # Ten candidates are needed to know a rate: nothing is dropped for a rare answer.
    few: list[Stratum | None] = [GREEN] * 9 + [RED] * 10
    assert balance.thin(few, [9, 10, 11]) == [9, 10, 11]


@pytest.mark.parametrize("seed", range(20))
def test_thinned_survivors_are_never_refused(seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes, rates = draw.integers(1, 200, 5), draw.random(5) ** 3
    kinds = [("exists", str(index)) for index in range(5)]
    candidates = [kind for kind, size in zip(kinds, sizes, strict=True) for _ in range(size)]
    chance = [rates[int(answer)] for _, answer in candidates]
    survivors = np.flatnonzero(draw.random(len(chance)) < chance).tolist()
    thinned = balance.thin(candidates, survivors)
    assert set(thinned) <= set(survivors)
    balance.check(Meter(Budget("x"), "cpu"), candidates, [candidates[i] for i in thinned], "")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([YES] * 10 + [NO] * 60, None),  # as uneven as the data
        ([YES] * 5 + [NO] * 60, None),
        (
            [YES] * 3 + [NO] * 60,
            r"60 of 60 examples with the right answer 'no' gave a pair, but 3 of 10 .* 'yes'",
        ),
        ([YES] * 10, r"10 of 10 .* 'yes' gave a pair, but 0 of 60 .* 'no', .* more than 3:1. Do x"),
    ],
)
def test_a_filter_that_favours_an_answer_is_refused(
    pairs: list[Stratum | None], message: str | None
) -> None:
    meter = Meter(Budget("x"), "cpu")
    candidates: list[Stratum | None] = [YES] * 10 + [NO] * 60 + [None] * 50
    if message is None:
        balance.check(meter, candidates, pairs, "Do x.")
    else:
        with pytest.raises(UserError, match=message) as refused:
            balance.check(meter, candidates, pairs, "Do x.")
        assert "\n" not in str(refused.value)
    table = {"pairs/exists/yes": pairs.count(YES), "pairs/exists/no": pairs.count(NO)}
    assert meter.diagnostics == table
    assert meter.history == [{"step": 1, "flops": 0.0, **table}]  # the first row of the log


@pytest.mark.parametrize("choices", [("yes", "no"), ()])
@pytest.mark.parametrize("word", ["yes", "no"])
def test_a_model_with_one_answer_makes_no_one_sided_pairs(
    backbone: Vlm, monkeypatch: pytest.MonkeyPatch, word: str, choices: tuple[str, ...]
) -> None:
    data = questions(backbone, ["yes", "no"] * 20, choices)
    monkeypatch.setattr(negatives, "mined_answers", lambda b, d, m, positions, o: [word] * 40)
    meter = toy.metered(backbone, 1e12)
    pairs = negatives.make_pairs(backbone, data, meter, PairOptions("no_image"), seed=0)
    assert [pair.chosen for pair in pairs].count("yes") == 20 == len(pairs) / 2
    assert all(pair.rejected != pair.chosen for pair in pairs)
    assert meter.diagnostics["dropped_equal"] == 20
    with pytest.raises(UserError, match=r"one-sided: 20 of 20 .* but 0 of 20 .* Set refill=true"):
        negatives.make_pairs(backbone, data, meter, PairOptions("no_image", refill=False), seed=0)


def test_pairs_of_the_data_are_no_exception(backbone: Vlm) -> None:
    data = questions(backbone, ["yes", "no"] * 20, ("yes", "no"))
    examples = [replace(e, rejected="no") if e.answers == ("yes",) else e for e in data.examples]
    data = replace(data, examples=tuple(examples))
    meter = toy.metered(backbone, 1e12)
    with pytest.raises(UserError, match=r"one-sided: 20 of 20 .* but 0 of 20 .* Add pairs, or"):
        negatives.make_pairs(backbone, data, meter, PairOptions("data"), seed=0)


def test_open_questions_may_lose_any_answer(backbone: Vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    data = questions(backbone, ["red", "a cup"] * 20, ())
    monkeypatch.setattr(negatives, "mined_answers", lambda b, d, m, positions, o: ["red"] * 40)
    meter = toy.metered(backbone, 1e12)
    options = PairOptions("no_image", refill=False)
    pairs = negatives.make_pairs(backbone, data, meter, options, seed=0)
    assert {pair.chosen for pair in pairs} == {"a cup"}


def test_the_stratum_is_the_type_and_the_right_answer(backbone: Vlm) -> None:
    data = questions(backbone, ["Yes.", "no", "yes"], ("yes", "no"))
    assert balance.strata(data, [0, 2, 1]) == [YES, YES, NO]
