"""What a GPU makes of the generative track at real size: a random Qwen2-VL, bf16, LoRA.

``python tests/gpu_session.py OUT [--small]`` writes a checkpoint with random weights and the
generated questions at 224 px, trains ``METHODS`` on them, and prints tokens and steps a second,
peak memory, model FLOPs utilisation and the share of each phase. ``--small`` is a tiny model on
the CPU, to try the session itself.
"""

import argparse
from pathlib import Path

import tiny_vlms
from rich.console import Console
from rich.table import Table

from steelyard import tasks
from steelyard.harness import backbones, commands, world_sets
from steelyard.harness.record import Record
from steelyard.harness.suite import Entry, Suite

METHODS = ("sft", "grpo", "mbpo")
LARGE = tiny_vlms.Size(
    hidden=1024, layers=24, heads=16, vision_hidden=768, vision_layers=12, words=30000
)
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}
"""Dense bf16, by what the device's name contains."""


def main() -> None:
    """Make the checkpoint and the data, train, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--flops", default="2e15", help="Budget of each run.")
    given = parser.parse_args()
    device = "cpu" if given.small else commands.pick_device("auto")
    if device == "cpu" and not given.small:
        parser.error("no GPU here; --small tries the session on the CPU")
    model = given.out / "qwen2_vl"
    if not model.exists():
        tiny_vlms.make("qwen2_vl", model, None if given.small else LARGE)
    data = given.out / "instruct"
    train, test, size = (120, 40, 64) if given.small else (2800, 500, 224)
    world_sets.write("instruct", data, train=train, test=test, size=size)
    suite = Suite(
        "gpu",
        tuple(Entry(name, {"filters": "same"} if name == "mbpo" else {}) for name in METHODS),
        ("instruct",),
        (),
        backbone=str(model),
        backbone_options={
            "precision": "fp32" if given.small else "bf16",
            "checkpointing": not given.small,
            "batch_size": 8,
        },
        budget="3e9" if given.small else given.flops,
        limit=20,
    )
    backbones.configure(suite.backbone, suite.backbone_options)
    options = {"device": device, "data_root": [str(data)], "jobs": 1}
    records = commands.run_suite(suite, given.out / "runs", options)
    report(records, len(tasks.load("instruct", data).splits["train"]))


def report(records: list[Record], examples: int) -> None:
    """One row a method."""
    table = Table("method", "steps", "steps/s", "items/s", "TFLOP/s", "MFU", "peak GB", "phases")
    for found in records:
        ledger = found.ledger
        seconds = ledger.total_seconds or 1.0
        rate = ledger.total_flops / seconds / 1e12
        peak = next((v for name, v in PEAK_TFLOPS.items() if name in ledger.device), None)
        shares = ", ".join(
            f"{phase} {spent / seconds:.0%}" for phase, spent in sorted(ledger.seconds.items())
        )
        table.add_row(
            found.label,
            str(ledger.steps),
            f"{ledger.steps / seconds:.2f}",
            f"{ledger.items / seconds:.1f}",
            f"{rate:.3g}",
            "unknown device" if peak is None else f"{rate / peak:.1%}",
            f"{ledger.peak_bytes / 1e9:.1f}",
            shares,
        )
    Console().print(table)
    Console().print(f"{examples} training questions, {records[0].ledger.device}")


if __name__ == "__main__":
    main()
