"""Measure the generative track at real size on a GPU.

``python gpu_session.py OUT [--small]`` has two parts. ``speed`` writes a Qwen2-VL checkpoint
with random weights and the generated questions at 224 px, trains ``METHODS`` on them in bf16 with
LoRA, and prints items and steps a second, peak memory, model FLOPs utilisation and the fraction of
each phase. ``world`` trains a base model of tens of millions of parameters on a larger world,
scenes of 3 x 3 cells at 128 px, then runs the entries of the suite ``world_vlm`` on it and writes
their board. ``--small`` is tiny models on the CPU, to try the session itself.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import tiny_vlms
from rich.console import Console
from rich.table import Table

from steelyard import tasks
from steelyard.harness.cli.leaderboard import BoardOptions, write_boards
from steelyard.harness.core.compat import prepare_imports
from steelyard.harness.core.environment import pick_device
from steelyard.harness.models.tiny_vlm import train as scenes_base
from steelyard.harness.models.tiny_vlm.config import Training
from steelyard.harness.models.tiny_vlm.tokenizer import vocabulary
from steelyard.harness.records.record import Record
from steelyard.harness.runs import suite
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import run_suite
from steelyard.harness.runs.suite import Suite, SuiteEntry
from steelyard.tasks.world import build

METHODS = ("sft", "grpo", "mbpo")
PARTS = ("speed", "world")
WORLD = Training(
    size=128,
    patches=8,
    grid=3,
    objects=4,
    width=512,
    layers=6,
    vision_images=40_000,
    vision_steps=6000,
    images=40_000,
    steps=8000,
    learning_rate=3e-4,
)
SMALL_WORLD = Training(
    size=36, patches=3, grid=3, objects=4, width=32, layers=1,
    vision_images=200, vision_steps=20, images=100, steps=20, text_steps=5,
)  # fmt: skip
QUESTIONS = ("instruct", "prior_conflict", "pope", "vqa", "chair")
LARGE = tiny_vlms.Size(
    hidden=1024,
    layers=24,
    heads=16,
    vision_hidden=768,
    vision_layers=12,
    words=30000,
    vocabulary=vocabulary(),
)
SMALL = tiny_vlms.Size(vocabulary=vocabulary())
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}
"""Dense bf16 TFLOP/s, by a part of the device's name."""


def main() -> None:
    """Run the chosen parts on the GPU, or tiny ones on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--flops", default="2e15", help="Budget of each run.")
    parser.add_argument("--part", choices=PARTS, action="append", help="Run only this part.")
    options = parser.parse_args()
    prepare_imports()
    device = "cpu" if options.small else pick_device("auto")
    if device == "cpu" and not options.small:
        parser.error("no GPU here; --small tries the session on the CPU")
    for part in options.part or PARTS:
        {"speed": measure_speed, "world": board_world}[part](options, device)


def board_world(options: argparse.Namespace, device: str) -> None:
    """Train the larger world's base model, run the suite of the small one on it, write a board."""
    training = SMALL_WORLD if options.small else WORLD
    train, test = (120, 40) if options.small else (20_000, 1000)
    scene = {"size": training.size, "grid": training.grid, "objects": training.objects}
    for task in QUESTIONS:
        build.write(build.WorldSpec(task, train, test, **scene), options.out / "world" / task)
    base = scenes_base.ensure(options.out, training=training, device=device)
    (world_suite,) = suite.load("world_vlm")
    world_suite = replace(
        world_suite,
        entries=world_suite.entries[:2] if options.small else world_suite.entries,
        seeds=(0,) if options.small else (0, 1, 2),
        backbone=str(base),
        backbone_options={"tune": "full", "batch_size": 32, "max_prompt_tokens": 512},
        budget="1e9" if options.small else options.flops,
    )
    roots = tuple(f"{task}={options.out / 'world' / task}" for task in QUESTIONS)
    runs = options.out / "world_runs"
    suite.check(world_suite)
    run_suite(world_suite, RunOptions(runs=runs, device=device, data_root=roots, jobs=1))
    write_boards((runs,), BoardOptions(out=options.out / "world_board"))


def measure_speed(options: argparse.Namespace, device: str) -> None:
    """Write the checkpoint and the data, train, and print the measurements."""
    model = options.out / "qwen2_vl"
    if not model.exists():
        tiny_vlms.make("qwen2_vl", model, SMALL if options.small else LARGE)
    data = options.out / "instruct"
    train, test, size = (120, 40, 64) if options.small else (2800, 500, 224)
    build.write(build.WorldSpec("instruct", train, test, size=size), data)
    speed_suite = Suite(
        "gpu",
        tuple(SuiteEntry(name, {"filters": "same"} if name == "mbpo" else {}) for name in METHODS),
        ("instruct",),
        (),
        backbone=str(model),
        backbone_options={
            "precision": "fp32" if options.small else "bf16",
            "checkpointing": not options.small,
            "batch_size": 8,
        },
        budget="3e9" if options.small else options.flops,
        limit=20,
    )
    suite.check(speed_suite)
    roots = (str(data),)
    run_options = RunOptions(runs=options.out / "runs", device=device, data_root=roots, jobs=1)
    records = run_suite(speed_suite, run_options)
    report(records, len(tasks.load("instruct", data).splits["train"]))


def report(records: list[Record], examples: int) -> None:
    """Print one row per method."""
    table = Table("method", "steps", "steps/s", "items/s", "TFLOP/s", "MFU", "peak GB", "phases")
    for record in records:
        ledger = record.ledger
        seconds = ledger.total_seconds or 1.0
        rate = ledger.total_flops / seconds / 1e12
        peak = next((v for name, v in PEAK_TFLOPS.items() if name in ledger.device), None)
        phases = ", ".join(
            f"{phase} {spent / seconds:.0%}" for phase, spent in sorted(ledger.seconds.items())
        )
        table.add_row(
            record.label,
            str(ledger.steps),
            f"{ledger.steps / seconds:.2f}",
            f"{ledger.items / seconds:.1f}",
            f"{rate:.3g}",
            "unknown device" if peak is None else f"{rate / peak:.1%}",
            f"{ledger.peak_bytes / 1e9:.1f}",
            phases,
        )
    Console().print(table)
    Console().print(f"{examples} training questions, {records[0].ledger.device}")


if __name__ == "__main__":
    main()
