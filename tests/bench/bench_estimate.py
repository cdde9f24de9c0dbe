"""Estimates of ``steelyard plan`` beside finished runs of six shapes, on a CPU.

``python tests/bench/bench_estimate.py [WORD ...]`` prints steps, FLOPs and memory, estimated and
measured. FLOPs are the ledger's. Memory are the bytes of tensors that operations made during the
full run, at the moment of most, with the weights: what a GPU's allocator would be asked for. The
features of a frozen tower, and a trainer's rows of pixels, are left out: beside a GPU they are in
the host's memory.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from steelyard.harness.budget.live_bytes import LiveBytes
from steelyard.harness.budget.meter import Meter
from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.progress import no_progress, print_table
from steelyard.harness.models import registry
from steelyard.harness.runs import cards, estimate, run, suite, training
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import load_corpora, quiet_heavy_libraries
from steelyard.harness.training import train_data

ENCODERS = "efficientnet-lite0+minilm-l6"
built: list[Any] = []
"""Backbone of the run in progress."""
peaks: list[int] = []
current: list[LiveBytes] = []
"""Memory of the run in progress."""


class MeasuringMeter(Meter):
    """Meter that also counts the bytes of the run's tensors."""

    def __enter__(self) -> Self:
        self.memory = LiveBytes(built[-1]).__enter__()
        super().__enter__()
        current.append(self.memory)
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.memory.__exit__(*exception)
        stores = [m.feature_store.size for m in built[-1].modules() if hasattr(m, "feature_store")]
        peaks.append(sum(self.memory.peak.values()) - sum(stores))


def on_host(prepare: Any) -> Any:
    """Leave out the items that a vision-language model's trainer keeps in the host's memory."""

    def wrapped(backbone: Any, *args: Any) -> Any:
        data = prepare(backbone, *args)
        if backbone.kind != "vlm":
            return data

        def gather(rows: Any) -> Any:
            return (current[-1].on_host(data.gather) if current else data.gather)(rows)

        return replace(data, gather=gather)

    return wrapped


def remember(build: Any) -> Any:
    def wrapped(*args: Any) -> Any:
        built.append(build(*args))
        return built[-1]

    return wrapped


def shapes() -> dict[str, tuple[str, RunOptions]]:
    vlm = RunOptions(backbone="tiny-vlm", corruptions=("none",))
    data = replace(vlm, track="data", budget="3200")
    return {
        "tiny classifier": ("ogm_ge", RunOptions(budget="5e10")),
        "frozen encoders": (
            "joint_unimodal",
            RunOptions(backbone=ENCODERS, backbone_set=("frozen=true",), budget="2.63e12"),
        ),
        "tiny-vlm SFT, items": ("sft", data),
        "tiny-vlm DPO, items": ("dpo", data),
        "tiny-vlm GRPO": ("grpo", replace(vlm, budget="6e10")),
        "tiny-vlm MCR": ("mcr", replace(vlm, budget="8e10")),
        "tiny-vlm MBPO": ("mbpo", replace(vlm, budget="1e11")),
    }


def compare(name: str, method: str, options: RunOptions, folder: Path) -> tuple[object, ...]:
    """Estimate one run, run it, and return both in a row of the table."""
    options = replace(options, runs=folder, device="cpu")
    (one,) = suites_from(method, options)
    corpora = load_corpora(one.all_tasks, options, one.data_options)
    (job,) = suite.jobs(replace(one, evaluate=()), corpora)
    job = replace(job, variants=())
    (guess,) = estimate.estimate([job], corpora, cards.CARDS["cpu"], 1.0, "cpu", no_progress)
    ledger = run.run(job, corpora, folder, "cpu", no_progress).ledger
    beside = ("training items", "process")  # are no tensors of the training
    needed = sum(size for part, size in guess.memory.items() if part not in beside)
    pairs = (
        (guess.training.steps, ledger.steps),
        (guess.training.total, ledger.total_flops),
        (guess.training.total / max(1, guess.training.steps), ledger.total_flops / ledger.steps),
        (needed / 1e6, peaks[-1] / 1e6),
    )
    return name, *(f"{a:.4g} / {b:.4g} ({a / b - 1:+.1%})" for a, b in pairs)


def main() -> None:
    """Print the table."""
    quiet_heavy_libraries()
    train_data.train_data = on_host(train_data.train_data)
    training.Meter, registry.build_untrained = MeasuringMeter, remember(registry.build_untrained)
    names = sys.argv[1:]
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        rows = [
            compare(name, method, options, folder)
            for name, (method, options) in shapes().items()
            if not names or any(word in name for word in names)
        ]
    head = ("run", "steps", "FLOPs", "FLOPs a step", "MB of tensors")
    print_table(head, rows, "estimated / measured (difference)")


if __name__ == "__main__":
    main()
