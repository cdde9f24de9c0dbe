"""Offline methods: losses by hand, and effects of a short run on a model that uses images."""

import math
from typing import Any

import numpy as np
import preference_toy as toy
import pytest
import torch
from PIL import Image

from steelyard import methods
from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.vlm import Vlm
from steelyard.methods import dpo, kto, mdpo, mpo, sft, zero_shot

OFFLINE: dict[str, Any] = {"sft": sft, "dpo": dpo, "mpo": mpo, "mdpo": mdpo, "kto": kto}


def _model(tune: str = "full", **options: Any) -> Vlm:
    return toy.load(toy.trained_base(), tune, max_answer_tokens=4, **options)


def _run(method: Any, config: Any, flops: float, tune: str = "full") -> tuple[Vlm, Meter]:
    backbone = _model(tune, learning_rate=1e-3 if tune == "full" else 5e-3)
    return backbone, toy.run(method, backbone, toy.data(backbone, 32, 3), config, flops)


def _losses(meter: Meter) -> list[float]:
    return [row["loss"] for row in meter.history if "loss" in row]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


class _FixedModel(torch.nn.Module):
    """Model with fixed log-probabilities of rows, spread over their answer tokens.

    The first call takes the first rows; KTO calls it for its divergence first.
    """

    def __init__(self, model: torch.nn.Module, rows: list[float]) -> None:
        super().__init__()
        self.model, self.rows = model, rows

    def forward(self, **inputs: Any) -> Any:
        from trl.trainer.utils import FusedCausalLMOutput

        mask = inputs["labels"][:, 1:] != -100
        rows = torch.tensor(self.rows[: len(mask)])[:, None]
        self.rows = self.rows[len(mask) :]
        log_probs = torch.where(mask, rows / mask.sum(1, keepdim=True), torch.zeros(()))
        zero = torch.zeros_like(log_probs)
        return FusedCausalLMOutput(
            log_probs=log_probs, entropy=zero, mean_logits=zero, is_top1=mask, label_mask=mask
        )


def _first_loss(
    monkeypatch: pytest.MonkeyPatch,
    method: Any,
    config: Any,
    policy: list[float],
    reference: list[float],
) -> tuple[float, Any]:
    """Loss of a trainer's first batch, for fixed log-probabilities of both models.

    Also the number of tokens of right answers, or the labels of KTO's rows.
    """
    from steelyard.methods._preference import trl

    results: list[tuple[float, Any]] = []

    def instead(trainer: Any, backbone: Any, meter: Any, **counts: Any) -> None:
        batch = next(iter(trainer.get_train_dataloader()))
        assert trainer.ref_model is None
        names = [name for name in batch if name.startswith("ref_")]
        batch |= dict(zip(names, torch.tensor(reference).view(-1, 2), strict=True))
        facts = batch["label"].tolist() if "label" in batch else None
        facts = facts or int(batch["completion_mask"][:2].sum())
        loss = trainer.compute_loss(_FixedModel(trainer.model, policy), batch)
        results.append((float(loss), facts))

    monkeypatch.setattr(trl, "run", instead)
    backbone = _model(batch_size=2)
    meter = toy.metered(backbone, 1e12)
    with meter:
        method.train(backbone, toy.data(backbone, 8, 3), meter, config, 0)
    return results[0]


def test_dpo_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, reference = [-1.0, -2.0, -3.0, -2.5], [-1.5, -1.0, -2.0, -2.5]
    loss, tokens = _first_loss(monkeypatch, dpo, dpo.Config(beta=0.2, sft=0.5), policy, reference)
    margins = [(-1.0 + 1.5) - (-3.0 + 2.0), (-2.0 + 1.0) - 0.0]  # 1.5 and -1
    preferred = sum(-math.log(_sigmoid(0.2 * margin)) for margin in margins) / 2
    likelihood = (1.0 + 2.0) / tokens
    assert loss == pytest.approx(preferred + 0.5 * likelihood, rel=1e-5)


