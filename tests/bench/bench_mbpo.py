"""What mining and the hybrid trainer cost: ``python tests/bench/bench_mbpo.py`` prints a table.

CPU time of one process on one thread, variants interleaved, medians of ratios; the model is the
tiny one of the preference tests. Each line says what it is compared with and what is wanted.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import preference_toy as toy
import torch

from steelyard.harness.core.compat import prepare_imports
from steelyard.harness.models.vlm import Vlm
from steelyard.methods._mbpo.mining import frozen_weights, pgd
from steelyard.methods._preference import online, trl
from steelyard.methods._preference.online import Sampling, StreamRow, Streams

ROUNDS = 7
STEPS = 8  # optimiser steps of one timed run
GROUP, BATCH = 8, 32


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(work: Callable[[], object], other: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of both, called in turns, and the median of the ratios."""
    work()
    other()
    pairs = [(seconds(work), seconds(other)) for _ in range(ROUNDS)]
    ours, theirs = ([pair[modality] for pair in pairs] for modality in (0, 1))
    ratios = [first / second for first, second in pairs]
    return statistics.median(ours), statistics.median(theirs), statistics.median(ratios)


def rows_of(model: Vlm, count: int) -> list[StreamRow]:
    """Half of the rows to be asked, half with a right and a wrong answer."""
    made = []
    for position, item in enumerate(toy.examples(count, seed=4)):
        right = item.answers[0]
        wrong = next(colour for colour in toy.COLOURS if colour != right)
        good, bad = (tuple(model.prompts.answer_ids(answer)) for answer in (right, wrong))
        made.append(StreamRow(position, True, "offline" if position % 2 else "online", good, bad))
    return made


def trainer_of(model: Vlm, folder: Path, rows: Sequence[StreamRow], hybrid: bool) -> Any:
    """TRL's trainer as it is, or ours on these rows; both on the same data and settings."""
    from trl import GRPOConfig, GRPOTrainer

    from steelyard.methods._preference.hybrid import HybridTrainer, stored

    options = Sampling(GROUP, 1.0, 4, 0.0)
    settings = options.arguments(replaces_reference=True)
    shared = {
        "model": model.model,
        "args": trl.arguments(
            GRPOConfig, model, 0, folder, loss_type="grpo", max_steps=STEPS, **settings
        ),
        "train_dataset": online.dataset(model, toy.data(model, len(rows), seed=4), rows),
        "processing_class": model.processor,
    }
    rewards = online.reward_functions(model, True)
    if not hybrid:
        return GRPOTrainer(reward_funcs=[*rewards], **shared)
    trainer = HybridTrainer(reward_funcs=[*rewards, stored], streams=Streams(), **shared)
    sampler = online.sampler_of(rows, model, GROUP, 0.5, seed=0)
    online.set_up(trainer, toy.metered(model, 1e15), sampler, options, None)
    return trainer


def trained(model: Vlm, rows: Sequence[StreamRow], hybrid: bool) -> Callable[[], None]:
    """A run of a few steps, the making of the trainer included."""

    def work() -> None:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, trl.workspace(model):
            trainer_of(model, Path(folder), rows, hybrid).train()

    return work


def show(name: str, found: tuple[float, float, float], wanted: str, inverse: bool = False) -> None:
    """One line of the table; ``inverse`` turns a ratio of times into one of speeds."""
    ours, theirs, share = found
    share = 1 / share if inverse else share
    print(f"{name:58} {1000 * ours:9.1f} {1000 * theirs:9.1f} {share:7.2f}  {wanted}", flush=True)


def hybrid_speed(model: Vlm) -> None:
    """Steps a second against TRL's own trainer with the same rows asked."""
    rows = rows_of(model, 128)
    asked = [StreamRow(row.position, True) for row in rows]
    plain = trained(model, asked, hybrid=False)
    name = f"hybrid trainer, all sampled / GRPOTrainer, {STEPS} steps"
    show(name, ratio(trained(model, asked, hybrid=True), plain), "speed >= 0.95", inverse=True)
    name = f"hybrid trainer, half stored / GRPOTrainer, {STEPS} steps"
    show(name, ratio(trained(model, rows, hybrid=True), plain), "speed >= 0.95", inverse=True)


def attack_cost(model: Vlm) -> None:
    """A step of the attack against one forward pass and its gradient on the pixels."""
    steps = 20
    batch = toy.data(model, 64, seed=5).gather(range(64))

    def passes() -> None:
        with frozen_weights(model):
            for _ in range(steps):
                pixels = batch.pixels.detach().requires_grad_()
                changed = type(batch)(
                    pixels, batch.has_image, batch.tokens, batch.mask, batch.has_text,
                    batch.targets, batch.extra,
                )  # fmt: skip
                loss = model.loss(model.predict(changed), batch).sum()
                torch.autograd.grad(loss, pixels)

    def attack() -> None:
        pgd(model, batch, 16 / 255, 2 / 255, steps, torch.Generator().manual_seed(0))

    show(f"attack of {steps} steps, 64 images / passes alone", ratio(attack, passes), "<= 1.15")


def batching(model: Vlm) -> None:
    """Attack and answer of 32 items at once against one by one."""
    data = toy.data(model, 32, seed=6)

    def mined(positions: Sequence[int]) -> None:
        batch = data.gather(positions)
        pgd(model, batch, 16 / 255, 2 / 255, 5, torch.Generator().manual_seed(0))
        model.continuations(batch, 4)

    def one_by_one() -> None:
        for position in range(32):
            mined([position])

    found = ratio(lambda: mined(range(32)), one_by_one)
    show("mining 32 items at once / one by one", found, "well below 1")


def main() -> None:
    """Print the table."""
    prepare_imports()
    torch.set_num_threads(1)
    model = toy.load(toy.trained_base(), batch_size=BATCH)
    print(f"{'':58} {'ms':>9} {'other ms':>9} {'ratio':>7}  wanted")
    hybrid_speed(model)
    attack_cost(model)
    batching(model)


if __name__ == "__main__":
    sys.exit(main())
