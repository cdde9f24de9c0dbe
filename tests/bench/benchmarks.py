"""Cost of a method's step beside joint training's, of the meter, and of lmms-eval.

Usage: ``python benchmarks.py [ROUNDS]``. Times are medians over steps.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from timing import arguments, cpu_seconds, in_turns
from torch import Tensor

from steelyard import methods, tasks
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import registry
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.harness.training.train_data import TrainData, train_data
from steelyard.tasks._shared.images import open_image
from steelyard.tasks.world import build

Work = Callable[[Batch], object]
Cases = dict[str, tuple[str, dict[str, methods.Option]]]
CASES: Cases = {
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
VLM_CASES: Cases = {
    "joint": ("joint", {}),
    "joint_unimodal": ("joint_unimodal", {}),
    "modality_dropout": ("modality_dropout", {}),
    "mcr": ("mcr", {}),
    "mcr without unimodal": ("mcr", {"unimodal": 0.0}),
    "mcr players=sides": ("mcr", {"players": "sides"}),
    "balgrad P2": ("balgrad", {}),
    "balgrad P1": ("balgrad", {"projection": "P1"}),
    "balgrad fixed KL": ("balgrad", {"projection": "none", "weighting": "equal"}),
}
STEPS_FLOPS = 1.2e10  # about thirty steps of joint training
WARM = 5  # first steps of a run, in which the meter calibrates


def prepared(corpus: Corpus, name: str, options: dict[str, methods.Option],
             backbone: str) -> tuple[Classifier | Vlm, TrainData, Any]:  # fmt: skip
    """Build a model, its training data and the method's configuration for it."""
    method = methods.load(name)
    model = registry.build_untrained(RunSpec(name, corpus.name, backbone, "XS", 0), corpus, "cpu")
    data = train_data(model, corpus.name, corpus)
    fits = model.kind in method.ABOUT.backbones
    config = methods.configure(method, options, model.kind) if fits else method.Config()
    return model, data, config


def step_times(corpus: Corpus, name: str, options: dict[str, methods.Option],
               backbone: str) -> list[float]:  # fmt: skip
    """Return the CPU seconds of each step of a short run."""
    model, data, config = prepared(corpus, name, options, backbone)
    meter = Meter(Budget("bench", STEPS_FLOPS))
    stamps: list[float] = []
    meter.on_progress = lambda fraction: stamps.append(time.process_time())
    for module in model.metered_modules:
        meter.watch(module)
    with meter, suppress(BudgetSpent):
        methods.load(name).train(model, data, meter, config, 0)
    return [after - before for before, after in pairwise(stamps)][WARM:]


def bench_steps(corpus: Corpus, backbone: str, cases: Cases, rounds: int) -> None:
    """Print the cost of a step of each method relative to joint training's."""
    times: dict[str, list[float]] = {label: [] for label in cases}
    for _ in range(rounds):
        for label, (name, options) in cases.items():
            times[label] += step_times(corpus, name, options, backbone)
    base = statistics.median(times["joint"])
    print(f"\nCPU time of a training step, backbone {backbone}, batch 32 (joint = 1)")
    for label, values in times.items():
        median = statistics.median(values)
        print(f"  {label:28s} {1e3 * median:7.2f} ms  {median / base:5.2f}x")