def test_mpo_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, reference = [-1.0, -2.0, -3.0, -2.5], [-1.5, -1.0, -2.0, -2.5]
    config = mpo.Config(negatives="random_answer")
    loss, tokens = _first_loss(monkeypatch, mpo, config, policy, reference)
    right, wrong = [0.5, -1.0], [-1.0, 0.0]
    total = 0.0
    for right_ratio, wrong_ratio in zip(right, wrong, strict=True):
        total += 0.8 * -math.log(_sigmoid(0.1 * (right_ratio - wrong_ratio))) / 2
        total += (
            0.2
            * (-math.log(_sigmoid(0.1 * right_ratio)) - math.log(_sigmoid(-0.1 * wrong_ratio)))
            / 2
        )
    assert loss == pytest.approx(total + 3.0 / tokens, rel=1e-5)


def test_mdpo_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = [-1.0, -2.0, -3.0, -2.5, -4.0, -1.0]
    reference = [-1.5, -1.0, -2.0, -2.5, -3.0, -1.5]
    config = mdpo.Config(negatives="random_answer", image=2.0, anchor=0.5, delta=0.3)
    loss, _ = _first_loss(monkeypatch, mdpo, config, policy, reference)
    right, wrong, cropped = [0.5, -1.0], [-1.0, 0.0], [-1.0, 0.5]
    total = 0.0
    for right_ratio, wrong_ratio, corrupted in zip(right, wrong, cropped, strict=True):
        total += -math.log(_sigmoid(0.1 * (right_ratio - wrong_ratio))) / 2
        total += 2.0 * -math.log(_sigmoid(0.1 * (right_ratio - corrupted))) / 2
        total += 0.5 * -math.log(_sigmoid(0.1 * right_ratio - 0.3)) / 2
    assert loss == pytest.approx(total, rel=1e-5)


def test_mdpo_leaves_rows_without_an_image_out_of_the_image_term() -> None:
    right, wrong, corrupted = torch.tensor([1.0, 2.0]), torch.zeros(2), torch.zeros(2)
    has_image = torch.tensor([True, False])
    terms = mdpo.loss_terms(right, wrong, corrupted, has_image, mdpo.Config(beta=1.0))
    assert terms["loss_image"].item() == pytest.approx(-math.log(_sigmoid(1.0)))
    none = mdpo.loss_terms(right, wrong, corrupted, torch.zeros(2).bool(), mdpo.Config())
    assert none["loss_image"].item() == 0


@pytest.mark.parametrize(
    ("mismatched", "divergence"),
    [([-1.0, -3.0], 0.25), ([-4.0, -2.0], 0.0)],  # from -2 and -2.5: mean 0.25, mean -0.75
)
def test_kto_by_hand(
    monkeypatch: pytest.MonkeyPatch, mismatched: list[float], divergence: float
) -> None:
    config = kto.Config(beta=0.5, desirable=1.2, undesirable=0.7)
    ratios = [0.5, -1.0]
    policy, reference = [*mismatched, -1.0, -3.0], [-1.5, -2.0, -2.0, -2.5]
    loss, labels = _first_loss(monkeypatch, kto, config, policy, reference)
    right, wrong = ratios if labels[0] else ratios[::-1]
    assert sorted(labels) == [False, True]
    total = 1.2 * (1 - _sigmoid(0.5 * (right - divergence)))
    total += 0.7 * (1 - _sigmoid(0.5 * (divergence - wrong)))
    assert loss == pytest.approx(total / 2, rel=1e-5)


def test_kto_pairs_a_prompt_with_the_answer_of_the_next_pair_for_its_divergence() -> None:
    from steelyard.methods._preference import trl_data

    backbone = _model()
    data = toy.data(backbone, 4, 3)
    pairs = [trl_data.AnswerPair(i, data.turn(i).answer, "a cup") for i in range(4)]
    collate = trl_data.unpaired(backbone, pairs, trl_data.prompts_of(backbone, data))
    inputs = collate([{"row": 0}, {"row": 3}, {"row": 6}])
    assert inputs["label"].tolist() == [True, False, True]

    def answers(prefix: str) -> list[list[int]]:
        ids, mask = inputs[f"{prefix}input_ids"], inputs[f"{prefix}completion_mask"].bool()
        return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]

    texts = [data.turn(0).answer, "a cup", data.turn(3).answer]
    assert answers("") == [backbone.prompts.answer_ids(text) for text in texts]
    texts = [data.turn(1).answer, "a cup", data.turn(0).answer]  # after the last, the first
    assert answers("KL_") == [backbone.prompts.answer_ids(text) for text in texts]


