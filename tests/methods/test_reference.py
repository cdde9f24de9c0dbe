"""The start model's log-probabilities of pairs: computed once, charged once, equal to uncached."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import preference_toy as toy
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.vlm import Vlm
from steelyard.methods import dpo, kto, mdpo, mpo
from steelyard.methods._preference import negatives, trl
from steelyard.methods._preference.head import score_answers

COUNT, SIZE, BETA = 12, 4, 0.5
METHODS: dict[str, Any] = {"dpo": dpo, "mpo": mpo, "mdpo": mdpo, "kto": kto}


def shaken(backbone: Vlm, seed: int) -> Vlm:
    """Move the trainable weights, so that neither an adapter nor a difference is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return backbone


def start_model(tune: str) -> Vlm:
    return shaken(toy.load(toy.random_base(), tune, batch_size=SIZE), seed=0)


def inside(
    monkeypatch: pytest.MonkeyPatch, method: Any, tune: str, check: Callable[[Any, Vlm], None]
) -> None:
    """Call ``check`` with the trainer and the backbone, instead of training."""
    calls = []

    def instead(trainer: Any, backbone: Vlm, meter: Any, **counts: Any) -> None:
        calls.append(meter.ledger("finished").flops)
        check(trainer, backbone.eval())

    monkeypatch.setattr(trl, "run", instead)
    backbone = start_model(tune)
    meter = toy.metered(backbone, 1e12)
    with meter:
        data = toy.data(backbone, COUNT, 3)
        method.train(backbone, data, meter, method.Config(beta=BETA), 0)
    assert [list(flops) for flops in calls] == [["reference"]]


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("name", METHODS)
def test_no_copy_or_second_adapter_is_left_and_the_cache_is_the_start_model(
    monkeypatch: pytest.MonkeyPatch, name: str, tune: str
) -> None:
    start = start_model(tune)

    def check(trainer: Any, backbone: Vlm) -> None:
        assert trainer.ref_model is None
        names = {name for name, _ in start.named_parameters()}
        assert {name for name, _ in backbone.named_parameters()} == names  # no adapter "ref"
        if name == "mdpo":
            return  # its loss has no uncached form
        batch = trainer.data_collator([{"row": row} for row in range(SIZE)])
        shaken(backbone, seed=1)
        cached = trainer.compute_loss(trainer.model, dict(batch))
        score_answers(start.base)
        trainer.ref_model, trainer.precompute_ref_logps = start.model.eval(), False
        # To the bit, since the rows were scored in batches of the same size.
        assert torch.equal(cached, trainer.compute_loss(trainer.model, dict(batch)))

    inside(monkeypatch, METHODS[name], tune, check)


