"""What there is and what a run holds, as tables on the terminal."""

from pathlib import Path
from typing import Any

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


def print_list(kind: str) -> None:
    """A table of everything of one kind."""
    tables = {
        "methods": _methods_table,
        "tasks": _tasks_table,
        "corruptions": _corruptions_table,
        "backbones": _backbones_table,
        "budgets": _budgets_table,
        "suites": _suites_table,
    }
    if kind not in tables:
        raise unknown("kind of thing to list", kind, tables)
    console.print(tables[kind]())


def _methods_table() -> Table:
    table = Table("method", "kind", "trains", "what it does", "options and defaults", "paper")
    for name in methods.names():
        method = methods.load(name)
        config = method.Config()
        options = ", ".join(f"{key}={value}" for key, value in _fields(config))
        about = method.ABOUT
        trains = ", ".join(about.backbones)
        paper = about.paper or "control"
        table.add_row(name, about.kind, trains, about.summary, options or "none", paper)
    return table


def _fields(config: Any) -> list[tuple[str, Any]]:
    from dataclasses import asdict

    shown = asdict(config).items()
    return [(key, f"{value:.3g}" if isinstance(value, float) else value) for key, value in shown]


def _tasks_table() -> Table:
    table = Table("task", "main metric", "metrics", "evidence text", "licence")
    for name in tasks.names():
        about = tasks.info(name)
        table.add_row(name, about.main, ", ".join(about.metrics), about.text, about.licence)
    return table


def _corruptions_table() -> Table:
    table = Table("corruption", "side", "severities or rates", "what it does")
    for name, corruption in CORRUPTIONS.items():
        severities = ", ".join(map(str, corruption.severities)) or "none"
        table.add_row(name, corruption.modality, severities, corruption.summary)
    for name, missing in MISSING.items():
        table.add_row(f"{name}:RATE", missing.modality, "0 to 100 %", missing.summary)
    table.add_row("IMAGE+TEXT", "both", "as theirs", "one corruption of each side at once")
    return table


def _backbones_table() -> Table:
    table = Table("backbone", "kind", "made of", "about")
    for name, config in classifier_config.PRESETS.items():
        made = f"{config.image} image + {config.text} text encoder, {config.fusion} fusion"
        table.add_row(name, "classifier", made, _recipe(config))
    table.add_row("IMAGE+TEXT", "classifier", "any two AutoModel encoders", "hub ids or paths")
    for name, preset in vlm_config.PRESETS.items():
        made = f"{preset.source}, {preset.tune} fine-tuning, {preset.vision} vision tower"
        table.add_row(name, "vlm", made, _recipe(preset))
    table.add_row("MODEL", "vlm", "any AutoModelForImageTextToText", "a hub id or a path")
    return table


def _recipe(config: classifier_config.ClassifierConfig | vlm_config.VlmConfig) -> str:
    return f"batch {config.batch_size}, {config.optimizer} at {config.learning_rate:g}"


def _budgets_table() -> Table:
    table = Table("budget", "FLOPs", "items on the data track", "meant for")
    for preset in BUDGETS.values():
        table.add_row(preset.name, f"{preset.flops:.1g}", f"{preset.items:,}", preset.purpose)
    table.add_row("a number", "as given", "as given", "anything, for example --budget 5e12")
    return table


def _suites_table() -> Table:
    table = Table("suite", "entries", "tasks", "seeds", "about")
    for name in suite.shipped():
        parts = suite.load(name)
        scored = dict.fromkeys(task for made in parts for task in (*made.tasks, *made.evaluate))
        entries = sum(len(made.entries) for made in parts)
        about = " ".join(made.about for made in parts)
        table.add_row(name, str(entries), ", ".join(scored), str(len(parts[0].seeds)), about)
    return table


def show(folder: Path) -> None:
    """Print one record."""
    found = record.read(folder)
    console.print(f"[bold]{found.label}[/]  {found.id}  [{'red' if found.failure else 'green'}]"
                  f"{found.status}[/] {found.failure}")  # fmt: skip
    ledger = found.ledger
    cost = Table("phase", "FLOPs", "seconds", title="Cost")
    for phase in sorted({*ledger.flops, *ledger.seconds}):
        seconds = ledger.seconds.get(phase)
        flops = ledger.flops.get(phase)
        spent = "" if flops is None else f"{flops:.3g}"
        cost.add_row(phase, spent, "" if seconds is None else f"{seconds:.1f}")
    limit = f" of {ledger.limit_flops:.3g}" if ledger.limit_flops else ""
    wall = f" of {ledger.limit_seconds:g}" if ledger.limit_seconds else ""
    spent = f"{ledger.total_seconds:.1f}{wall}"
    cost.add_row("total", f"{ledger.total_flops:.3g}{limit}", spent)
    if ledger.artefact_flops:
        cost.add_row("of that, artefacts", f"{ledger.artefact_flops:.3g}", "", style="dim")
    console.print(cost)
    items = f" of {ledger.limit_items}" if ledger.limit_items else ""
    checked = f", {ledger.audited} stretches audited" if ledger.audited else ""
    console.print(f"{ledger.steps} steps, {ledger.items}{items} items, on {ledger.device}{checked}")
    scores = Table("task", "variant", "metric", "value", "± s.e.", "items", title="Scores")
    for score in found.scores:
        error = "" if score.stderr is None else f"{score.stderr:.4f}"
        name = f"{score.subset} {score.metric}".strip()
        name = f"[bold]{name}[/]" if score.main else name
        scores.add_row(score.task, score.variant, name, f"{score.value:.4f}", error, str(score.n))
    console.print(scores)
    for name, attack in found.provenance.get("attacks", {}).items():
        console.print(f"  attack of {name}: {attack['flops']:.3g} FLOPs, on no ledger")
    for name, value in found.diagnostics.items():
        console.print(f"  {name}: {value:.4g}")
    data, code = found.provenance["data"], found.provenance["code"]
    # Records made before there were cards have none.
    shown = f"{data['revision']}, card {data['card']}" if "card" in data else data["revision"]
    trained = "" if data["name"] == tasks.NOTHING else f"data {data['name']} {shown}, "
    console.print(f"{trained}code {code['commit'] or code['source']}")
