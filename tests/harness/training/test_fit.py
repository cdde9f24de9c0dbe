"""Training loop: a step in several passes is the step in one; what is not finite ends the run."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import preference_toy as toy
import pytest
import torch
import vlm_toys
from torch import Tensor

from steelyard import tasks
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.errors import NonFiniteLoss
from steelyard.harness.models import registry
from steelyard.harness.models.backbone import Batch, Recipe
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.training.fit import StepResult, fit, schedule, set_rate
from steelyard.harness.training.train_data import train_data
from steelyard.methods import sft


def test_passes_are_equal_and_fit_the_limit() -> None:
    recipe = Recipe(batch_size=32, micro_batch_size=8)
    assert [recipe.micro_size(size) for size in (32, 30, 12, 7, 13)] == [8, 6, 6, 7, 1]
    assert [recipe.micro_size(size, multiple=2) for size in (32, 12, 30)] == [8, 6, 6]
    assert replace(recipe, micro_batch_size=0).micro_size(32) == 32
    assert replace(recipe, micro_batch_size=1).micro_size(4, multiple=2) == 4  # no smaller one


def test_the_schedule_is_a_line_and_then_a_cosine() -> None:
    values = {0.0: 1e-3, 0.05: 0.25, 0.1: 0.5, 0.2: 1.0, 0.4: 0.853553, 0.6: 0.5, 1.0: 0.0}
    for progress, value in values.items():
        assert schedule(progress, warmup=0.2) == pytest.approx(value, abs=1e-6)
    assert schedule(0.0, warmup=0.0) == 1.0
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    recipe = Recipe(learning_rate=0.1, warmup=0.2)
    assert set_rate(optimiser, recipe, 0.6, scale=0.5) == pytest.approx(0.1 * 0.5 * 0.5)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.025)


def test_every_step_has_the_gradient_of_its_own_batch(world: Path) -> None:
    model, data = classifier(world)
    model.recipe = replace(model.recipe, batch_size=8)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = []

    def step(batch: Batch) -> StepResult:
        return torch.stack([weight.sum() for weight in weights]).sum(), {}

    def after_backward() -> None:
        gradients.append({weight.grad.unique().item() for weight in weights})

    with Meter(Budget("x", flops=1e12, items=24), "cpu") as meter, suppress(BudgetSpent):
        fit(model, data, meter, step, seed=3, after_backward=after_backward)
    assert gradients == [{1.0}] * 3


def classifier(world: Path) -> tuple[Any, Any]:
    corpus = tasks.load("food101", world / "food101")
    model = registry.build_untrained(RunSpec("joint", "food101", "tiny", "XS", 0), corpus, "cpu")
    return model, train_data(model, "food101", corpus)


def language_model(world: Path) -> tuple[Any, Any]:
    model = vlm_toys.build("llava", world / "vlms")
    return model, vlm_toys.train_data(model)


@pytest.mark.parametrize("build", [classifier, language_model])
def test_a_step_in_passes_is_the_step_in_one(
    build: Callable[[Path], tuple[Any, Any]], world: Path
) -> None:
    """The same items in the same order, and the same gradients; logged values are means."""

    def first_steps(micro: int) -> tuple[list[Tensor], list[Tensor], Meter, list[int]]:
        model, data = build(world)
        model.recipe = replace(model.recipe, batch_size=8, micro_batch_size=micro)
        model.eval()
        model.train = lambda mode=True: model  # no dropout, whose draws differ
        items, gradients, sizes = [], [], []

        def step(batch: Batch) -> StepResult:
            items.append(batch.targets)
            sizes.append(len(batch.targets))
            loss = model.loss(model.predict(batch), batch).mean()
            return loss, {"task": loss.detach()}

        def after_backward() -> None:
            rows = (p.grad for p in model.parameters() if p.grad is not None)
            gradients.append(torch.cat([row.flatten() for row in rows]))

        with Meter(Budget("x", flops=1e12, items=16), "cpu") as meter, suppress(BudgetSpent):
            fit(model, data, meter, step, seed=3, after_backward=after_backward)
        targets = [target for batch in items for target in batch.flatten()[batch.flatten() >= 0]]
        return targets, gradients, meter, sizes

    whole_items, whole, meter, sizes = first_steps(0)
    items, parts, parts_meter, part_sizes = first_steps(3)
    assert sizes == [8, 8] and part_sizes == [2] * 8
    assert items == whole_items
    # The weights after one step agree only as far as Adam lets rounding errors grow.
    for one, other, tolerance in zip(whole, parts, (1e-5, 1e-2), strict=True):
        assert float((one - other).norm()) < tolerance * float(one.norm())
    assert parts_meter.steps == meter.steps == 2
    assert parts_meter.ledger("budget").items == 16
    assert parts_meter.diagnostics == pytest.approx(meter.diagnostics, rel=1e-3)


@pytest.mark.parametrize("build", [classifier, language_model])
def test_gradients_are_clipped_to_the_recipes_norm(
    build: Callable[[Path], tuple[Any, Any]], world: Path
) -> None:
    """The first step of SGD with Nesterov momentum 0.9 moves by 1.9 times rate and gradient."""

    def moved(clip_norm: float) -> float:
        model, data = build(world)
        model.recipe = Recipe(
            "sgd", learning_rate=1e-3, weight_decay=0.0, batch_size=8, warmup=0.0,
            clip_norm=clip_norm,
        )  # fmt: skip
        before = [parameter.clone() for parameter in model.parameters()]

        def step(batch: Batch) -> StepResult:
            return 100 * model.loss(model.predict(batch), batch).mean(), {}

        with Meter(Budget("x", flops=1e12, items=8), "cpu") as meter, suppress(BudgetSpent):
            fit(model, data, meter, step, seed=3)
        assert meter.steps == 1
        pairs = zip(model.parameters(), before, strict=True)
        return torch.cat([(new - old).flatten() for new, old in pairs]).norm().item()

    assert moved(0.5) == pytest.approx(1.9e-3 * 0.5, rel=1e-3)
    assert moved(2.0) == pytest.approx(1.9e-3 * 2.0, rel=1e-3)
    assert moved(1e9) > 1.9e-3 * 10


def test_supervised_fine_tuning_weighs_tokens_over_the_whole_step(world: Path) -> None:
    """Answers differ in length, so a mean of means would be another step."""

    def after_two_steps(micro: int) -> Tensor:
        model = toy.load(toy.random_base(), batch_size=8, micro_batch_size=micro, optimizer="sgd")
        data = vlm_toys.train_data(model)
        with Meter(Budget("x", flops=1e12, items=16), "cpu") as meter, suppress(BudgetSpent):
            sft.train(model, data, meter, sft.Config(), 0)
        assert meter.steps == 2 and meter.ledger("budget").items == 16
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(after_two_steps(2), after_two_steps(0), rtol=1e-4, atol=1e-5)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(world: Path) -> None:
    model, data = classifier(world)
    before = [parameter.clone() for parameter in model.parameters()]

    def step(batch: Batch) -> StepResult:
        loss = model.loss(model.predict(batch), batch).mean()
        # Its value is 0 and its gradient infinite.
        return loss + (loss - loss.detach()).sqrt(), {}

    with (
        Meter(Budget("x", flops=1e12, items=64), "cpu") as meter,
        pytest.raises(NonFiniteLoss, match="gradient norm became"),
    ):
        fit(model, data, meter, step, seed=0)
    assert all(map(torch.equal, before, model.parameters()))