def test_a_crop_holds_up_to_a_fifth_of_the_image_at_its_size() -> None:
    ramp = np.zeros((40, 60, 3), np.uint8)
    ramp[..., 0] = np.arange(60) * 4
    ramp[..., 1] = np.arange(40)[:, None] * 6
    image = Image.fromarray(ramp)
    areas = []
    for seed in range(30):
        crop = mdpo.random_crop(image, np.random.default_rng(seed))
        assert crop.size == image.size
        pixels = np.asarray(crop, float)
        wide = (pixels[..., 0].max() - pixels[..., 0].min()) / 4 + 1
        high = (pixels[..., 1].max() - pixels[..., 1].min()) / 6 + 1
        areas.append(wide * high / (60 * 40))
    assert max(areas) < 0.26 and min(areas) < 0.06 and max(areas) > 0.12


def test_zero_shot_changes_nothing() -> None:
    backbone = _model()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    config = zero_shot.Config()
    meter = toy.run(zero_shot, backbone, toy.data(backbone, 4, 0), config, 1e9)
    assert meter.spent == 0
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_sft_starts_at_the_backbones_loss_and_learns() -> None:
    backbone = _model(learning_rate=2e-3, batch_size=32)
    data = toy.data(backbone, 32, 3)
    batch = data.gather(range(32))
    with torch.no_grad():
        start = backbone.loss(backbone.predict(batch), batch).mean().item()
    meter = toy.run(sft, backbone, data, sft.Config(), 8e9)
    losses = _losses(meter)
    assert losses[0] == pytest.approx(start, rel=1e-4)  # all answers are one word long
    assert losses[-1] < 0.5 * start


@pytest.mark.parametrize(
    ("name", "tune"),
    [
        *((name, "full") for name in ("dpo", "mpo", "mdpo", "kto")),
        ("dpo", "lora"),
        *(pytest.param(name, "lora", marks=pytest.mark.heavy) for name in ("mpo", "mdpo", "kto")),
    ],
)
def test_preference_methods_lower_their_loss_and_widen_the_margin(name: str, tune: str) -> None:
    method = OFFLINE[name]
    config = method.Config(negatives="random_answer")
    _, meter = _run(method, config, 4e9 if tune == "full" else 6e9, tune)
    assert 0.85 * meter.budget.flops < meter.spent <= meter.budget.flops
    rows = [row for row in meter.history if "loss" in row]
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)  # the reference is the start
    assert rows[-1]["rewards/margins"] > 0.02  # times beta: 0.1 to 0.2 nats
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.01


def test_mdpo_prefers_the_true_image() -> None:
    _, meter = _run(mdpo, mdpo.Config(negatives="random_answer", image=3.0), 5e9)
    rows = [row for row in meter.history if "loss" in row]
    assert rows[-1]["rewards/image_margins"] > rows[0]["rewards/image_margins"] + 0.05


@pytest.mark.parametrize("name", sorted(OFFLINE))
def test_defaults_are_accepted_on_a_vlm_only(name: str) -> None:
    assert methods.configure(methods.load(name), {}, "vlm") == OFFLINE[name].Config()
    with pytest.raises(UserError, match="trains a vlm"):
        methods.configure(methods.load(name), {}, "classifier")


def test_defaults_are_the_papers() -> None:
    published: dict[Any, dict[str, float]] = {
        dpo: {"beta": 0.1, "sft": 0},
        mpo: {"beta": 0.1, "preference": 0.8, "quality": 0.2, "generation": 1},
        mdpo: {"beta": 0.1, "image": 1, "anchor": 1, "delta": 0},
        kto: {"beta": 0.1, "desirable": 1, "undesirable": 1},
    }
    for method, values in published.items():
        assert {name: getattr(method.Config(), name) for name in values} == values
        assert method.Config().negatives == "random_answer"  # one source for all
        assert set(method.SEARCH) <= values.keys() - {"sft"}


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        (sft, {"share": 0.0}),
        (sft, {"share": 1.5}),
        (dpo, {"beta": 0.0}),
        (dpo, {"sft": -1.0}),
        (dpo, {"severity": 9}),
        (mpo, {"preference": 0.0, "quality": 0.0, "generation": 0.0}),
        (mdpo, {"image": -1.0}),
        (kto, {"undesirable": -1.0}),
        (kto, {"max_pairs": 0}),
    ],
)
def test_impossible_options_are_refused(method: Any, bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give"):
        method.Config(**bad)
