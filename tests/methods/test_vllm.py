"""Answers sampled by vLLM: TRL's hook, with transformers in the engine's place."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import preference_toy as toy
import pytest
import torch

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.models.vlm import Vlm
from steelyard.methods import grpo, mbpo, rloo
from steelyard.methods._preference import vllm

FLOPS = 1.2e9
ITEMS = 32


class StandIn:
    """TRL's ``VLLMGeneration`` with a copy of the backbone in place of an engine.

    It draws the tokens that the backbone would draw, since both read torch's global generator.
    """

    backbone: Vlm
    started: Sequence["StandIn"] = ()

    def __init__(self, model: Any, **options: Any) -> None:
        self.model, self.options, self.synced, self.prompts = model, options, 0, 0
        # Without the meter's hooks, as another process would be.
        self.copy = toy.load(toy.trained_base(), tune=self.backbone.config.tune)
        self.questions = {}
        for example in toy.examples(ITEMS, seed=1):
            inputs = toy.turn(example).inputs
            ids = self.copy.collate([inputs]).tokens[0].tolist()
            self.questions[(*ids, inputs.image.tobytes())] = inputs
        type(self).started = (*self.started, self)

    def sync_weights(self) -> None:
        weights = {n: w for n, w in self.model.state_dict().items() if ".ref." not in n}
        self.copy.model.load_state_dict(weights)
        self.synced += 1

    def generate(
        self, prompts: Any, images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, Any, Any, None]:
        batch = self.collate(prompts[::num_generations], images[::num_generations])
        limit, heat = self.options["max_completion_length"], self.options["temperature"]
        answers = self.copy.continuations(batch, limit, heat, num_generations)
        self.prompts += len(prompts) // num_generations
        return prompts, answers, [[[-0.5] for _ in answer] for answer in answers], None

    def collate(self, prompts: Any, images: Any) -> Any:
        """Return the batch of the questions whose tokens these are."""
        rows = zip(prompts, images, strict=True)
        return self.copy.collate([self.questions[(*p, image.tobytes())] for p, (image,) in rows])


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    class Engine(StandIn):
        pass

    for name in ("grpo_trainer", "rloo_trainer"):
        monkeypatch.setattr(f"trl.trainer.{name}.VLLMGeneration", Engine)
    return Engine


def trained(
    method: Any, config: Any, engine: type[StandIn], tune: str = "full", **settings: Any
) -> tuple[Vlm, Meter]:
    backbone = toy.load(toy.trained_base(), tune=tune)
    backbone.trainer_settings = settings
    engine.backbone = backbone
    pool = toy.data(backbone, ITEMS, seed=1)
    return backbone, toy.run(method, backbone, pool, config, FLOPS)


@pytest.mark.parametrize(
    ("method", "config", "tune"),
    [
        (grpo, grpo.Config(group=4, max_tokens=4), "full"),
        pytest.param(grpo, grpo.Config(group=4, max_tokens=4), "lora", marks=pytest.mark.heavy),
        pytest.param(rloo, rloo.Config(group=4, max_tokens=4), "full", marks=pytest.mark.heavy),
    ],
    ids=["grpo", "grpo-lora", "rloo"],
)
def test_equal_tokens_cost_the_same_and_train_the_same(
    method: Any, config: Any, tune: str, engine: type[StandIn]
) -> None:
    own, first = trained(method, config, engine, tune)
    other, second = trained(method, config, engine, tune, use_vllm=True)
    (started,) = engine.started
    assert first.steps == second.steps > 1
    ledger = second.ledger("budget")
    assert first.ledger("budget").flops == ledger.flops
    assert first.ledger("budget").generation == ledger.generation
    (counts,) = ledger.generation
    assert counts.phase == "rollout" and counts.prompts == started.prompts
    assert second.steps <= started.synced <= second.steps + 1, "before each step, not each round"
    for mine, theirs in zip(own.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.heavy
def test_it_samples_as_the_backbone_does(engine: type[StandIn]) -> None:
    config = grpo.Config(group=4, max_tokens=5, temperature=0.7)
    backbone, _ = trained(grpo, config, engine, use_vllm=True, vllm_mode="server")
    options = engine.started[0].options
    assert options["mode"] == "server" and options["temperature"] == 0.7
    assert options["max_completion_length"] == 5 and options["repetition_penalty"] == 1.0
    assert options["generation_kwargs"]["stop_token_ids"] == backbone.eos_ids
    assert set(options["generation_kwargs"]["logit_bias"]) == set(backbone.prompts.image_ids)


@pytest.mark.heavy
def test_the_correction_is_a_choice_that_is_charged(engine: type[StandIn]) -> None:
    config = grpo.Config(group=4, max_tokens=4)
    _, plain = trained(grpo, config, engine, use_vllm=True)
    settings = {"use_vllm": True, "vllm_importance_sampling_correction": True}
    _, corrected = trained(grpo, config, engine, **settings)
    assert "sampling/importance_sampling_ratio/mean" in corrected.diagnostics
    assert "sampling/importance_sampling_ratio/mean" not in plain.diagnostics
    costs = [m.ledger("budget").flops["forward"] / m.steps for m in (plain, corrected)]
    assert 1.8 < costs[1] / costs[0] < 2.2, "one more pass over the answers"


@pytest.mark.heavy
def test_mbpo_samples_its_online_stream(engine: type[StandIn]) -> None:
    config = mbpo.Config(group=4, max_tokens=4, steps=3, mine_limit=32)
    settings = {"use_vllm": True, "vllm_importance_sampling_correction": True}
    _, meter = trained(mbpo, config, engine, **settings)
    phases = {part.phase for part in meter.ledger("budget").generation}
    assert phases == {"mine", "rollout"} and engine.started[0].prompts > 0


def test_a_prompt_that_the_engine_reads_otherwise_ends_the_run() -> None:
    backbone = toy.load(toy.random_base())
    inputs = [toy.turn(example).inputs for example in toy.examples(2, seed=1)]
    batch = backbone.collate(inputs)
    wider = [row[real].tolist() for row, real in zip(batch.tokens, batch.mask.bool(), strict=True)]
    wider[1] = [*wider[1], 0]
    generate = lambda prompts, images, num_generations: (wider, [[1], [1]], [[[0.0]]] * 2, None)  # noqa: E731
    hook = SimpleNamespace(generate=generate, sync_weights=lambda: None)
    state = SimpleNamespace(global_step=0)
    trainer = SimpleNamespace(state=state, vllm_generation=hook, _last_loaded_step=-1)
    with pytest.raises(UserError, match=rf"{len(wider[1]) - 1} tokens as {len(wider[1])}: it resi"):
        vllm.sample(trainer, batch, inputs, 1)
    assert trainer._last_loaded_step == 0, "the engine had the weights of the step"
