"""Cost of mining and of the hybrid trainer: ``python tests/bench/bench_mbpo.py`` prints a table.

Medians of times and of their ratios; the model is the tiny one of the preference tests. Each line
names what it is compared with and the ratio that is allowed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import preference_toy as toy
import torch
from timing import Comparison, Work, compare

from steelyard.harness.core.compat import prepare_imports
from steelyard.harness.models.pgd import frozen_weights
from steelyard.harness.models.vlm import Vlm
from steelyard.methods import mbpo
from steelyard.methods._mbpo.mining import attacked_pixels
from steelyard.methods._preference import trl
from steelyard.methods._preference.online import StreamRow, correctness
from steelyard.methods._preference.row_trainer import online_trainer

STEPS = 8  # optimiser steps of one timed run
GROUP, BATCH, LENGTH = 8, 32, 4


def rows_of(model: Vlm, count: int) -> list[StreamRow]:
    """Make rows of which half are sampled online and half have a right and a wrong answer."""
    rows = []
    for position, item in enumerate(toy.examples(count, seed=4)):
        right = item.answers[0]
        wrong = next(colour for colour in toy.COLOURS if colour != right)
        good, bad = (tuple(model.prompts.answer_ids(answer)) for answer in (right, wrong))
        rows.append(StreamRow(position, "offline" if position % 2 else "online", good, bad))
    return rows


def hybrid(model: Vlm, rows: Sequence[StreamRow]) -> Work:
    """Return work that builds the hybrid trainer on these rows and runs a few steps."""
    from trl import GRPOConfig

    from steelyard.methods._mbpo.vlm import HybridTrainer, stored

    # Without rounds of its own, it samples as often as TRL's trainer.
    config = mbpo.Config(group=GROUP, max_tokens=LENGTH, beta=0.0, resample=0)

    def work() -> None:
        torch.manual_seed(0)
        data, meter = toy.data(model, len(rows), seed=4), toy.metered(model, 1e15)
        parts = (HybridTrainer, GRPOConfig, model, data, meter, config, 0)
        settings = {"loss_type": "grpo", "max_steps": STEPS, "logging_strategy": "no"}
        with online_trainer(*parts, rows=rows, rewards=[stored], mix=0.5, **settings) as trainer:
            trainer.train()

    return work


def plain(model: Vlm, count: int) -> Work:
    """Return work that runs TRL's own trainer, with its own sampler, on rows with an image."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    items = toy.examples(count, seed=4)
    columns = {
        "prompt": [[{"role": "user", "content": item.text}] for item in items],
        "images": [[toy.picture(item)] for item in items],
        "solution": [item.answers[0] for item in items],
    }

    def reward(completions: Sequence[Any], solution: Sequence[str], **rest: object) -> list[float]:
        pairs = zip(completions, solution, strict=True)
        return [correctness(turns[0]["content"], right) for turns, right in pairs]

    settings = {"num_generations": GROUP, "max_completion_length": LENGTH, "beta": 0.0}
    settings["logging_strategy"] = "no"

    def work() -> None:
        torch.manual_seed(0)
        with trl.workspace(model) as folder:
            args = trl.arguments(
                GRPOConfig, model, 0, folder, loss_type="grpo", max_steps=STEPS, **settings
            )
            GRPOTrainer(
                model=model.model,
                reward_funcs=[reward],
                args=args,
                train_dataset=Dataset.from_dict(columns),
                processing_class=model.processor,
            ).train()

    return work


def print_row(name: str, result: Comparison, limit: str, *, speed: bool = False) -> None:
    """Print one line of the table; ``speed`` turns a ratio of times into one of speeds."""
    ratio = 1 / result.ratio if speed else result.ratio
    times = f"{1e3 * result.first:9.1f} {1e3 * result.second:9.1f}"
    print(f"{name:58} {times} {ratio:7.2f}  {limit}", flush=True)


def hybrid_speed(model: Vlm) -> None:
    """Compare steps per second with TRL's own trainer, which samples every row."""
    rows = rows_of(model, 128)
    sampled = [StreamRow(row.position) for row in rows]
    for name, mix in (("all sampled", sampled), ("half stored", rows)):
        result = compare(hybrid(model, mix), plain(model, len(rows)))
        name = f"hybrid trainer, {name} / GRPOTrainer, {STEPS} steps"
        print_row(name, result, "speed >= 1.00", speed=True)


def attack_cost(model: Vlm) -> None:
    """Compare a step of the attack with one forward pass and its gradient on the pixels."""
    steps = 20
    batch = toy.data(model, 64, seed=5).gather(range(64))

    def passes() -> None:
        with frozen_weights(model):
            for _ in range(steps):
                pixels = batch.pixels.detach().requires_grad_()
                changed = replace(batch, pixels=pixels)
                loss = model.loss(model.predict(changed), batch).sum()
                torch.autograd.grad(loss, pixels)

    def attack() -> None:
        attacked_pixels(model, batch, mbpo.Config(steps=steps), torch.Generator().manual_seed(0))

    print_row(
        f"attack of {steps} steps, 64 images / passes alone", compare(attack, passes), "<= 1.05"
    )


def batching(model: Vlm) -> None:
    """Compare attack and answer of 32 items at once with one by one."""
    data = toy.data(model, 32, seed=6)

    def mine(positions: Sequence[int]) -> None:
        batch = data.gather(positions)
        attacked_pixels(model, batch, mbpo.Config(steps=5), torch.Generator().manual_seed(0))
        model.continuations(batch, 4)

    result = compare(lambda: mine(range(32)), lambda: [mine([position]) for position in range(32)])
    print_row("mining 32 items at once / one by one", result, "well below 1")


def main() -> None:
    """Print the table."""
    prepare_imports()
    torch.set_num_threads(1)
    model = toy.load(toy.trained_base(), batch_size=BATCH)
    print(f"{'':58} {'ms':>9} {'other ms':>9} {'ratio':>7}  limit")
    hybrid_speed(model)
    attack_cost(model)
    batching(model)


if __name__ == "__main__":
    main()
