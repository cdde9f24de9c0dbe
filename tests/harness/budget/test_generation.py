"""Sampled answers cost what their tokens cost: each prompt once, no padding, by any engine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import vlm_toys

from steelyard.harness.budget.audit import Audit
from steelyard.harness.budget.flops import total_counter
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.models.backbone import Batch
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.generation import Generation, total
from steelyard.harness.records.record import merged
from steelyard.harness.training import generation

LENGTH = 6
NO_STORE = {"feature_cache_gb": 0.0}
PRICES = Generation("rollout", token_flops=10.0, attention_flops=2.0, head_flops=5.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vlms")


def test_charge_by_hand() -> None:
    """Prompts of 3 and 5 tokens; two answers of 2 and 1 tokens to one, of 3 and 1 to the other."""
    counts = PRICES.after([3, 5], True).after([4, 6], False).after([7], False)
    assert (counts.prompts, counts.prompt_tokens, counts.answer_tokens) == (2, 8, 3)
    assert counts.attended == 3 * 3 + 5 * 5 + 4 + 6 + 7
    assert counts.flops == 10 * 11 + 2 * 51 + 5 * 5
    other = Generation("mine", 10.0, 2.0, 5.0).after([2], True)
    assert total([counts, other, counts]) == (
        other,
        Generation("rollout", 10.0, 2.0, 5.0, 4, 16, 6, 102),
    )


def sampled(
    model: Vlm, batch: Batch, samples: int = 1, flops: float = 1e15
) -> tuple[Meter, list[list[int]], float]:
    """Sample answers; the meter, the answers, and what torch counts beside measuring."""
    meter = vlm_toys.watched(model, flops)
    model.eos_ids = list(range(0, 1000, 4))  # or random models would seldom end
    torch.manual_seed(0)
    with total_counter() as counter, meter, meter.phase("rollout"):
        answers = generation.continuations(model, meter, batch, LENGTH, 1.0, samples)
    return meter, answers, counter.get_total_flops() - meter.calibration


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "smolvlm"])
@pytest.mark.parametrize("options", [{}, {"tune": "lora"}], ids=["full", "lora"])
def test_answers_to_one_prompt_cost_exactly_what_torch_counts(
    family: str, options: dict[str, str], root: Path
) -> None:
    model = vlm_toys.build(family, root, **NO_STORE, **options)
    batch = vlm_toys.batch(model, 1)
    meter, answers, executed = sampled(model, batch, samples=5)
    assert len({len(answer) for answer in answers}) > 1, "rows end at different lengths"
    assert meter.spent == executed
    (counts,) = meter.ledger("finished").generation
    prompt = int(batch.mask.sum())
    assert (counts.prompts, counts.prompt_tokens) == (1, prompt)
    assert counts.answer_tokens == sum(len(answer) - 1 for answer in answers)
    assert counts.attended == prompt**2 + sum(
        prompt + step for answer in answers for step in range(1, len(answer))
    )
    with total_counter() as counter, torch.no_grad():
        model.encode(batch)
    assert meter.spent == counts.flops + counter.get_total_flops()


def test_padding_costs_nothing(root: Path) -> None:
    model = vlm_toys.build("llava", root, **NO_STORE)
    inputs = [turn.inputs for turn in vlm_toys.turns(4)]
    together, _, executed = sampled(model, model.collate(inputs))
    assert len(set(model.collate(inputs).mask.sum(1).tolist())) > 1
    assert together.spent < executed
    alone = vlm_toys.watched(model, 1e15)
    with alone, alone.phase("rollout"):
        for item in inputs:
            generation.continuations(model, alone, model.collate([item]), 1)
    first = vlm_toys.watched(model, 1e15)
    with first, first.phase("rollout"):
        generation.continuations(model, first, model.collate(inputs), 1)
    assert first.ledger("finished").flops == alone.ledger("finished").flops


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("store", [NO_STORE, {"tune": "lora"}], ids=["trained", "stored"])
def test_tokens_of_another_engine_cost_the_same(
    family: str, store: dict[str, float], root: Path
) -> None:
    model = vlm_toys.build(family, root, **store)
    batch = vlm_toys.batch(model, 3)
    meter, answers, _ = sampled(model, batch, samples=4)
    model = vlm_toys.build(family, root, **store)
    other = vlm_toys.watched(model, 1e15)
    with other, other.phase("rollout"):
        generation.charge(model, other, batch, [answers[i : i + 4] for i in (0, 4, 8)])
    assert other.ledger("finished").flops == meter.ledger("finished").flops
    assert other.ledger("finished").generation == meter.ledger("finished").generation


def test_a_budget_stops_both_at_the_same_token(root: Path) -> None:
    model = vlm_toys.build("llava", root, **NO_STORE)
    batch = vlm_toys.batch(model, 3)
    unlimited, answers, _ = sampled(model, batch, samples=4)
    groups = [answers[i : i + 4] for i in (0, 4, 8)]

    def stopped(work: Callable[[Meter], object]) -> Meter:
        meter = vlm_toys.watched(model, unlimited.spent - 1)
        torch.manual_seed(0)
        with meter, meter.phase("rollout"), pytest.raises(BudgetSpent):
            work(meter)
        return meter

    own = stopped(lambda m: generation.continuations(model, m, batch, LENGTH, 1.0, 4))
    other = stopped(lambda m: generation.charge(model, m, batch, groups))
    assert 0.9 * unlimited.spent < own.spent == other.spent < unlimited.spent


def audited(model: Vlm, work: Callable[[Meter], object]) -> Meter:
    """Return the meter of one step, all of which is compared with torch's counter."""
    meter = Meter(Budget("test", 1e15), "cpu", Audit(0))
    for module in model.metered_modules:
        meter.watch(module)
    with meter:
        meter.audit.end("the start")
        meter.audit.begin(full=True)
        work(meter)
        meter.step(1)
    return meter


