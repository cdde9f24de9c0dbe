"""Cost of a method's step beside joint training's, of the meter, and of lmms-eval.

Usage: ``python benchmarks.py [ROUNDS]``. What is compared takes turns; ratios are medians over
turns, which other work on the machine hardly moves.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import Any, NamedTuple

import torch
from timing import arguments, cpu_seconds, in_turns
from torch import Tensor

from steelyard import methods, tasks
from steelyard.harness.budget.meter import Budget, BudgetSpent, Meter
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.core.options import Option
from steelyard.harness.data.images import open_image
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import registry
from steelyard.harness.models.backbone import Backbone, Batch
from steelyard.harness.models.classifier import Classifier
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.harness.training.train_data import TrainData, train_data
from steelyard.tasks.world import build

Work = Callable[[Batch], object]
Options = dict[str, Option]
Cases = dict[str, tuple[str, Options]]
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
    "modality_dropout": ("modality_dropout", {}),
    "mcr": ("mcr", {}),
    "mcr with unimodal": ("mcr", {"unimodal": 0.01}),
    "mcr players=sides": ("mcr", {"players": "sides"}),
    "balgrad P2": ("balgrad", {}),
    "balgrad P1": ("balgrad", {"projection": "P1"}),
    "balgrad fixed KL": ("balgrad", {"projection": "none", "weighting": "equal"}),
}
WARM, STEPS = 5, 20
"""First steps of a run, in which the meter calibrates, and steps that are timed after them."""


class Setup(NamedTuple):
    """Model, its training data and a method with its configuration."""

    model: Classifier | Vlm
    data: TrainData
    method: methods.Method
    config: Any

    def train(self, on_step: Callable[[], None], *, metered: bool) -> None:
        """Train until ``on_step`` raises BudgetSpent."""
        meter = Meter(Budget("bench", 1e15), "cpu")
        meter.on_progress = lambda fraction: on_step()
        for module in self.model.metered_modules if metered else ():
            meter.watch(module)
        with meter, suppress(BudgetSpent):
            self.method.train(self.model, self.data, meter, self.config, 0)


def prepared(corpus: Corpus, name: str, options: Options, backbone: str) -> Setup:
    """Build a model, its training data and the method's configuration for it."""
    method = methods.load(name)
    model = registry.build_untrained(RunSpec(name, corpus.name, backbone, "XS", 0), corpus, "cpu")
    fits = model.kind in method.ABOUT.backbones
    config = methods.configure(method, options, model.kind) if fits else method.Config()
    return Setup(model, train_data(model, corpus.name, corpus), method, config)


def step_times(setups: Mapping[str, Setup], steps: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each step of a run of each setup.

    The runs are threads that take turns after every step, so that a busy machine slows all alike.
    """
    times: dict[str, list[float]] = {label: [] for label in setups}
    turns = [Semaphore(0) for _ in setups]

    def work(label: str, turn: Semaphore, following: Semaphore) -> None:
        turn.acquire()
        start = time.thread_time()

        def on_step() -> None:
            nonlocal start
            times[label].append(time.thread_time() - start)
            if len(times[label]) == WARM + steps:
                raise BudgetSpent
            following.release()
            turn.acquire()
            start = time.thread_time()

        try:
            setups[label].train(on_step, metered=True)
        finally:
            following.release()

    with ThreadPoolExecutor(len(setups)) as pool:
        runs = pool.map(work, setups, turns, turns[1:] + turns[:1])
        turns[0].release()
        list(runs)  # raises what a run raised
    return {label: values[WARM:] for label, values in times.items()}


def bench_steps(corpus: Corpus, backbone: str, cases: Cases, rounds: int) -> None:
    """Print the cost of a step of each method relative to joint training's."""
    setups = {label: prepared(corpus, *case, backbone) for label, case in cases.items()}
    times = step_times(setups, rounds * STEPS)
    print(f"\nCPU time of a training step, backbone {backbone}, batch 32 (joint = 1)")
    for label, values in times.items():
        ratios = [value / base for value, base in zip(values, times["joint"], strict=True)]
        lowest, ratio = 1e3 * min(values), statistics.median(ratios)
        print(f"  {label:28s} {lowest:7.2f} ms at least  {ratio:5.2f}x")


def kept_bytes(setup: Setup) -> int:
    """Return the bytes of activations that the first backward pass needs, each storage once."""
    storages: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in setup.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def first_step() -> None:
        raise BudgetSpent

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        setup.train(first_step, metered=False)
    return sum(size for address, size in storages.items() if address not in weights)


def bench_memory(corpus: Corpus, backbone: str, cases: Cases) -> None:
    """Print the activations that one step of each method keeps for its backward pass."""
    sizes = {label: kept_bytes(prepared(corpus, *case, backbone)) for label, case in cases.items()}
    print(f"\nActivations kept in a step, backbone {backbone} (joint = 1)")
    for label, size in sizes.items():
        print(f"  {label:28s} {size / 2**20:7.1f} MiB {size / sizes['joint']:5.2f}x")


def bench_meter(
    label: str, model: Classifier | Vlm, batches: Iterator[Batch], work: Work, rounds: int
) -> None:
    """Print the cost of counting: one model on the same batches, watched and unwatched in turn.

    Two models would differ by 1 % by the position of their weights in memory alone.
    """
    meter = Meter(Budget("bench", 1e15), "cpu")
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
    base = statistics.median(times[False])
    ratio = statistics.median(times[True]) / base
    print(f"\nMeter, {label}: with it {ratio:.3f}x the {1e3 * base:.0f} ms without")


def bench_meters(classes: Corpus, questions: Corpus, rounds: int) -> None:
    """Measure a classifier's steps, a vision-language model's steps and its generation."""
    # Batches that take a tenth of a second, as a small step of a real model does.
    for corpus, backbone, size in ((classes, "tiny", 384), (questions, "tiny-vlm", 160)):
        model, data, *_ = prepared(corpus, "joint", {}, backbone)
        batches = data.batches(size, 0, "bench")
        bench_meter(f"training step of {backbone}", model, batches, training(model), rounds)
        if isinstance(model, Vlm):
            batches, answer = (
                data.batches(8, 0, "bench"),
                partial(model.continuations, max_tokens=8),
            )
            bench_meter("eight tokens of tiny-vlm", model, batches, answer, rounds)


def training(model: Backbone) -> Work:
    """Return a step of joint training."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, foreach=True)

    def work(batch: Batch) -> None:
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(model.loss(model.predict(batch), batch).mean())
        optimiser.step()

    return work


def bench_evaluation(corpus: Corpus, rounds: int) -> None:
    """Print CPU time per item through lmms-eval and by calling the backbone in batches."""
    model = prepared(corpus, "joint", {}, "tiny").model
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
