"""From a method through a TRL trainer: budget, phases, numbers, and nothing left behind."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import preference_toy as toy
import pytest
import tiny_vlms
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from steelyard import methods
from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.errors import NonFiniteLoss, UserError
from steelyard.harness.models import vlm_build
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_config import configure
from steelyard.harness.training.fit import fit, schedule
from steelyard.harness.training.train_data import TrainData, vlm_data
from steelyard.methods import dpo, grpo, kto, sft
from steelyard.methods._preference import callbacks, trl_data
from steelyard.methods._preference.head import score_answers

FLOPS = 1.2e9


@pytest.fixture
def base() -> Path:
    return toy.random_base()


def _trained(base: Path, method: Any, config: Any, tune: str = "full") -> tuple[Vlm, Meter]:
    backbone = toy.load(base, tune)
    return backbone, toy.run(method, backbone, toy.data(backbone, 40, 1), config, FLOPS)


def _weights(backbone: Vlm) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in backbone.parameters() if p.requires_grad])


@pytest.mark.parametrize("family", tiny_vlms.cells())
def test_a_row_means_the_same_to_trl_and_to_the_backbone(family: str, tmp_path: Path) -> None:
    tiny_vlms.make(family, tmp_path)
    backbone = vlm_build.build("x", configure(str(tmp_path), {"tune": "full"}), 0, "cpu")
    data = vlm_data(backbone, toy.examples(6, 0), toy.turn)
    inputs = trl_data.supervised(backbone, data, trl_data.prompts_of(backbone, data))(
        [{"row": row} for row in range(6)]
    )
    batch = data.gather(range(6))
    counts = (batch.targets != -100).sum(1)
    expected = (backbone.loss(backbone.predict(batch), batch) * counts).sum() / counts.sum()
    score_answers(backbone.base)
    output = backbone.base(**inputs, fused_lm_head=True)
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)
    assert output.label_mask.sum() == counts.sum()


def test_the_head_at_answer_tokens_gives_what_trls_gives(base: Path) -> None:
    from trl.trainer.utils import add_fused_lm_head

    backbone = toy.load(base)
    data = toy.data(backbone, 5, 0)
    rows = [{"row": row} for row in range(5)]
    inputs = trl_data.supervised(backbone, data, trl_data.prompts_of(backbone, data))(rows)
    add_fused_lm_head(
        backbone.base, temperature=1.3, outputs=("log_probs", "entropy", "mean_logits", "is_top1")
    )
    theirs = backbone.base(**inputs, fused_lm_head=True)
    score_answers(backbone.base, temperature=1.3)
    ours = backbone.base(**inputs, fused_lm_head=True)
    for name in ("loss", "log_probs", "mean_logits"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
    mask = ours.label_mask
    torch.testing.assert_close(ours.entropy[mask], theirs.entropy[mask], rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.is_top1 & mask, theirs.is_top1 & mask)
    plain = backbone.base(**inputs)
    torch.testing.assert_close(backbone.base(**inputs, use_cache=False).loss, plain.loss)


@pytest.mark.parametrize("tune", ["full", "lora"])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_the_budget_is_used_and_never_exceeded(base: Path, method: str, tune: str) -> None:
    trained = methods.load(method)
    _, meter = _trained(base, trained, trained.Config(), tune)
    assert 0.85 * FLOPS < meter.spent <= FLOPS
    spent = meter.ledger("budget").flops
    assert spent["backward"] > 0
    if method == "sft":
        assert "reference" not in spent
    else:  # the start model sees each pair once
        assert 0 < spent["reference"] < 0.3 * FLOPS


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_meter_agrees_with_the_flop_counter_on_a_run(base: Path, tune: str) -> None:
    backbone = toy.load(base, tune)
    data, meter = toy.data(backbone, 40, 1), toy.metered(backbone, FLOPS)
    counter = total_counter()
    totals = []

    def note(fraction: float) -> None:
        if meter.steps:  # not while the start model scores pairs
            totals.append((meter.spent, counter.get_total_flops()))

    meter.on_progress = note
    with counter, meter, suppress(BudgetSpent):
        dpo.train(backbone, data, meter, dpo.Config(), 0)
    # The first step holds the meter's measuring passes.
    ours, theirs = (last - first for first, last in zip(totals[1], totals[-1], strict=True))
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_trainer_leaves_only_weights_behind(base: Path, tune: str, tmp_path: Path) -> None:
    backbone = toy.load(base, tune)
    data = toy.data(backbone, 40, 1)
    before = (
        {name for name, _ in backbone.named_parameters()},
        {name: p.requires_grad for name, p in backbone.named_parameters()},
        backbone.base.config.to_dict(),
        [name for name, module in backbone.named_modules() if "forward" in vars(module)],
        warnings.filters[:],
    )
    folder = Path.cwd()
    os.chdir(tmp_path)
    try:
        toy.run(dpo, backbone, data, dpo.Config(), FLOPS)
    finally:
        os.chdir(folder)
    assert not list(tmp_path.iterdir())
    assert backbone.training
    assert before == (
        {name for name, _ in backbone.named_parameters()},
        {name: p.requires_grad for name, p in backbone.named_parameters()},
        backbone.base.config.to_dict(),
        [name for name, module in backbone.named_modules() if "forward" in vars(module)],
        warnings.filters[:],
    )
    second = toy.run(sft, backbone, data, sft.Config(), FLOPS)
    assert second.steps > 2


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_equal_seeds_give_equal_weights(base: Path, tune: str) -> None:
    first, _ = _trained(base, dpo, dpo.Config(), tune)
    torch.manual_seed(99)
    again, _ = _trained(base, dpo, dpo.Config(), tune)
    assert torch.equal(_weights(first), _weights(again))
    assert not torch.equal(_weights(first), _weights(toy.load(base, tune)))


@contextmanager
def _noted_steps(backbone: Vlm, meter: Meter) -> Iterator[list[tuple[float, float, float]]]:
    """Note learning-rate factor, gradient norm and the budget's fraction before each step."""
    steps: list[tuple[float, float, float]] = []
    fractions = []
    meter.on_progress = lambda fraction: fractions.append(fraction)
    start_stage = meter.start_stage

    def started() -> None:
        start_stage()
        fractions.append(meter.fraction)

    meter.start_stage = started  # type: ignore[method-assign]

    def note(optimiser: Any, args: Any, kwargs: Any) -> None:
        (group,) = optimiser.param_groups
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in group["params"] if p.grad is not None]
        )
        steps.append((group["lr"] / backbone.recipe.learning_rate, norm.item(), fractions[-1]))

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


