"""Commands that print: list, show."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import click
from rich.padding import Padding
from rich.text import Text

from steelyard import methods, tasks
from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.options import OptionHelp, describe
from steelyard.harness.core.progress import console, print_table
from steelyard.harness.models import classifier_config, registry, vlm_config
from steelyard.harness.records import record
from steelyard.harness.records.budget import BUDGETS
from steelyard.harness.records.record import Ledger
from steelyard.harness.runs import suite
from steelyard.tasks.corruptions import CORRUPTIONS
from steelyard.tasks.corruptions.missing import MISSING

Rows = Iterator[tuple[str, ...]]
"""Headers, then rows."""
OptionTables = Iterator[tuple[str, list[OptionHelp]]]
"""Titles, and options below them."""


@click.command("list")
@click.argument("kind", metavar="methods|tasks|corruptions|backbones|budgets|suites")
@click.argument("name", default="")
def list_(kind: str, name: str) -> None:
    """List methods, tasks, corruptions, backbones, budgets or suites.

    With the NAME of a backbone, method or suite, or its file: its options, each with its values,
    default and meaning.

    \b
    Examples:
      steelyard list methods
      steelyard list methods joint
      steelyard list backbones Qwen/Qwen2.5-VL-7B-Instruct
    """
    check_known("list", kind, TABLES)
    if not name:
        headers, *rows = TABLES[kind]()
        print_table(headers, rows)
        if kind in OPTIONS:
            console.print(f"Options of one: steelyard list {kind} NAME")
    elif kind not in OPTIONS:
        raise UserError(f"{kind} have no options: leave out '{name}'.")
    else:
        for title, options in OPTIONS[kind](name):
            _print_options(title, options)


@click.command()
@click.argument("folder", type=Path)
def show(folder: Path) -> None:
    """Print one run: costs, scores and sources.

    \b
    Example:
      steelyard show runs/joint-food101-tiny-S-s0-1a2b3c4d
    """
    print_record(folder)


def _print_options(title: str, options: Sequence[OptionHelp]) -> None:
    """Print every option on a line of its own, its meaning indented below."""
    console.print(f"\n{title}", style="bold")
    for option in options:
        line = f"{option.name}={option.default}  ({option.values})"
        console.print(line, soft_wrap=True)
        console.print(Padding(option.meaning, (0, 0, 0, 4)))


def backbone_options(name: str) -> OptionTables:
    """Return the options of a backbone, for ``--backbone-set`` and a suite's file."""
    config = registry.configure(name, {})
    names = [field.name for field in fields(config) if field.name != "source"]
    yield f"Options of {name}, set with --backbone-set NAME=VALUE", describe(config, names)


def _method_options(name: str) -> OptionTables:
    method = methods.load(name)
    about = method.ABOUT
    for kind in about.backbones:
        options = describe(methods.configure(method, {}, kind))
        if kind == "classifier" or about.on_vlm or len(about.backbones) == 1:
            title = f"Options of {about.title} on a {kind}, set with --set NAME=VALUE"
            yield (title if options else f"{about.title} has no options"), options
    if about.learning_rate != 1:
        console.print(f"Its learning rate on a vlm is {about.learning_rate:g} x the backbone's.")


def _suite_options(name: str) -> OptionTables:
    keys = [key for key in suite.KEYS if key != "methods"]
    for part in suite.load(name):
        yield f"Keys of a suite's file, with the values of {part.name}", describe(part, keys)
    yield "Keys of an entry of 'methods'", describe(suite.SuiteEntry(""), suite.ENTRY_KEYS)


OPTIONS: dict[str, Callable[[str], OptionTables]] = {
    "backbones": backbone_options,
    "methods": _method_options,
    "suites": _suite_options,
}


def _methods() -> Rows:
    yield "method", "kind", "trains", "what it does", "paper"
    for name in methods.names():
        about = methods.about(name)
        backbones, paper = ", ".join(about.backbones), about.paper or "control"
        summary = f"{about.summary} {about.adapted}".strip()
        yield name, about.kind, backbones, summary, paper


def _tasks() -> Rows:
    yield "task", "main metric", "metrics", "text beside the image", "licence"
    for about in map(tasks.info, tasks.names()):
        yield about.name, about.main, ", ".join(about.metrics), about.text, about.licence


