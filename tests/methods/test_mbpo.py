"""MBPO end to end on a small trained model and on a classifier: pairs, phases, budget, effect."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import preference_toy as toy
import pytest
import torch

from steelyard import methods, tasks
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models import registry
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.training.train_data import train_data
from steelyard.methods import mbpo
from steelyard.methods._mbpo import classifier as on_classes
from steelyard.methods._mbpo.mining import (
    MinedAnswer,
    Policy,
    filter_pairs,
    information_gain,
    mine,
)
from steelyard.methods._mbpo.vlm import VlmPolicy, answers_of, retarget

FLOPS = 6e9
QUICK: dict[str, Any] = {"group": 4, "max_tokens": 4, "steps": 3, "step": 8 / 255}


def trained(tune: str = "full", flops: float = FLOPS, **options: Any) -> tuple[Vlm, Meter]:
    backbone = toy.load(toy.trained_base(), tune, learning_rate=3e-4)
    config = mbpo.Config(**{**QUICK, **options})
    return backbone, toy.run(mbpo, backbone, toy.data(backbone, 200, seed=2), config, flops)


@pytest.mark.parametrize("tune", ["full", pytest.param("lora", marks=pytest.mark.heavy)])
def test_streams_phases_and_budget(tune: str) -> None:
    backbone, meter = trained(tune, stream="hybrid")
    assert 0.85 * FLOPS < meter.spent <= FLOPS
    flops = meter.ledger("budget").flops
    assert set(flops) == {"forward", "backward", "reference", "rollout", "mine"}
    assert 0.1 < flops["mine"] / FLOPS < 0.4
    logged = meter.diagnostics
    assert logged["mine_pairs"] > 0 and logged["margin"] > 0 and "flat_groups" in logged
    assert {"loss_offline", "loss_online", "gain_q50", "mine_same"} <= set(logged)
    assert "forward" not in vars(backbone.base)


def test_offline_training_widens_the_margin() -> None:
    """Between the right answers and the mined ones, of pairs that were trained on."""
    start = toy.load(toy.trained_base())
    config = mbpo.Config(**QUICK, stream="offline", nll_anchor=0.5)
    pool = toy.data(start, 200, seed=2)
    meter = toy.metered(start, 1e12)
    with meter:
        pairs = mined_pairs(start, pool, meter, replace(config, mine_limit=48))
    after, spent = trained(flops=2 * FLOPS, stream="offline", nll_anchor=0.5)
    assert set(spent.ledger("budget").flops) == {"forward", "backward", "reference", "mine"}
    assert margin(after, pool, pairs) > margin(start, pool, pairs) + 0.5


def mined_pairs(
    model: Any, pool: Any, meter: Meter, config: mbpo.Config, kind: type[Any] = VlmPolicy
) -> list[MinedAnswer]:
    """Pairs of the start model, by the first three steps of the method."""
    policy: Policy = kind(model, pool, meter, config, seed=0)
    with meter.phase("mine"):
        answers = mine(policy)
    return filter_pairs(policy, answers)


@torch.no_grad()
def margin(model: Vlm, pool: Any, pairs: list[MinedAnswer]) -> float:
    """Mean log-probability a token of the right answers over that of the mined ones."""
    batch = pool.gather([pair.position for pair in pairs])
    good = retarget(batch, [pair.right for pair in pairs])
    bad = retarget(batch, [pair.wrong for pair in pairs])
    gap = model.loss(model.predict(bad), bad) - model.loss(model.predict(good), good)
    return float(gap.mean())


def test_mined_pairs_are_right_against_wrong() -> None:
    start = toy.load(toy.trained_base())
    pool = toy.data(start, 80, seed=2)

    def run(**options: Any) -> tuple[list[MinedAnswer], dict[str, float]]:
        meter = toy.metered(start, 1e12)
        with meter:
            pairs = mined_pairs(start, pool, meter, mbpo.Config(**{**QUICK, **options}))
        return pairs, meter.diagnostics

    pairs, values = run()
    assert values["mine_items"] in (40, 41)  # half of each subset, rounded up
    assert values["mine_pairs"] == len(pairs) > 20
    for pair in pairs:
        assert start.decode(pair.right) == pool.examples[pair.position].answers[0]
        assert start.decode(pair.wrong) != start.decode(pair.right)
        assert pair.wrong[-1] == pair.right[-1] == start.prompts.eos_id
    unfiltered, all_values = run(filters="", iig=False)
    assert len(unfiltered) == all_values["mine_items"] == 80
    _, noise_values = run(filters="", iig=False, mining="noise")
    assert noise_values["mine_same"] > all_values["mine_same"] + 0.3
    again, _ = run()
    assert again == pairs
    blind, _ = run(filters="", iig=False, mining="no_image")
    answers = {(pool.examples[pair.position].text, pair.wrong) for pair in blind}
    assert len(answers) == len({text for text, _ in answers})  # one answer per question


def test_nothing_left_says_why() -> None:
    with pytest.raises(UserError, match="have the fault 'same'"):
        trained(epsilon=1e-4, step=1e-5, mine_limit=16, random_start=False, filters="same,grounded")


def test_options_are_checked() -> None:
    for wrong in ({"mix": 1.0}, {"iig_top": 0.0}, {"steps": 0}, {"filters": "sme"}, {"group": 1}):
        with pytest.raises(UserError):
            mbpo.Config(**wrong)  # type: ignore[arg-type]


def test_same_seed_same_weights() -> None:
    first, second = (trained(flops=FLOPS / 3)[0] for _ in range(2))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


# On a classifier.


def classifier(world: Path, task: str = "food101") -> tuple[Any, Any]:
    corpus = tasks.load(task, world / task)
    model = registry.build_untrained(RunSpec("mbpo", task, "tiny", "XS", 0), corpus, "cpu")
    return model, train_data(model, task, corpus)


@pytest.mark.parametrize("stream", ["hybrid", "offline", "online"])
def test_classifier_streams(world: Path, stream: Any) -> None:
    model, data = classifier(world)
    config = methods.configure(mbpo, {"stream": stream, "mine_limit": 64, "steps": 4, "group": 4})
    meter = toy.run(mbpo, model, data, config, 2e10)
    assert 0.85 * 2e10 < meter.spent <= 2e10
    flops = meter.ledger("budget").flops
    assert flops["reference"] > 0 and ("mine" in flops) == (stream != "online")
    assert ("margin" in meter.diagnostics) == (stream != "online")


def test_classifier_pairs(world: Path) -> None:
    model, data = classifier(world)
    config = mbpo.Config(mine_limit=96, filters="", iig=False, epsilon=0.2, step=0.05, steps=4)
    meter = toy.metered(model, 1e12)
    with meter:
        answers = mined_pairs(model, data, meter, config, on_classes.ClassifierPolicy)
        pairs = on_classes.pair_data(data, answers)
    batch = pairs.gather(range(len(pairs)))
    assert 0 < len(pairs) <= 96
    assert bool((batch.extra["rejected"] != batch.targets).all())
    labels = [example.labels[0] for example in pairs.examples]
    assert batch.targets.tolist() == labels
    # An answer that gains from the image as much as the label does is no hallucination.
    right = information_gain(model, batch)
    wrong = information_gain(model, replace(batch, targets=batch.extra["rejected"]))
    assert ["grounded" in answer.faults for answer in answers] == (wrong >= right).tolist()


def test_classifier_objective_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), A = +-1/sqrt 2 for classes 0 and 1, reference uniform."""
    logits = torch.tensor([[2.0, 1.0, 1.0]]).log().requires_grad_()
    answers = torch.tensor([[0, 1]])
    advantages = on_classes.group_advantages(torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(advantages, torch.tensor([[0.5, -0.5]]) * 2**0.5, atol=1e-4, rtol=0)
    uniform = torch.zeros(1, 3)
    loss, logged = on_classes.objective(logits, answers, advantages, uniform, 0.5, stored=False)
    ratios = torch.tensor([2 / 3, 4 / 3])  # reference over policy
    divergence = (ratios - ratios.log() - 1).mean()
    torch.testing.assert_close(loss, 0.5 * divergence, atol=1e-5, rtol=0)
    torch.testing.assert_close(logged, divergence)
    torch.autograd.backward(loss)
    # d/dz_j of log p_k is (k == j) - p_j; weights: -A/2 of the policy part, (1 - r) beta/2 of k3
    weight = -advantages[0] / 2 + 0.5 * (1 - ratios) / 2
    probabilities = torch.tensor([0.5, 0.25, 0.25])
    expected = torch.zeros(3)
    for answer, factor in zip((0, 1), weight, strict=True):
        expected += factor * (torch.eye(3)[answer] - probabilities)
    torch.testing.assert_close(logits.grad, expected[None], atol=1e-5, rtol=0)


def test_the_pull_on_a_stored_class_is_its_gap() -> None:
    """Two classes, the second 5 nats below the start: k3 would pull it up by e^5 - 1 = 147."""
    reference = torch.tensor([[0.0, 0.0]])
    scores = torch.tensor([[-(1 - 0.5 * math.exp(-5)), 0.5 * math.exp(-5)]]).abs().log()
    answers, advantages = torch.tensor([[1]]), torch.zeros(1, 1)
    pulls = {}
    for stored in (True, False):
        logits = scores.clone().requires_grad_()
        loss, divergence = on_classes.objective(
            logits, answers, advantages, reference, beta=1.0, stored=stored
        )
        (gradient,) = torch.autograd.grad(loss, logits)
        # d log p_1 / d z_1 = 1 - p_1
        pulls[stored] = -gradient[0, 1].item() / (1 - 0.5 * math.exp(-5))
        assert divergence.item() == pytest.approx(12.5 if stored else math.exp(5) - 6, rel=1e-4)
    assert pulls[True] == pytest.approx(5, rel=1e-4)
    assert pulls[False] == pytest.approx(math.exp(5) - 1, rel=1e-4)


def test_classifier_mixes_streams_evenly() -> None:
    streams: list[str] = []

    def step(name: str) -> Any:
        return lambda batch: (streams.append(name), {})

    batches = lambda first: iter([None] * 9)  # noqa: E731
    mixed = on_classes.MixedStep(step("online"), step("offline"), batches, 0.25)  # type: ignore[arg-type]
    for _ in range(8):
        mixed(None)  # type: ignore[arg-type]
    assert streams == ["online", "online", "online", "offline"] * 2


def test_several_labels_are_refused(world: Path) -> None:
    model, data = classifier(world, "mm_imdb")
    with pytest.raises(UserError, match="several"):
        toy.run(mbpo, model, data, mbpo.Config(), 1e9)


def test_answers_keep_their_end() -> None:
    start = toy.load(toy.trained_base())
    batch = toy.data(start, 4, seed=0).gather(range(4))
    assert all(ids[-1] == start.prompts.eos_id for ids in answers_of(batch))


def test_a_stored_pair_raises_the_right_class_and_lowers_the_mined_one() -> None:
    logits = torch.zeros(4, 3, requires_grad=True)
    policy = object.__new__(on_classes.ClassifierPolicy)
    policy.backbone = cast(Any, SimpleNamespace(predict=lambda batch: logits))
    policy.config = mbpo.Config(beta=0.0)
    classes = torch.zeros(4, dtype=torch.int64)
    batch = SimpleNamespace(targets=classes, extra={on_classes.REJECTED: classes + 1})
    loss, _ = policy.offline_step(cast(Any, batch))
    (slope,) = torch.autograd.grad(loss, logits)
    # Advantages +-0.7071, averaged over 4 pairs of two classes.
    assert slope[:, 0].tolist() == pytest.approx([-(0.5**0.5) / 8] * 4, rel=1e-3)
    assert slope[:, 1].tolist() == pytest.approx([0.5**0.5 / 8] * 4, rel=1e-3)
    assert slope[:, 2].abs().max() < 1e-6
