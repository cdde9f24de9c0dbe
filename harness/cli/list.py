"""Commands that print: list, show."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from steelyard import methods, tasks
from steelyard.harness.core.errors import unknown
from steelyard.harness.core.progress import console
from steelyard.harness.models import classifier_config, vlm_config
from steelyard.harness.records import record
from steelyard.harness.records.budget import BUDGETS
from steelyard.harness.runs import suite
from steelyard.tasks.corruptions import CORRUPTIONS
from steelyard.tasks.corruptions.missing import MISSING


@click.command("list")
@click.argument("kind", metavar="methods|tasks|corruptions|backbones|budgets|suites")
def list_(kind: str) -> None:
    """List methods, tasks, corruptions, backbones, budgets or suites.

    \b
    Example:
      steelyard list methods
    """
    if kind not in TABLES:
        raise unknown("list", kind, TABLES)
    console.print(TABLES[kind]())


@click.command()
@click.argument("folder", type=Path)
def show(folder: Path) -> None:
    """Print one run: costs, scores and sources.

    \b
    Example:
      steelyard show runs/joint-food101-tiny-S-s0-1a2b3c4d
    """
    print_record(folder)


def _methods() -> Table:
    table = Table("method", "kind", "trains", "what it does", "options and defaults", "paper")
    for name in methods.names():
        method = methods.load(name)
        about = method.ABOUT
        options = ", ".join(
            f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in asdict(method.Config()).items()
        )
        backbones, paper = ", ".join(about.backbones), about.paper or "control"
        table.add_row(name, about.kind, backbones, about.summary, options or "none", paper)
    return table


def _tasks() -> Table:
    table = Table("task", "main metric", "metrics", "text beside the image", "licence")
    for name in tasks.names():
        about = tasks.info(name)
        table.add_row(name, about.main, ", ".join(about.metrics), about.text, about.licence)
    return table


def _corruptions() -> Table:
    table = Table("corruption", "modality", "severities or rates", "what it does")
    for name, corruption in CORRUPTIONS.items():
        severities = ", ".join(map(str, corruption.severities)) or "none"
        table.add_row(name, corruption.modality, severities, corruption.summary)
    for name, missing in MISSING.items():
        table.add_row(f"{name}:RATE", missing.modality, "0 to 100 %", missing.summary)
    table.add_row("IMAGE+TEXT", "both", "of each", "one corruption of each modality at once")
    return table


def _backbones() -> Table:
    table = Table("backbone", "kind", "parts", "training")
    for name, config in classifier_config.PRESETS.items():
        parts = f"{config.image} image + {config.text} text encoder, {config.fusion} fusion"
        table.add_row(name, "classifier", parts, _recipe(config))
    table.add_row("IMAGE+TEXT", "classifier", "any two AutoModel encoders", "hub ids or paths")
    for name, preset in vlm_config.PRESETS.items():
        parts = f"{preset.source}, {preset.tune} fine-tuning, {preset.vision} vision tower"
        table.add_row(name, "vlm", parts, _recipe(preset))
    table.add_row("MODEL", "vlm", "any AutoModelForImageTextToText", "a hub id or a path")
    return table


def _recipe(config: classifier_config.ClassifierConfig | vlm_config.VlmConfig) -> str:
    return f"batch {config.batch_size}, {config.optimizer} at {config.learning_rate:g}"


def _budgets() -> Table:
    table = Table("budget", "FLOPs", "items on the data track", "meant for")
    for preset in BUDGETS.values():
        table.add_row(preset.name, f"{preset.flops:.1g}", f"{preset.items:,}", preset.purpose)
    table.add_row("a number", "the number", "the number", "anything, for example --budget 5e12")
    return table


def _suites() -> Table:
    table = Table("suite", "entries", "tasks", "seeds", "about")
    for name in suite.shipped():
        parts = suite.load(name)
        scored = dict.fromkeys(task for part in parts for task in (*part.tasks, *part.evaluate))
        entries = sum(len(part.entries) for part in parts)
        about = " ".join(part.about for part in parts)
        table.add_row(name, str(entries), ", ".join(scored), str(len(parts[0].seeds)), about)
    return table


TABLES: dict[str, Callable[[], Table]] = {
    "methods": _methods,
    "tasks": _tasks,
    "corruptions": _corruptions,
    "backbones": _backbones,
    "budgets": _budgets,
    "suites": _suites,
}


def print_record(folder: Path) -> None:
    """Print one record."""
    result = record.read(folder)
    console.print(f"[bold]{result.label}[/]  {result.id}  [{'red' if result.failure else 'green'}]"
                  f"{result.status}[/] {result.failure}")  # fmt: skip
    ledger = result.ledger
    cost = Table("phase", "FLOPs", "seconds", title="Cost")
    for phase in sorted({*ledger.flops, *ledger.seconds}):
        flops, seconds = ledger.flops.get(phase), ledger.seconds.get(phase)
        cost.add_row(
            phase,
            "" if flops is None else f"{flops:.3g}",
            "" if seconds is None else f"{seconds:.1f}",
        )
    flops_limit = f" of {ledger.limit_flops:.3g}" if ledger.limit_flops else ""
    seconds_limit = f" of {ledger.limit_seconds:g}" if ledger.limit_seconds else ""
    total_flops, total_seconds = f"{ledger.total_flops:.3g}", f"{ledger.total_seconds:.1f}"
    cost.add_row("total", total_flops + flops_limit, total_seconds + seconds_limit)
    if ledger.artefact_flops:
        cost.add_row("of that, artefacts", f"{ledger.artefact_flops:.3g}", "", style="dim")
    console.print(cost)
    items = f" of {ledger.limit_items}" if ledger.limit_items else ""
    audit = f", {ledger.audited} windows audited" if ledger.audited else ""
    console.print(f"{ledger.steps} steps, {ledger.items}{items} items, on {ledger.device}{audit}")
    scores = Table("task", "variant", "metric", "value", "± s.e.", "items", title="Scores")
    for score in result.scores:
        error = "" if score.stderr is None else f"{score.stderr:.4f}"
        name = f"{score.subset} {score.metric}".strip()
        name = f"[bold]{name}[/]" if score.main else name
        scores.add_row(score.task, score.variant, name, f"{score.value:.4f}", error, str(score.n))
    console.print(scores)
    for name, attack in result.provenance.get("attacks", {}).items():
        console.print(f"  attack of {name}: {attack['flops']:.3g} FLOPs, not in the ledger")
    # Means over training of what the method logged.
    for name, value in result.diagnostics.items():
        console.print(f"  {name}: {value:.4g}")
    data, code = result.provenance["data"], result.provenance["code"]
    card = f", card {data['card']}" if "card" in data else ""  # early records have no card
    source = f"code {code['commit'] or code['source']}"
    if data["name"] != tasks.NOTHING:
        source = f"data {data['name']} {data['revision']}{card}, {source}"
    console.print(source)
