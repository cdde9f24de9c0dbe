"""Information gain, attacks and filters: hand-worked on a linear model, and on a trained one."""

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import preference_toy as toy
import pytest
import scripted_vlm
import tiny_vlms
import torch
import vlm_toys
from torch import Tensor, nn

from steelyard.harness.budget.checkpoints import Checkpoints
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Modality, Turn
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.backbone import Backbone, Batch, Latents, PixelRange, Recipe
from steelyard.harness.models.pgd import frozen_weights
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.budget import Budget
from steelyard.harness.training.train_data import TrainData, vlm_data
from steelyard.methods import mbpo
from steelyard.methods._mbpo.mining import (
    FAULTS,
    MinedAnswer,
    attacked_pixels,
    best,
    filter_pairs,
    find_faults,
    information_gain,
    mine,
    parse_faults,
    perturb,
    repeats,
    select,
    uninformative_pixels,
)
from steelyard.methods._mbpo.vlm import VlmPolicy, answers_of, retarget

WEIGHT = torch.tensor([1.0, -2.0, 0.5])
LOW, HIGH = -1.0, 3.0  # so that a share of the range is not a number of pixel units
EPSILON, STEP = 0.1, 0.04


class Linear(nn.Module):
    """Two classes with logits (w x + t, 0) from pixels x [B, 3, 1, 1] and a text value t."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT.clone())
        self.fixed = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.modes: list[bool] = []
        self.recipe = Recipe(micro_batch_size=1)

    def train(self, mode: bool = True) -> "Linear":
        self.modes.append(mode)
        return super().train(mode)

    def encode(self, batch: Batch) -> Latents:
        return Latents(batch.pixels.flatten(1) @ self.weight, batch.tokens[:, 0].float())

    def contribute(self, latents: Latents) -> Latents:
        return latents

    def blank(self, latents: Latents, modality: Modality) -> Latents:
        return latents.replace(modality, torch.zeros_like(latents.of(modality)))

    def fuse(self, parts: Latents) -> Tensor:
        score = parts.image + parts.text
        return torch.stack([score, torch.zeros_like(score)], 1)

    def predict(self, batch: Batch) -> Tensor:
        return self.fuse(self.encode(batch))

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(logits, batch.targets, reduction="none")

    def pixel_range(self, batch: Batch) -> PixelRange:
        return PixelRange(torch.tensor(LOW), torch.tensor(HIGH))

    def pixel_gradient(self, gradient: Tensor) -> Tensor:
        return gradient

    def split(self, batch: Batch, size: int) -> list[Batch]:
        return [batch.map(itemgetter([row])) for row in range(len(batch.targets))]


def attacked(
    model: Any,
    batch: Batch,
    steps: int,
    generator: torch.Generator | None = None,
    epsilon: float = EPSILON,
    step: float = STEP,
    **options: Any,
) -> Tensor:
    """Pixels under the attack."""
    config = mbpo.Config(epsilon=epsilon, step=step, steps=steps, **options)
    return attacked_pixels(model, batch, config, generator)


def linear() -> Any:
    return cast(Backbone, Linear())


def batch_of(pixels: list[list[float]], targets: list[int], texts: list[int]) -> Batch:
    rows = len(pixels)
    return Batch(
        torch.tensor(pixels).view(rows, 3, 1, 1),
        torch.ones(rows, dtype=torch.bool),
        torch.tensor(texts).view(rows, 1),
        torch.ones(rows, 1, dtype=torch.int64),
        torch.ones(rows, dtype=torch.bool),
        torch.tensor(targets),
    )


@pytest.fixture
def batch() -> Batch:
    return batch_of([[0.0, 0.0, 0.0], [1.0, 2.9, -0.9]], [0, 1], [1, 0])


def test_information_gain_by_hand() -> None:
    """Scores w x + t: 2 + 1 for class 0 and -3 for class 1; without the image 1 and 0."""
    gains = information_gain(linear(), batch_of([[2.0, 0.0, 0.0], [0.0, 1.5, 0.0]], [0, 1], [1, 0]))
    score = torch.tensor([3.0, 3.0])  # of the right class
    without_image = torch.tensor([1.0, 0.0])
    expected = nn.functional.logsigmoid(score) - nn.functional.logsigmoid(without_image)
    torch.testing.assert_close(gains, expected)
    assert bool((gains > 0).all())


def test_information_gain_against_a_black_image(batch: Batch) -> None:
    black = replace(batch, pixels=torch.full_like(batch.pixels, LOW))
    model = linear()
    expected = model.loss(model.predict(black), batch) - model.loss(model.predict(batch), batch)
    torch.testing.assert_close(information_gain(model, batch, "black"), expected.detach())


def test_noise_reference_fills_the_range_and_repeats_by_seed(batch: Batch) -> None:
    wide = replace(batch, pixels=torch.zeros(1, 3, 40, 40))

    def noise(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return uninformative_pixels(linear(), wide, "noise", generator)

    first = noise(1)
    assert torch.equal(first, noise(1)) and not torch.equal(first, noise(2))
    assert LOW <= first.min() < LOW + 0.1 and HIGH - 0.1 < first.max() <= HIGH


def test_attack_by_hand(batch: Batch) -> None:
    """Against class 0 pixels move along -sign(w), against class 1 along it, as far as allowed."""
    reach = EPSILON * (HIGH - LOW)  # 0.4
    moved = attacked(linear(), batch, 3, random_start=False)
    expected = torch.tensor(
        [[-reach, reach, -reach], [1 + reach, 2.9 - reach, -0.9 + reach]]
    ).view_as(moved)
    torch.testing.assert_close(moved, expected)
    single_step = attacked(linear(), batch, 1, random_start=False)
    torch.testing.assert_close(
        (single_step - batch.pixels).abs(), torch.full_like(single_step, 0.16)
    )


def test_attack_stays_within_the_range(batch: Batch) -> None:
    against = replace(batch, targets=1 - batch.targets)
    moved = attacked(linear(), against, 5)
    assert moved[1, 1] == HIGH and moved[1, 2] == LOW  # 2.9 + 0.4 and -0.9 - 0.4, clipped


def test_random_start_never_leaves_the_ball(batch: Batch) -> None:
    wide = replace(batch, pixels=torch.rand(2, 3, 1, 1))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        moved = attacked(linear(), wide, 1, generator)
        assert (moved - wide.pixels).abs().max() <= EPSILON * (HIGH - LOW) + 1e-6


def test_mining_leaves_the_model_as_it_was(batch: Batch) -> None:
    model = linear()
    attacked(model, batch, 2)
    assert model.weight.grad is None
    assert model.weight.requires_grad and not model.fixed.requires_grad
    assert model.modes == [False, True]
    with pytest.raises(RuntimeError), frozen_weights(model):
        assert not model.weight.requires_grad
        raise RuntimeError
    assert model.weight.requires_grad and model.training


def test_equal_frames_stay_equal(batch: Batch) -> None:
    """If the processor copies pixels, the attack and its random start keep copies equal."""

    class Copied(Linear):
        def pixel_gradient(self, gradient: Tensor) -> Tensor:
            mean = gradient[:, :2].mean(1, keepdim=True).expand(-1, 2, -1, -1)
            return torch.cat([mean, gradient[:, 2:]], 1)

    copied = replace(batch, pixels=torch.zeros(2, 3, 1, 1))
    generator = torch.Generator().manual_seed(0)
    moved = attacked(Copied(), copied, 3, generator)
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert not torch.equal(moved[:, 0], moved[:, 2])


def test_kinds_of_mining(batch: Batch) -> None:
    def pixels(mining: Any) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return attacked(linear(), batch, 5, generator, mining=mining)

    noisy = pixels("noise")
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(noisy, perturb(linear(), batch, EPSILON, generator))
    assert not torch.equal(noisy, pixels("adversarial"))
    assert bool((pixels("blank") == LOW).all())


@pytest.mark.parametrize(
    ("rejected", "tokens", "gains", "finished", "faults"),
    [
        ("red", ([1], [2]), (0.1, 0.9), True, ()),
        ("blue", ([2], [2]), (0.1, 0.9), True, ("same",)),
        ("red", ([1], [2]), (0.1, 0.9), False, ("unfinished",)),
        ("red red red", ([1, 1, 1], [2, 3]), (0.1, 0.9), True, ("repetition",)),
        ("sorry, no", ([4, 5], [2]), (0.1, 0.9), True, ("refusal",)),
        ("a big red ball", ([1, 2, 3], [2]), (0.1, 0.9), True, ("length",)),
        ("", ([], [2]), (0.1, 0.9), True, ("length",)),
        ("red", ([1], [2]), (0.9, 0.9), True, ("grounded",)),
        ("blue", ([2, 2, 2], [2]), (1.0, 0.9), False,
         ("same", "unfinished", "repetition", "length", "grounded")),
    ],
)  # fmt: skip
def test_faults(
    rejected: str,
    tokens: tuple[list[int], list[int]],
    gains: tuple[float, float],
    finished: bool,
    faults: tuple[str, ...],
) -> None:
    assert find_faults(rejected, "blue", tokens, gains, finished) == faults


def test_repetition_of_blocks() -> None:
    assert repeats([9, 1, 2, 1, 2, 1, 2]) and repeats([5, 5, 5])
    assert not repeats([1, 2, 1, 2, 3]) and not repeats([5, 5]) and not repeats([])


def test_filters_are_named() -> None:
    assert parse_faults(" same , length") == {"same", "length"}
    assert parse_faults("") == frozenset()
    with pytest.raises(UserError, match="Did you mean 'refusal'"):
        parse_faults("refusals")


def test_best_of_each_subset() -> None:
    gains = [0.1, 5.0, 0.9, 6.0, 0.5, 7.0]
    subsets = ["a", "b", "a", "b", "a", "b"]
    assert best(gains, subsets, 0.5) == [2, 3, 4, 5]  # two of three each, in the order given
    assert best(gains, [""] * 6, 1 / 3) == [3, 5]


def test_answers_exchanged_in_a_batch(batch: Batch) -> None:
    exchanged = retarget(batch, [[5], [6, 7, 2]])
    assert exchanged.targets.tolist() == [[5, -100, -100], [6, 7, 2]]
    assert answers_of(exchanged) == [[5], [6, 7, 2]]


class Costs:
    """Policy of known costs, in fractions of the budget per item, that mines nothing real."""

    pairs_per_step = 4

    def __init__(
        self, count: int, step: float, answer: float, items: int | None = None, **options: Any
    ) -> None:
        self.meter: Any = SimpleNamespace(
            fraction=0.5,
            budget=Budget("x", items=items),
            log=lambda v: self.logged.update(v),
            on_progress=lambda fraction: None,
            steps=0,
            spent=0.0,
            seconds=0.0,
        )
        self.meter.checkpoints = Checkpoints(self.meter)
        self.state = ()
        self.config = mbpo.Config(**{"iig": False, "mine_share": 0.2, **options})
        self.backbone = SimpleNamespace(recipe=Recipe(batch_size=4))
        image = Path("x.png")
        examples = [Example(str(n), image, "?", (), ("a",)) for n in range(count)]
        self.data = TrainData(tuple(examples), lambda rows: None, lambda row: None, 0, False)  # type: ignore[arg-type, return-value]
        self.seed, self.step, self.answer = 0, step, answer
        self.logged: dict[str, float] = {}
        self.calls: list[tuple[int, int]] = []

    def answer_attacked(self, positions: Sequence[int], generator: Any, steps: int) -> list[Any]:
        self.meter.fraction += len(positions) * (steps * self.step + self.answer)
        self.calls.append((len(positions), steps))
        return [MinedAnswer(position, (1,), (2,), ()) for position in positions]


@pytest.mark.parametrize(
    ("step", "steps", "items"),
    [
        # The share is a fifth of what remains, 0.1. The pilot takes 8 (3 step + 2 answer).
        (1e-5, 10, 100),  # all of them
        (1e-4, 10, 96),  # (0.1 - 0.0024 - 0.00016) / (10 step + answer) = 96.5
        (2e-4, 7, 67),  # at 7 steps 67 items, at 8 59, where twice 8 batches of 4 are 64
        (1e-3, 3, 25),  # too few at any number, so the least number of steps
    ],
)
def test_attacks_get_as_many_steps_as_leave_enough_items(
    step: float, steps: int, items: int
) -> None:
    policy: Any = Costs(100, step, 1e-5)
    answers = mine(policy)
    pilot, attacks = policy.calls[:2], policy.calls[2:]
    assert pilot == [(8, 1), (8, 2)]
    assert {used for _, used in attacks} == {steps} == {policy.logged["mine_steps"]}
    assert len(answers) == sum(size for size, _ in attacks) == items
    assert policy.meter.fraction <= 0.6 + 1e-9  # never beyond the share


def test_the_last_batch_holds_what_the_share_still_affords() -> None:
    policy: Any = Costs(100, 1e-4, 1e-5)
    pilot = policy.answer_attacked

    def dearer(positions: Sequence[int], generator: Any, steps: int) -> list[Any]:
        if len(policy.calls) == 2:  # longer answers than those of the plan
            policy.step, policy.answer = 1.25e-4, 1.25e-5
        answers: list[Any] = pilot(positions, generator, steps)
        return answers

    policy.answer_attacked = dearer
    # (0.1 - 0.00256) / 0.0012625 = 77.2, where 96 were planned.
    assert len(mine(policy)) == 77
    assert [size for size, _ in policy.calls[2:]] == [8] * 9 + [5]
    assert policy.meter.fraction <= 0.6 + 1e-9


def test_a_share_for_one_batch_is_used_and_one_for_none_refused() -> None:
    policy: Any = Costs(100, 2.2e-3, 1e-3)  # 0.1 - 0.0688 = 4.1 items of 0.0076
    assert len(mine(policy)) == 4 and policy.calls[2:] == [(4, 3)]
    with pytest.raises(UserError, match="affords no attacked item"):
        mine(Costs(100, 2e-2, 1e-3))  # type: ignore[arg-type]


@pytest.mark.parametrize(("budget", "limit", "mined"), [(40, 20, 20), (20, 40, 20), (99, 99, 50)])
def test_a_budget_of_items_bounds_what_is_mined(budget: int, limit: int, mined: int) -> None:
    policy: Any = Costs(50, 0.0, 0.0, budget, mine_limit=limit)
    assert len(mine(policy)) == mined


@pytest.mark.parametrize(("count", "starved"), [(31, 1.0), (32, 0.0)])
def test_a_run_on_few_pairs_is_marked(
    count: int, starved: float, capsys: pytest.CaptureFixture[str]
) -> None:
    policy: Any = Costs(100, 0.0, 0.0)
    policy.required_filters, policy.logged_faults = frozenset(), ()
    policy.balance = lambda answers, kept: kept
    faulty = MinedAnswer(0, (1,), (1,), ("same",))
    pairs = filter_pairs(policy, [MinedAnswer(0, (1,), (2,), ())] * count + [faulty] * 9)
    assert len(pairs) == count and policy.logged["starved"] == starved
    assert ("7.8 batches" in capsys.readouterr().err) == bool(starved)


@pytest.fixture(scope="module")
def model() -> Vlm:
    return toy.load(toy.trained_base())


def test_attack_on_a_trained_model_beats_noise(model: Vlm) -> None:
    """Exact bound in grey levels; noise of the same size has no effect."""
    batch = toy.data(model, 48, seed=5).gather(range(48))
    generator = torch.Generator().manual_seed(0)
    moved = attacked(model, batch, 5, generator, 16 / 255, 4 / 255)
    noisy = perturb(model, batch, 16 / 255, torch.Generator().manual_seed(0))
    bounds = model.pixel_range(batch)
    levels = (moved - batch.pixels).abs() / (bounds.high - bounds.low) * 255
    assert levels.max().item() == pytest.approx(16, abs=1e-3)
    assert bool((moved >= bounds.low).all()) and bool((moved <= bounds.high).all())
    nll = {
        name: model.loss(model.predict(replace(batch, pixels=pixels)), batch).mean().item()
        for name, pixels in {"clean": batch.pixels, "noise": noisy, "attack": moved}.items()
    }
    assert nll["attack"] > nll["clean"] + 0.2
    assert abs(nll["noise"] - nll["clean"]) < 0.02


def test_batched_attack_is_each_item_alone(model: Vlm) -> None:
    pool = toy.data(model, 3, seed=6)
    options = {"epsilon": 8 / 255, "step": 2 / 255, "random_start": False}
    together = attacked(model, pool.gather(range(3)), 3, **options)
    for row in range(3):
        alone = attacked(model, pool.gather([row]), 3, **options)
        differing = (alone[0] - together[row]).abs() > 1e-4  # a gradient near zero has no sign
        assert differing.float().mean() < 0.01


def test_selected_items_need_their_image(model: Vlm) -> None:
    """Selected items have higher gain than the others of their subset."""
    pool = toy.data(model, 64, seed=7)
    meter = toy.metered(model, 1e12)
    candidates = list(range(0, 64, 2)) + list(range(1, 32, 2))
    with meter:
        policy = VlmPolicy(model, pool, meter, mbpo.Config(group=2), 1)
        selected = select(policy, candidates)
    assert set(selected) < set(candidates) and meter.diagnostics["mine_scored"] == 48
    gains = dict(enumerate(information_gain(model, pool.gather(range(64))).tolist()))
    for subset in ("banana", "cup"):
        members = [i for i in candidates if pool.examples[i].subset == subset]
        inside = [gains[i] for i in members if i in selected]
        outside = [gains[i] for i in members if i not in selected]
        assert len(inside) == -(-len(members) // 2)
        assert min(inside) >= max(outside) - 1e-5
    assert meter.diagnostics["gain_q10"] < meter.diagnostics["gain_q90"]


@pytest.mark.parametrize(("options", "fault"), [({}, ""), ({"mine_max_tokens": 12}, "unfinished")])
def test_long_answers_are_mined(options: dict[str, Any], fault: str, tmp_path: Path) -> None:
    """The right answer has 30 words, and so has the model's, in another order."""
    words = tiny_vlms.VOCABULARY.replace(". , ? ! :", "").split()[:30]
    folder = scripted_vlm.scripted(tmp_path, words)
    model = vlm_build.build("x", vlm_config.configure(str(folder), {"tune": "full"}), 0, "cpu")
    inputs = vlm_toys.turns(6)[0].inputs
    right = " ".join(reversed(words))
    examples = [Example(str(n), Path("x.png"), "?", (), (right,)) for n in range(6)]
    data = vlm_data(model, tuple(examples), lambda example: Turn(inputs, right, ()))
    # The model does not look at the image, so all of its answers have the same gain.
    filters = ",".join(name for name in FAULTS if name != "grounded")
    config = mbpo.Config(stream="offline", iig=False, steps=1, filters=filters, **options)
    meter = toy.metered(model, 1e12)
    with meter:
        policy = VlmPolicy(model, data, meter, config, seed=0)
        answers = mine(policy)
        if fault:
            with pytest.raises(UserError, match=f"have the fault '{fault}'"):
                filter_pairs(policy, answers)
            return
        pairs = filter_pairs(policy, answers)
    assert len(pairs) == 6
    assert model.decode(pairs[0].wrong) == " ".join(words) and len(pairs[0].wrong) == 31
    assert model.decode(pairs[0].right) == right
