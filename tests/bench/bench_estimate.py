"""Estimates of ``steelyard plan`` beside finished runs of six shapes, on a CPU.

``python tests/bench/bench_estimate.py [WORD ...]`` prints steps, FLOPs and memory, estimated and
measured, the latter as the ledger has them. On a CPU its memory are the bytes of tensors within the
audited windows of the run, at the moment of most.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.progress import no_progress, print_table
from steelyard.harness.runs import cards, estimate, run, suite
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import load_corpora, quiet_heavy_libraries

ENCODERS = "efficientnet-lite0+minilm-l6"


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
    pairs = (
        (guess.training.steps, ledger.steps),
        (guess.training.total, ledger.total_flops),
        (guess.training.total / max(1, guess.training.steps), ledger.total_flops / ledger.steps),
        (sum(guess.memory.values()) / 1e6, ledger.peak_bytes / 1e6),
    )
    return name, *(f"{a:.4g} / {b:.4g} ({a / b - 1:+.1%})" for a, b in pairs)


def main() -> None:
    """Print the table."""
    quiet_heavy_libraries()
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