def log_prob(backbone: Vlm, inputs: Inputs, answer: str) -> Tensor:
    """Return log p(answer | inputs), by the backbone's own loss of one row."""
    batch = backbone.collate([inputs], [answer])
    return -(backbone.loss(backbone.predict(batch), batch) * (batch.targets >= 0).sum())[0]


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("name", ["dpo", "mdpo", "kto"])
def test_losses_equal_those_of_two_models_row_by_row(
    monkeypatch: pytest.MonkeyPatch, name: str, tune: str
) -> None:
    start, config = start_model(tune).eval(), METHODS[name].Config(beta=BETA)
    data = toy.data(start, COUNT, 3)
    pairs = negatives.make_pairs(start, data, toy.metered(start, 1e12), config, seed=0)

    def ratio(backbone: Vlm, pair: Any, answer: str, corrupted: bool = False) -> Tensor:
        inputs = data.turn(pair.position).inputs
        if corrupted:
            inputs = mdpo.corrupted_inputs(data, config, 0)(pair.position)
        return log_prob(backbone, inputs, answer) - log_prob(start, inputs, answer)

    def expected(backbone: Vlm, row: int) -> Tensor:
        pair = pairs[row]
        right, wrong = (ratio(backbone, pair, text) for text in (pair.chosen, pair.rejected))
        loss = -logsigmoid(BETA * (right - wrong))
        if name == "mdpo":
            cropped = ratio(backbone, pair, pair.chosen, corrupted=True)
            loss = loss - logsigmoid(BETA * (right - cropped)) - logsigmoid(BETA * right)
        return loss

    def expected_kto(backbone: Vlm, rows: list[int]) -> Tensor:
        answers = [(pair.chosen, pair.rejected) for pair in pairs]
        mismatched = [
            ratio(backbone, pairs[row // 2], answers[(row // 2 + 1) % COUNT][row % 2])
            for row in rows
        ]
        z = torch.stack(mismatched).mean().clamp(min=0)
        losses = []
        for row in rows:
            sign = -1 if row % 2 else 1
            value = ratio(backbone, pairs[row // 2], answers[row // 2][row % 2])
            losses.append(1 - torch.sigmoid(sign * BETA * (value - z)))
        return torch.stack(losses).mean()

    def check(trainer: Any, backbone: Vlm) -> None:
        shaken(backbone, seed=1)
        rows = trainer.train_dataset["row"][:SIZE]
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            loss = trainer.compute_loss(trainer.model, batch)
            if name == "kto":
                value = expected_kto(backbone, rows)
            else:
                value = torch.stack([expected(backbone, row) for row in rows]).mean()
        torch.testing.assert_close(loss, value, rtol=1e-4, atol=1e-5)

    inside(monkeypatch, METHODS[name], tune, check)


def test_a_term_of_weight_0_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    terms: list[tuple[list[str], list[float]]] = []

    def instead(trainer: Any, *rest: Any, **counts: Any) -> None:
        terms.append((trainer.loss_types, trainer.loss_weights))

    monkeypatch.setattr(trl, "run", instead)
    backbone = start_model("full")
    for config in (mpo.Config(), mpo.Config(quality=0), mpo.Config(preference=0, generation=0)):
        with toy.metered(backbone, 1e12) as meter:
            mpo.train(backbone, toy.data(backbone, COUNT, 3), meter, config, 0)
    with toy.metered(backbone, 1e12) as meter:
        dpo.train(backbone, toy.data(backbone, COUNT, 3), meter, dpo.Config(), 0)
    assert terms == [
        (["sigmoid", "bco_pair", "sft"], [0.8, 0.2, 1.0]),
        (["sigmoid", "sft"], [0.8, 1.0]),
        (["bco_pair"], [0.2]),
        (["sigmoid"], [1.0]),  # DPO as published
    ]


def test_mdpo_without_its_image_term_costs_what_dpo_costs_and_is_dpo_with_an_anchor() -> None:
    runs = []
    for method, config in ((dpo, dpo.Config()), (mdpo, mdpo.Config(image=0, anchor=0))):
        backbone = toy.load(toy.random_base())
        meter = toy.run(method, backbone, toy.data(backbone, 32, 3), config, 2e9)
        runs.append((meter.ledger("budget").flops, meter.diagnostics["loss"], meter.steps))
    assert runs[0][0] == runs[1][0] and runs[0][2] == runs[1][2] > 3
    assert runs[0][1] == pytest.approx(runs[1][1], rel=1e-5)


def test_on_the_data_track_no_more_pairs_are_scored_than_used() -> None:
    backbone = toy.load(toy.random_base(), batch_size=8)
    meter = Meter(Budget("x", items=24), "cpu")
    for module in backbone.metered_modules:
        meter.watch(module)
    with meter, suppress(BudgetSpent):
        dpo.train(backbone, toy.data(backbone, 200, 3), meter, dpo.Config(), 0)
    assert meter.diagnostics["rows_scored"] == 24 == meter.ledger("budget").items


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_passes_over_the_pairs_cost_the_start_model_once(tune: str) -> None:
    costs, rows = [], 0
    for flops in (3e9, 6e9):
        backbone = toy.load(toy.random_base(), tune)
        meter = toy.run(dpo, backbone, toy.data(backbone, 32, 3), dpo.Config(), flops)
        costs.append(meter.ledger("budget").flops["reference"])
        rows = meter.ledger("budget").items
    assert costs[0] == costs[1] > 0
    assert rows > 3 * 32


def test_a_small_budget_scores_only_pairs_that_it_can_train_on() -> None:
    backbone = toy.load(toy.random_base(), batch_size=8)
    data = toy.data(backbone, 200, 3)
    meter = toy.metered(backbone, 1e9)
    with meter, suppress(BudgetSpent):
        dpo.train(backbone, data, meter, dpo.Config(), 0)
    ledger = meter.ledger("budget")
    count = meter.diagnostics["rows_scored"]
    assert count < 200 and count % 8 == 0
    assert 0.25 * 1e9 <= ledger.flops["reference"] < 0.25 * 1e9 + ledger.flops["reference"] / 5
    assert ledger.items >= 0.9 * count  # every scored pair is trained on, but for the last step