def test_the_audit_takes_padding_for_nothing_hidden(root: Path) -> None:
    model = vlm_toys.build("llava", root, **NO_STORE)
    batch = model.collate([turn.inputs for turn in vlm_toys.turns(4)])
    meter = audited(model, lambda m: generation.continuations(model, m, batch, LENGTH, 1.0, 4))
    assert meter.audit.windows == 2 and meter.audit.worst == 0 and not meter.audit.finding


def test_a_larger_pass_than_the_announced_one_is_charged_as_any_other(root: Path) -> None:
    model = vlm_toys.build("llava", root, **NO_STORE)
    batch = vlm_toys.batch(model, 4)
    plain = vlm_toys.watched(model, 1e15)
    with plain, torch.no_grad():
        model.predict(batch)

    def cheat(meter: Meter) -> None:
        with generation._charged(model, meter) as on_pass, torch.no_grad():
            on_pass([1], False)
            model.predict(batch)

    meter = audited(model, cheat)
    (counts,) = meter.ledger("finished").generation
    assert meter.spent == plain.spent + counts.flops and meter.audit.worst == 0


def test_tokens_are_in_a_checkpoint(root: Path) -> None:
    model = vlm_toys.build("llava", root, **NO_STORE)
    meter, _, _ = sampled(model, vlm_toys.batch(model, 2), samples=2)
    again = Meter(meter.budget, "cpu")
    again.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    assert again.ledger("finished").generation == meter.ledger("finished").generation != ()


def test_tokens_of_all_ranks_are_added_up(root: Path) -> None:
    model = vlm_toys.build("llava", root, **NO_STORE)
    ledgers = [
        sampled(model, vlm_toys.batch(model, count), samples=2)[0].ledger("finished")
        for count in (1, 3)
    ]
    (one,), (three,) = (ledger.generation for ledger in ledgers)
    (both,) = merged(ledgers).generation
    assert (both.prompts, both.attended) == (4, one.attended + three.attended)
    assert both.flops == one.flops + three.flops