def _fitted(backbone: Vlm, data: TrainData, meter: Meter, config: Any, seed: int) -> None:
    """Train as ``sft``, in the harness's own loop."""

    def step(batch: Any) -> Any:
        return backbone.loss(backbone.predict(batch), batch).mean(), {}

    fit(backbone, data, meter, step, seed=seed)


TRAINED = {"fit": _fitted, "sft": sft.train, "dpo": dpo.train, "kto": kto.train, "grpo": grpo.train}
CONFIGS = {
    "fit": None,
    "sft": sft.Config(),
    "dpo": dpo.Config(),
    "kto": kto.Config("random_answer"),
}
CONFIGS["grpo"] = grpo.Config(group=4, max_tokens=4, resample=0)


@pytest.mark.parametrize("budget", [Budget("x", flops=FLOPS), Budget("x", items=96)], ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_the_learning_rate_follows_the_budget_on_both_tracks(
    base: Path, name: str, budget: Budget
) -> None:
    backbone = toy.load(base)
    meter = Meter(budget, "cpu")
    for module in backbone.metered_modules:
        meter.watch(module)
    with _noted_steps(backbone, meter) as steps, meter, suppress(BudgetSpent):
        TRAINED[name](backbone, toy.data(backbone, 40, 1), meter, CONFIGS[name], 0)
    assert len(steps) == meter.steps > 2
    start = steps[0][2]
    for factor, _, fraction in steps:
        progress = (fraction - start) / (1 - start)
        assert factor == pytest.approx(schedule(progress, backbone.recipe.warmup))
    if budget.items is not None:  # 16 answers a step; of ``grpo`` four to each of four prompts
        prompts = 4 if name == "grpo" else 16
        answers = 32 if name == "dpo" else 16
        ledger = meter.ledger("budget")
        assert (ledger.items, meter.steps) == (96, 96 // prompts)
        assert ledger.answers == meter.steps * answers


@pytest.mark.parametrize("name", ["fit", "sft", "dpo", "kto"])
def test_gradients_are_clipped_to_the_recipes_norm(base: Path, name: str) -> None:
    backbone = toy.load(base)
    backbone.recipe = replace(backbone.recipe, clip_norm=1e-4)
    meter = toy.metered(backbone, FLOPS)
    with _noted_steps(backbone, meter) as steps, meter, suppress(BudgetSpent):
        TRAINED[name](backbone, toy.data(backbone, 40, 1), meter, CONFIGS[name], 0)
    assert max(norm for _, norm, _ in steps) == pytest.approx(1e-4, rel=0.02)


def test_a_stage_ends_at_its_fraction_of_the_budget(base: Path) -> None:
    backbone = toy.load(base)
    meter = toy.metered(backbone, FLOPS)
    with _noted_steps(backbone, meter) as steps, meter, suppress(BudgetSpent):
        sft.train(backbone, toy.data(backbone, 40, 1), meter, sft.Config(share=0.5), 0)
    assert 0.5 <= meter.fraction < 0.75
    warmup = backbone.recipe.warmup
    expected = [schedule(step[2] / 0.5, warmup) for step in steps]
    assert [step[0] for step in steps] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("train", [sft.train, _fitted])
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(base: Path, train: Any) -> None:
    backbone = toy.load(base)
    head = backbone.base.get_output_embeddings().weight
    head.register_hook(lambda gradient: gradient * float("inf"))  # the loss stays finite
    before = _weights(backbone)
    meter = toy.metered(backbone, FLOPS)
    with meter, pytest.raises(NonFiniteLoss, match=r"gradient norm became (nan|inf) at step 1"):
        train(backbone, toy.data(backbone, 40, 1), meter, sft.Config(), 0)
    assert torch.equal(_weights(backbone), before)


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(base: Path) -> None:
    backbone = toy.load(base)
    data = toy.data(backbone, 40, 1)
    with torch.no_grad():
        backbone.base.get_output_embeddings().weight[0] = float("inf")
    with pytest.raises(NonFiniteLoss, match="at step 1"):
        meter = toy.metered(backbone, FLOPS)
        with meter:
            sft.train(backbone, data, meter, sft.Config(), 0)
    assert not [name for name, module in backbone.named_modules() if "forward" in vars(module)]


def test_log_probabilities_of_exactly_zero_are_an_alarm() -> None:
    with pytest.raises(UserError, match="exactly 0"):
        callbacks.check_step({"loss": 0.69, "logps/chosen": 0.0, "logps/rejected": 0.0}, 3)
    callbacks.check_step({"loss": 0.69, "logps/chosen": 0.0, "logps/rejected": -1.0}, 3)


def test_the_order_is_the_harness_order_and_lives_in_memory() -> None:
    dataset = trl_data.ordered(10, 4, 0, "x")
    rows = dataset["row"][:16]
    assert sorted(set(rows[:8])) == sorted(rows[:8])  # one pass, whole batches only
    assert rows[:8] != rows[8:16]
    assert list(rows) == list(trl_data.ordered(10, 4, 0, "x")["row"][:16])
    assert list(rows) != list(trl_data.ordered(10, 4, 1, "x")["row"][:16])
    assert not dataset.cache_files


def test_rows_without_an_image_share_a_batch_with_rows_that_have_one(base: Path) -> None:
    backbone = toy.load(base)
    data = toy.data(backbone, 6, 1)
    without_image = {0, 3}

    def inputs(position: int) -> Any:
        original = data.turn(position).inputs
        return replace(original, image=None) if position in without_image else original

    prompts = trl_data.prompts_of(backbone, data, inputs)
    inputs_of_rows = trl_data.supervised(backbone, data, prompts)(
        [{"row": row} for row in range(6)]
    )
    assert len(inputs_of_rows["pixel_values"]) == 4
    score_answers(backbone.base)
    mixed = backbone.base(**inputs_of_rows, fused_lm_head=True).log_probs.sum(1)
    batch = backbone.collate(
        [inputs(row) for row in range(6)], [data.turn(row).answer for row in range(6)]
    )
    counts = (batch.targets != -100).sum(1)
    expected = backbone.loss(backbone.predict(batch), batch) * counts
    torch.testing.assert_close(mixed, -expected, rtol=1e-4, atol=1e-4)
