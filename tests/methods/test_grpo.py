"""GRPO and RLOO through TRL: batches of one kind, the reference, the phases, the budget."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any

import preference_toy as toy
import pytest
import torch

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.runs.suite import Suite, SuiteEntry, check
from steelyard.methods import grpo, rloo
from steelyard.methods._preference.online import (
    BlockSampler,
    RowPool,
    StreamRow,
    online_rows,
    pools,
)
from steelyard.methods._preference.row_trainer import Answer, RowTrainer, is_flat

FLOPS = 6e9


def blocks(sampler: BlockSampler) -> list[list[int]]:
    """Read and use the blocks of one pass over all rows."""
    count = -(-sum(len(p.rows) * p.repeats for p in sampler.pools) // sampler.block)
    order = list(islice(sampler, count * sampler.passes * sampler.block))
    sampler.unused.clear()
    return [order[start : start + sampler.block] for start in range(0, len(order), sampler.block)]


def test_blocks_hold_one_pool_and_whole_groups() -> None:
    two_pools = [RowPool(tuple(range(12)), 4, 0.75), RowPool((20, 21, 22), 2, 0.25)]
    sampler = BlockSampler(two_pools, 8, seed=0)
    first = blocks(sampler)
    for block in first:
        repeats = 2 if block[0] >= 20 else 4
        assert [row for row in block[::repeats] for _ in range(repeats)] == block
        assert len({row >= 20 for row in block}) == 1
    second = [block[0] >= 20 for block in [*first, *blocks(sampler)]]
    assert abs(second.count(True) - len(second) / 4) < 1  # evenly, not by chance


def test_every_row_occurs_before_one_occurs_again() -> None:
    sampler = BlockSampler([RowPool(tuple(range(10)), 2, 1.0)], 4, seed=3)
    order = [block[index] for block in blocks(sampler) for index in (0, 2)]
    assert sorted(order) == list(range(10))
    again = [block[index] for block in blocks(sampler) for index in (0, 2)]
    assert sorted(again) == list(range(10)) and again != order  # the next pass goes on
    same_seed = BlockSampler([RowPool(tuple(range(10)), 2, 1.0)], 4, seed=3)
    assert [block[index] for block in blocks(same_seed) for index in (0, 2)] == order


def test_blocks_are_repeated_for_the_passes_of_a_step() -> None:
    once, twice = (BlockSampler([RowPool((0, 1, 2, 3), 2, 1.0)], 4, 0, n) for n in (1, 2))
    first, second = blocks(once)
    assert blocks(twice) == [first, first, second, second]
    assert once.draw(0, 4) == twice.draw(0, 4)


def test_blocks_that_were_read_ahead_come_again() -> None:
    """A loader has read two blocks and a half; a step has used one, and two rows were replaced."""
    two_pools = [RowPool(tuple(range(7)), 4, 0.75), RowPool((20, 21, 22), 2, 0.25)]
    plain, ended, continued = (BlockSampler(two_pools, 8, seed=0) for _ in range(3))
    order = list(islice(plain, 24))
    reader = iter(ended)
    assert list(islice(reader, 20)) == order[:20]
    ended.unused.popleft()
    replaced = ended.draw(0, 2)
    continued.load_state_dict(json.loads(json.dumps(ended.state_dict())))
    rest = list(islice(reader, 4 + 24))
    assert list(islice(iter(continued), 12 + 4 + 24)) == [*order[8:20], *rest]
    assert replaced != continued.draw(0, 2) == ended.draw(0, 2)


def test_pools_by_stream() -> None:
    rows = [StreamRow(0), StreamRow(1), StreamRow(0, "offline")]
    assert pools(rows, group=8, mix=0.4) == [RowPool((0, 1), 8, 0.6), RowPool((2,), 2, 0.4)]


@pytest.mark.parametrize("resample", [0, 3])
def test_flat_groups_are_replaced_by_the_next_questions(resample: int) -> None:
    """Question 0 to 5 in some order; 0, 1 and 4 are flat, so two batches of two find others."""
    sampler = BlockSampler([RowPool(tuple(range(6)), 2, 1.0)], 4, seed=0)
    order = BlockSampler([RowPool(tuple(range(6)), 2, 1.0)], 4, seed=0).draw(0, 6)
    flat, sizes = {order[0], order[2], order[3]}, []

    class Scripted(RowTrainer):
        def sample(self, questions: Sequence[int]) -> list[list[Answer]]:
            sizes.append(len(questions))
            values = [(1.0, 1.0) if q in flat else (0.0, 1.0) for q in questions]
            pairs = zip(questions, values, strict=True)
            return [[Answer(q, (), {"correctness": v}) for v in pair] for q, pair in pairs]

    trainer = Scripted()
    trainer.source = SimpleNamespace(  # type: ignore[assignment]
        config=grpo.Config(group=2, resample=resample), sampler=sampler
    )
    trainer._metrics = {"train": defaultdict(list)}
    first = [row for row in sampler.draw(0, 2) for _ in range(2)]
    rows = [answer.row for answer in trainer.answers_to(first)]
    if resample:  # the first is flat; the next two are as well, the fourth is not
        assert rows == [order[4]] * 2 + [order[1]] * 2 and sizes == [2, 1, 1, 1]
    else:
        assert rows == first and sizes == [2]
    assert trainer._metrics["train"]["flat_groups"] == [0.5]


def test_a_group_is_flat_by_the_sum_of_its_rewards() -> None:
    def group(*rewards: dict[str, float]) -> list[Answer]:
        return [Answer(0, (), values) for values in rewards]

    assert is_flat(group({"correctness": 1, "form": 0}, {"correctness": 0, "form": 1}))
    assert not is_flat(group({"correctness": 1, "form": 0}, {"correctness": 1, "form": 1}))


def test_options_are_checked() -> None:
    for wrong in ({"group": 1}, {"temperature": 0.0}, {"max_tokens": 0}, {"beta": -1.0}):
        name = next(iter(wrong))
        for config in (grpo.Config, rloo.Config):
            with pytest.raises(UserError, match=name):
                config(**wrong)  # type: ignore[arg-type]
    backbone = toy.load(toy.random_base())
    with pytest.raises(UserError, match="group=6 does not divide batch_size=16"):
        toy.run(grpo, backbone, toy.data(backbone, 8, 0), grpo.Config(group=6), FLOPS)


@pytest.mark.parametrize("method", ["grpo", "rloo", "mbpo"])
def test_a_batch_without_whole_groups_is_refused_before_a_model_is_at_hand(method: str) -> None:
    entry = SuiteEntry(method, {"group": 4})
    sizes = {"batch_size": 6}
    suite = Suite("s", (entry,), ("instruct",), backbone="org/not-here", backbone_options=sizes)
    with pytest.raises(UserError, match="group=4 does not divide batch_size=6"):
        check(suite)
    check(replace(suite, backbone_options={"batch_size": 8}))


def test_captions_are_left_out_and_several_labels_refused() -> None:
    backbone = toy.load(toy.random_base())
    pool = toy.data(backbone, 4, seed=0)
    caption = replace(pool.examples[0], answers=("a yellow banana on grey",), choices=())
    mixed = replace(pool, examples=(caption, *pool.examples[1:]))
    assert [row.position for row in online_rows(mixed)] == [1, 2, 3]
    with pytest.raises(UserError, match="closed question"):
        online_rows(replace(pool, examples=(caption,) * 2))
    several = replace(pool.examples[0], labels=(0, 1))
    with pytest.raises(UserError, match="several labels"):
        online_rows(replace(pool, examples=(several,)))


def trained(
    method: Any, config: Any, tune: str = "full", flops: float = FLOPS
) -> tuple[Any, Meter]:
    backbone = toy.load(toy.trained_base(), tune, **({"lora_rank": 4} if tune == "lora" else {}))
    return backbone, toy.run(method, backbone, toy.data(backbone, 200, seed=2), config, flops)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_grpo_reference_is_the_start_and_phases_add_up(tune: str) -> None:
    config = grpo.Config(group=4, max_tokens=4, beta=0.1)
    backbone, meter = trained(grpo, config, tune)
    assert 0.85 * FLOPS < meter.spent <= FLOPS
    flops = meter.ledger("budget").flops
    assert set(flops) == {"forward", "backward", "reference", "rollout"}
    # The reference scores the very batches that the policy is trained on.
    assert flops["reference"] == pytest.approx(flops["forward"], rel=0.15)
    first = meter.history[0]
    assert first["step"] == 1 and first["kl"] == pytest.approx(0, abs=1e-6)
    assert meter.diagnostics["kl"] > 1e-4
    # Some groups of the first round are flat; fewer of those that are trained on.
    assert 0 < meter.diagnostics["flat_groups"] < 1
    assert meter.diagnostics["frac_reward_zero_std"] < 0.5 * meter.diagnostics["flat_groups"]
    base = backbone.base
    assert "forward" not in vars(base) and backbone.training
    if tune == "lora":
        assert set(backbone.model.peft_config) == {"default"}


def test_no_reference_without_beta() -> None:
    _, meter = trained(grpo, grpo.Config(group=4, max_tokens=4, beta=0.0), flops=FLOPS / 4)
    assert "reference" not in meter.ledger("budget").flops
    assert "kl" not in meter.diagnostics


def test_right_answers_become_likelier() -> None:
    """On items that were not trained on."""
    before = toy.load(toy.trained_base())
    held_out = toy.data(before, 160, seed=9)
    backbone, _ = trained(grpo, grpo.Config(max_tokens=4), flops=2 * FLOPS)
    assert toy.likelihood(backbone, held_out) > toy.likelihood(before, held_out) + 0.03


@pytest.mark.parametrize("tune", ["full", pytest.param("lora", marks=pytest.mark.heavy)])
def test_rloo_starts_at_its_reference_and_moves_away(tune: str) -> None:
    _, meter = trained(rloo, rloo.Config(group=4, max_tokens=4), tune)
    assert 0.85 * FLOPS < meter.spent <= FLOPS
    flops = meter.ledger("budget").flops
    # The policy scores each batch twice: as pi_old without, then with gradient.
    assert flops["reference"] == pytest.approx(flops["forward"] / 2, rel=0.15)
    assert flops["rollout"] > 0
    assert meter.history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert abs(meter.diagnostics["kl"]) > 1e-4


def test_same_seed_same_weights() -> None:
    config = grpo.Config(group=4, max_tokens=4)
    first, second = (trained(grpo, config, flops=FLOPS / 4)[0] for _ in range(2))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
