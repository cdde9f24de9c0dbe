"""What things cost: a method's step against joint training's, the meter, and lmms-eval.

Usage: ``python tests/benchmarks.py [ROUNDS]``. Times are CPU seconds of this one-thread process,
medians over steps; what is compared is measured in turn, so that a busy machine slows all alike.
"""

import statistics
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch

from steelyard import methods, tasks
from steelyard.harness import run, world_sets
from steelyard.harness.backbone import Inputs
from steelyard.harness.budget import Budget, BudgetSpent, Meter
from steelyard.harness.data import Corpus
from steelyard.harness.evaluate import evaluate
from steelyard.harness.pool import quiet_heavy_libraries
from steelyard.harness.spec import RunSpec
from steelyard.tasks.images import open_image

CASES: dict[str, tuple[str, dict[str, methods.Option]]] = {
    "joint": ("joint", {}),
    "joint_unimodal": ("joint_unimodal", {}),
    "modality_dropout": ("modality_dropout", {}),
    "ogm_ge": ("ogm_ge", {}),
    "mcr K=32": ("mcr", {"draws": 32}),
    "mcr K=1": ("mcr", {"draws": 1}),
    "mcr without permutation": ("mcr", {"mipd": 0.0}),
    "balgrad P2": ("balgrad", {"projection": "P2"}),
    "balgrad P1": ("balgrad", {"projection": "P1"}),
    "balgrad fixed KL": ("balgrad", {"projection": "none", "weighting": "equal"}),
}
STEPS_FLOPS = 1.2e10  # some thirty steps of joint training
WARM = 5  # first steps of a run, in which the meter calibrates


def step_times(corpus: Corpus, name: str, options: dict[str, methods.Option],
               backbone: str) -> list[float]:  # fmt: skip
    """CPU seconds of each step of a short run."""
    model = run.untrained(RunSpec(name, corpus.name, backbone, "XS", 0), corpus, "cpu")
    data = run.train_data(model, corpus)
    meter = Meter(Budget("bench", STEPS_FLOPS))
    stamps: list[float] = []
    meter.on_progress = lambda share: stamps.append(time.process_time())
    for module in model.metered_modules:
        meter.watch(module)
    method = methods.load(name)
    with meter, suppress(BudgetSpent):
        method.train(model, data, meter, methods.configure(method, options), 0)
    return [after - before for before, after in pairwise(stamps)][WARM:]


def bench_steps(corpus: Corpus, backbone: str, rounds: int) -> None:
    """Cost of a step of each method relative to joint training's."""
    times: dict[str, list[float]] = {label: [] for label in CASES}
    for _ in range(rounds):
        for label, (name, options) in CASES.items():
            times[label] += step_times(corpus, name, options, backbone)
    base = statistics.median(times["joint"])
    print(f"\nCPU time of a training step, backbone {backbone}, batch 32 (joint = 1)")
    for label, values in times.items():
        median = statistics.median(values)
        print(f"  {label:28s} {1e3 * median:7.2f} ms  {median / base:5.2f}x")


def bench_meter(corpus: Corpus, rounds: int) -> None:
    """Cost of counting: one model, watched and unwatched in turn.

    Two models would not do: where their weights lie in memory alone makes 1 % of difference.
    """
    model = run.untrained(RunSpec("joint", corpus.name, "tiny", "XS", 0), corpus, "cpu")
    batch = next(run.train_data(model, corpus).batches(32, 0, "bench"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)
    meter = Meter(Budget("bench", 1e15))
    times: dict[bool, list[float]] = {True: [], False: []}
    with meter:
        for turn in range(12 * rounds):
            for watched in (turn % 2 == 0, turn % 2 == 1):
                handles = [meter.watch(m) for m in model.metered_modules] if watched else []
                for _ in range(WARM):
                    start = time.process_time()
                    optimiser.zero_grad(set_to_none=True)
                    torch.autograd.backward(model.loss(model.predict(batch), batch).mean())
                    optimiser.step()
                    meter.step(len(batch.targets))
                    times[watched].append(time.process_time() - start)
                for handle in (handle for pair in handles for handle in pair):
                    handle.remove()
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    print(f"\nMeter: a step with it takes {ratio:.3f}x a step without")


def bench_evaluation(corpus: Corpus, rounds: int) -> None:
    """CPU time an item through lmms-eval and by calling the backbone in batches."""
    model = run.untrained(RunSpec("joint", corpus.name, "tiny", "XS", 0), corpus, "cpu")
    examples = corpus.splits["test"]
    variant = tasks.parse_variant(corpus.name)
    evaluate(model, variant, corpus)  # imports, first conversion
    through: list[float] = []
    direct: list[float] = []
    for _ in range(max(rounds, 3)):
        start = time.process_time()
        evaluate(model, variant, corpus)
        through.append(time.process_time() - start)
        start = time.process_time()
        for first in range(0, len(examples), 64):
            chunk = examples[first : first + 64]
            model.answer([Inputs(open_image(e.image), e.text) for e in chunk if e.image])
        direct.append(time.process_time() - start)
    each = [1e3 * statistics.median(values) / len(examples) for values in (through, direct)]
    print(f"\nEvaluation of {len(examples)} items: {each[0]:.2f} ms an item through lmms-eval "
          f"(images in memory), {each[1]:.2f} ms by direct batches (images read)")  # fmt: skip


def main() -> None:
    """Measure and print everything."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    quiet_heavy_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "food101"
        world_sets.write("food101", root, train=640, test=500)
        corpus = tasks.load("food101", root)
        bench_steps(corpus, "tiny", rounds)
        bench_steps(corpus, "tiny-additive", rounds)
        bench_meter(corpus, rounds)
        bench_evaluation(corpus, rounds)


if __name__ == "__main__":
    main()