def kept_bytes(corpus: Corpus, name: str, options: dict[str, methods.Option], backbone: str) -> int:
    """Return the bytes of activations that the first backward pass needs, each storage once."""
    model, data, config = prepared(corpus, name, options, backbone)
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    meter = Meter(Budget("bench", STEPS_FLOPS))

    def first_step(fraction: float) -> None:
        raise BudgetSpent

    meter.on_progress = first_step
    with (
        meter,
        suppress(BudgetSpent),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        methods.load(name).train(model, data, meter, config, 0)
    return sum(size for address, size in storages.items() if address not in weights)


def bench_memory(corpus: Corpus, backbone: str, cases: Cases) -> None:
    """Print the activations that one step of each method keeps for its backward pass."""
    sizes = {label: kept_bytes(corpus, *case, backbone) for label, case in cases.items()}
    base = next(iter(sizes.values()))
    print(f"\nActivations kept in a step, backbone {backbone} (first line = 1)")
    for label, size in sizes.items():
        print(f"  {label:28s} {size / 2**20:7.1f} MiB {size / base:5.2f}x")


def bench_meter(
    label: str, model: Classifier | Vlm, batches: Iterator[Batch], work: Work, rounds: int
) -> None:
    """Print the cost of counting: one model on the same batches, watched and unwatched in turn.

    Two models would differ by 1 % by the position of their weights in memory alone.
    """
    meter = Meter(Budget("bench", 1e15))
    times: dict[bool, list[float]] = {True: [], False: []}
    with meter:
        for turn in range(12 * rounds):
            chunk = list(itertools.islice(batches, WARM))
            for watched in (turn % 2 == 0, turn % 2 == 1):
                modules = model.metered_modules if watched else ()
                handles = [meter.watch(module) for module in modules]
                for batch in chunk:
                    seconds = cpu_seconds(lambda batch=batch: (work(batch), meter.step(1)))
                    times[watched].append(seconds)
                for handle in (handle for pair in handles for handle in pair):
                    handle.remove()
    ratio = statistics.median(times[True]) / statistics.median(times[False])
    print(f"\nMeter, {label}: with it {ratio:.3f}x the time without")


def bench_meters(classes: Corpus, questions: Corpus, rounds: int) -> None:
    """Measure a classifier's steps, a vision-language model's steps and its generation."""
    for corpus, backbone in ((classes, "tiny"), (questions, "tiny-vlm")):
        model, data, _ = prepared(corpus, "joint", {}, backbone)
        batches = data.batches(32, 0, "bench")
        bench_meter(f"training step of {backbone}", model, batches, training(model), rounds)
        if isinstance(model, Vlm):
            batches = data.batches(8, 0, "bench")
            bench_meter("eight tokens of tiny-vlm", model, batches, generating(model), rounds)


def training(model: Backbone) -> Work:
    """Return a step of joint training."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)

    def work(batch: Batch) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(model.loss(model.predict(batch), batch).mean())
        optimiser.step()

    return work


def generating(model: Vlm) -> Work:
    """Return the generation of eight tokens for each prompt."""
    return lambda batch: model.continuations(batch, 8)


def bench_evaluation(corpus: Corpus, rounds: int) -> None:
    """Print CPU time per item through lmms-eval and by calling the backbone in batches."""
    model, _, _ = prepared(corpus, "joint", {}, "tiny")
    examples = corpus.splits["test"]
    variant = tasks.parse_variant(corpus.name)

    def direct() -> None:
        for first in range(0, len(examples), 64):
            chunk = examples[first : first + 64]
            inputs = [Inputs(open_image(e.image), e.text) for e in chunk if e.image]
            model.answer(inputs, corpus.classes)

    evaluate(model, variant, corpus)  # imports, first conversion
    works = {"lmms-eval": lambda: evaluate(model, variant, corpus), "direct": direct}
    times = in_turns(works, max(rounds, 3))
    through, plain = (1e3 * statistics.median(times[name]) / len(examples) for name in works)
    print(f"\nEvaluation of {len(examples)} items: {through:.2f} ms per item through lmms-eval "
          f"(images in memory), {plain:.2f} ms by direct batches (images read)")  # fmt: skip


def main(rounds: int) -> None:
    """Measure and print everything."""
    quiet_heavy_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        build.write(build.WorldSpec("food101", train=640, test=500), root / "food101")
        build.write(build.WorldSpec("instruct", train=640, test=20), root / "instruct")
        corpus, questions = (tasks.load(name, root / name) for name in ("food101", "instruct"))
        bench_steps(corpus, "tiny", CASES, rounds)
        bench_steps(corpus, "tiny-additive", CASES, rounds)
        bench_steps(questions, "tiny-vlm", VLM_CASES, rounds)
        bench_memory(questions, "tiny-vlm", VLM_CASES)
        bench_meters(corpus, questions, rounds)
        bench_evaluation(corpus, rounds)


if __name__ == "__main__":
    main(*arguments(__doc__, rounds=5))