def _corruptions() -> Rows:
    yield "corruption", "modality", "severities or rates", "what it does"
    for name, corruption in CORRUPTIONS.items():
        severities = ", ".join(map(str, corruption.severities)) or "none"
        yield name, corruption.modality, severities, corruption.summary
    for name, missing in MISSING.items():
        yield f"{name}:RATE", missing.modality, "0 to 100 %", missing.summary
    yield "IMAGE+TEXT", "both", "of each", "one corruption of each modality at once"


def _backbones() -> Rows:
    yield "backbone", "kind", "parts", "training"
    for name, config in classifier_config.PRESETS.items():
        parts = f"{config.image} image + {config.text} text encoder, {config.fusion} fusion"
        yield name, "classifier", parts, _recipe(config)
    yield "IMAGE+TEXT", "classifier", "any two AutoModel encoders", "hub ids or paths"
    for name, preset in vlm_config.PRESETS.items():
        parts = f"{preset.source}, {preset.tune} fine-tuning, {preset.vision} vision tower"
        yield name, "vlm", parts, _recipe(preset)
    yield "MODEL", "vlm", "any AutoModelForImageTextToText", "a hub id or a path"


def _recipe(config: classifier_config.ClassifierConfig | vlm_config.VlmConfig) -> str:
    return f"batch {config.batch_size}, {config.optimizer} at {config.learning_rate:g}"


def _budgets() -> Rows:
    yield "budget", "FLOPs", "items on the data track", "meant for"
    for preset in BUDGETS.values():
        yield preset.name, f"{preset.flops:.1g}", f"{preset.items:,}", preset.purpose
    yield "a number", "the number", "the number", "anything, for example --budget 5e12"


def _suites() -> Rows:
    yield "suite", "entries", "tasks", "seeds", "about"
    for name in suite.shipped():
        parts = suite.load(name)
        scored = dict.fromkeys(task for part in parts for task in part.all_tasks)
        entries = sum(len(part.entries) for part in parts)
        about = " ".join(part.about for part in parts)
        yield name, str(entries), ", ".join(scored), str(len(parts[0].seeds)), about


TABLES: dict[str, Callable[[], Rows]] = {
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
    status = result.status, "red" if result.failure else "green"
    console.print(
        Text.assemble((result.label, "bold"), f"  {result.id}  ", status, f" {result.failure}")
    )
    if result.origin == "trained":
        _print_cost(result.ledger)
    else:
        flops = result.declared_flops
        cost = "unknown" if flops is None else f"{flops:.3g} FLOPs, declared and not verified"
        # A model as it is was not trained for this.
        console.print(result.origin + ("" if result.origin == "as it is" else f"; cost {cost}"))
    scores = []
    for score in result.scores:
        error = "" if score.stderr is None else f"{score.stderr:.4f}"
        name = f"{score.subset} {score.metric}".strip()
        style = "bold" if score.main else ""
        scores.append(
            (score.task, score.variant, Text(name, style), f"{score.value:.4f}", error, score.n)
        )
    print_table(("task", "variant", "metric", "value", "± s.e.", "items"), scores, "Scores")
    for line in record.unparsed_lines(result):
        console.print(Text.assemble(("note", "yellow"), f": {line}"))
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


def _print_cost(ledger: Ledger) -> None:
    rows = []
    for phase in sorted({*ledger.flops, *ledger.seconds}):
        flops, seconds = ledger.flops.get(phase), ledger.seconds.get(phase)
        cells = "" if flops is None else f"{flops:.3g}", "" if seconds is None else f"{seconds:.1f}"
        rows.append((phase, *cells))
    flops_limit = f" of {ledger.limit_flops:.3g}" if ledger.limit_flops else ""
    seconds_limit = f" of {ledger.limit_seconds:g}" if ledger.limit_seconds else ""
    total = f"{ledger.total_flops:.3g}{flops_limit}", f"{ledger.total_seconds:.1f}{seconds_limit}"
    rows.append(("total", *total))
    if ledger.artefact_flops:
        rows.append(("of that, artefacts", f"{ledger.artefact_flops:.3g}", ""))
    print_table(("phase", "FLOPs", "seconds"), rows, "Cost")
    items = f" of {ledger.limit_items}" if ledger.limit_items else ""
    audit = f", {ledger.audited} windows audited" if ledger.audited else ""
    answers = f" with {ledger.answers} answers" if ledger.answers > ledger.items else ""
    trained = f"{ledger.steps} steps, {ledger.items}{items} items{answers}"
    console.print(f"{trained}, on {ledger.device}{audit}")
