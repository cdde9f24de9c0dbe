"""What the commands do, free of click: suites from options, runs with progress, printing."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from steelyard import methods, tasks
from steelyard.harness import classifier_config, record, suite
from steelyard.harness.budget import BUDGETS, parse_budget
from steelyard.harness.data import Corpus
from steelyard.harness.errors import UserError, unknown
from steelyard.harness.record import Record
from steelyard.harness.run import Job, finished
from steelyard.harness.suite import Entry, Suite
from steelyard.tasks.corruptions import CORRUPTIONS

DEFAULT_CORRUPTIONS = tuple(CORRUPTIONS)
TRAINING_SHARE = 0.6  # of a run's progress bar; the rest is evaluation
console = Console()


def suite_from(target: str, given: Mapping[str, Any]) -> Suite:
    """The suite that a target and its options describe."""
    options = parse_pairs(given["sets"])
    if target in suite.shipped() or target.endswith((".yaml", ".yml")):
        if options:
            raise UserError("--set goes with a single method; a suite names its own options.")
        base = suite.load(target)
    elif target in methods.names() or target.endswith(".py"):
        base = Suite("run", (Entry(target, options),), ("food101",), DEFAULT_CORRUPTIONS)
    else:
        raise unknown("suite or method", target, [*suite.shipped(), *methods.names()])
    entries = (*base.entries, *(Entry(method) for method in given["extra"]))
    chosen = given["tasks"] or base.tasks
    loader = {key: str(value) for key, value in parse_pairs(given["data_set"]).items()}
    made = replace(
        base,
        entries=entries,
        tasks=tuple(chosen),
        corruptions=tuple(given["corruptions"]) or base.corruptions,
        seeds=parse_seeds(given["seeds"]) if given["seeds"] else base.seeds,
        budget=given["budget"] or base.budget,
        backbone=given["backbone"] or base.backbone,
        backbone_options={**base.backbone_options, **parse_pairs(given["backbone_set"])},
        data_options=dict.fromkeys(chosen, loader) if loader else base.data_options,
        limit=given["limit"] or base.limit,
    )
    suite.check(made)
    return made


def run_suite(
    made: Suite, runs: Path, given: Mapping[str, Any], *, evaluate: bool = True
) -> list[Record]:
    """Run what has no record yet, with progress; prints the plan only when asked to."""
    device = pick_device(given.get("device") or "auto")
    roots = parse_roots(given.get("data_root") or (), made.tasks)
    with console.status("reading data"):
        corpora = suite.load_corpora(made, roots, given.get("max_bad", 0.01))
    for corpus in corpora.values():
        report_skipped(corpus)
    jobs = suite.jobs(made, corpora)
    if not evaluate:
        jobs = [replace(job, variants=()) for job in jobs]
    workers = given.get("jobs") or (1 if device.startswith("cuda") else os.cpu_count() or 1)
    if given.get("dry_run"):
        print_plan(jobs, runs, workers)
        return []
    records = _run_with_progress(jobs, corpora, runs, device, workers)
    failed = [found for found in records if found.status == "failed"]
    for found in failed:
        console.print(f"[red]failed[/] {found.id}: {found.failure}", highlight=False)
    done = len(records) - len(failed)
    console.print(f"{done} runs done, {len(failed)} failed, in {runs}", highlight=False)
    return records


def _run_with_progress(
    jobs: Sequence[Job], corpora: Mapping[str, Corpus], runs: Path, device: str, workers: int
) -> list[Record]:
    from steelyard.harness.pool import execute

    known = [(job, finished(job, runs)) for job in jobs]
    records = [found for _, found in known if found is not None]
    waiting = [job for job, found in known if found is None]
    if records and waiting:
        console.print(f"{len(records)} runs are done already, {len(waiting)} to go")
    shares: dict[str, float] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        line = bar.add_task("starting", total=max(len(waiting), 1))

        def report(identity: str, doing: str, share: float) -> None:
            done = TRAINING_SHARE * share if doing == "training" else 0.0
            if doing.startswith("evaluating"):
                done = TRAINING_SHARE + (1 - TRAINING_SHARE) * share
            shares[identity] = done
            bar.update(line, description=f"{identity}: {doing}", completed=sum(shares.values()))

        start = time.monotonic()
        for found in execute(waiting, corpora, runs, device=device, workers=workers, report=report):
            records.append(found)
            shares[found.id] = 1.0
            bar.update(line, completed=sum(shares.values()))
            if not console.is_terminal:
                count = f"{len(records)}/{len(jobs)}"
                seconds = time.monotonic() - start
                console.print(f"{count} {found.status} {found.id} ({seconds:.0f} s)")
    return records


def evaluate_run(
    folder: Path,
    variants: Sequence[str],
    *,
    data_root: Path | None,
    max_bad: float,
    limit: int | None,
    device: str,
) -> None:
    """Evaluate a finished run on more variants; its record then holds them too."""
    from steelyard.harness.pool import quiet_heavy_libraries
    from steelyard.harness.run import run

    found = record.read(folder)
    spec = found.spec
    for name in variants:
        task = name.partition("@")[0]
        if task != spec.task:
            raise UserError(f"{folder} was trained on {spec.task}, it cannot answer {task}.")
    wanted = [v.partition("@")[2] for v in variants]
    chosen = tasks.variants(spec.task, [name for name in wanted if name])
    loader = {key: value for key, value in spec.data.items() if key != "revision"}
    root = tasks.find_root(spec.task, data_root)
    corpus = tasks.load(spec.task, root, max_bad=max_bad, **loader)
    if corpus.revision != spec.data["revision"]:
        raise UserError(
            f"The data at {root} is not what {folder.name} was trained on "
            f"(revision {corpus.revision}, not {spec.data['revision']}); give its --data-root."
        )
    names = tuple(variant.name for variant in chosen)
    made = found.provenance
    limit = limit or made["limit"]  # the items its other variants were scored on
    job = Job(spec, found.label, names, split=made["data"]["split"], limit=limit)
    quiet_heavy_libraries()
    with console.status(f"evaluating {len(names)} variants"):
        run(job, corpus, folder.parent, pick_device(device), lambda doing, share: None)
    show(folder)


def demo(name: str, runs: Path, out: Path, given: Mapping[str, Any]) -> None:
    """Run a shipped suite and print its board."""
    made = suite.load(name)
    if run_suite(made, runs, given):
        boards((runs,), out, "joint")


def boards(
    folders: Sequence[Path],
    out: Path,
    control: str,
    backbone: str | None = None,
    budget: str | None = None,
) -> None:
    """Write boards from records, of one backbone and budget where given, and print them."""
    from steelyard.leaderboards import publish
    from steelyard.leaderboards.tables import terminal

    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"No folder of runs at {folder}; 'steelyard run demo' makes one.")
    kinds = {name: methods.load(name).ABOUT.kind for name in methods.names()}
    with console.status("making boards"):
        published = publish(
            folders, out, control=control, kinds=kinds, backbone=backbone, budget=budget
        )
    for board in published.boards:
        console.print(terminal(board, console.width))
    console.print(f"{len(published.files)} files in {out}, begin with {out / 'board.md'}")


def print_plan(jobs: Sequence[Job], runs: Path, workers: int) -> None:
    """What would be run, what is done, and what the rest will cost."""
    table = Table("run", "state", "budget (FLOPs)", "variants")
    seconds: list[float] = []
    pending, total = 0, 0.0
    for job in jobs:
        found = finished(job, runs)
        flops = parse_budget(job.spec.budget).flops
        if found is None:
            pending, total = pending + 1, total + flops
        else:
            seconds.append(found.ledger.total_seconds)
        state = "to run" if found is None else found.status
        table.add_row(job.spec.id, state, f"{flops:.2g}", str(len(job.variants)))
    console.print(table)
    console.print(f"{pending} of {len(jobs)} runs to do, at most {total:.3g} FLOPs of training.")
    if seconds and pending:
        estimate = sum(seconds) / len(seconds) * pending / workers
        console.print(
            f"Training took {sum(seconds) / len(seconds):.0f} s a run so far: about "
            f"{estimate / 60:.0f} min with {workers} at a time, evaluation not counted."
        )
    elif pending:
        console.print("How long that takes here is not known before a first run is done.")


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
    table = Table("method", "kind", "what it does", "options and defaults", "paper")
    for name in methods.names():
        method = methods.load(name)
        config = method.Config()
        options = ", ".join(f"{key}={value}" for key, value in _fields(config))
        about = method.ABOUT
        table.add_row(name, about.kind, about.summary, options or "none", about.paper or "control")
    return table


def _fields(config: Any) -> list[tuple[str, Any]]:
    from dataclasses import asdict

    shown = asdict(config).items()
    return [(key, f"{value:.3g}" if isinstance(value, float) else value) for key, value in shown]


def _tasks_table() -> Table:
    table = Table("task", "main metric", "metrics", "evidence text", "licence")
    for name in tasks.names():
        about = tasks.info(name)
        table.add_row(name, about.main, ", ".join(about.metrics), about.evidence, about.licence)
    return table


def _corruptions_table() -> Table:
    table = Table("corruption", "side", "severities", "what it does")
    for name, corruption in CORRUPTIONS.items():
        severities = ", ".join(map(str, corruption.severities)) or "none"
        table.add_row(name, corruption.side, severities, corruption.summary)
    return table


def _backbones_table() -> Table:
    table = Table("backbone", "image", "text", "fusion", "about")
    for name, config in classifier_config.PRESETS.items():
        about = f"batch {config.batch_size}, {config.optimizer} at {config.learning_rate}"
        table.add_row(name, config.image, config.text, config.fusion, about)
    table.add_row("IMAGE+TEXT", "any AutoModel", "any AutoModel", "concat", "hub ids or paths")
    return table


def _budgets_table() -> Table:
    table = Table("budget", "FLOPs", "meant for")
    for budget in BUDGETS.values():
        table.add_row(budget.name, f"{budget.flops:.1g}", budget.meant_for)
    table.add_row("a number", "as given", "anything, for example --budget 5e12")
    return table


def _suites_table() -> Table:
    table = Table("suite", "entries", "tasks", "seeds", "about")
    for name in suite.shipped():
        made = suite.load(name)
        row = (str(len(made.entries)), ", ".join(made.tasks), str(len(made.seeds)), made.about)
        table.add_row(name, *row)
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
    limit = f"{ledger.limit_flops:.3g}" if ledger.limit_flops else "none"
    cost.add_row("total", f"{ledger.total_flops:.3g} of {limit}", f"{ledger.total_seconds:.1f}")
    console.print(cost)
    console.print(f"{ledger.steps} steps, {ledger.items} items, on {ledger.device}")
    scores = Table("variant", "metric", "value", "± s.e.", "items", title="Scores")
    for score in found.scores:
        error = "" if score.stderr is None else f"{score.stderr:.4f}"
        name = f"[bold]{score.metric}[/]" if score.main else score.metric
        scores.add_row(score.variant, name, f"{score.value:.4f}", error, str(score.n))
    console.print(scores)
    for name, value in found.diagnostics.items():
        console.print(f"  {name}: {value:.4g}")
    data, code = found.provenance["data"], found.provenance["code"]
    console.print(
        f"data {data['name']} {data['revision']}, code {code['commit'] or code['source']}"
    )


def report_skipped(corpus: Corpus) -> None:
    """Say how many rows of a data set could not be used, and which."""
    if not corpus.skipped:
        return
    first = "; ".join(f"{row.split}/{row.id}: {row.reason}" for row in corpus.skipped[:3])
    console.print(f"[yellow]{corpus.name}: {len(corpus.skipped)} rows skipped[/] ({first} ...)")


def pick_device(name: str) -> str:
    """``auto`` takes the first GPU if there is one; a device that is not there is an error."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda") or not torch.cuda.is_available():
        raise UserError(f"Device '{name}' is not available here; use cpu or auto.")
    return name


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts with values read as numbers, booleans or text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"'{pair}': write KEY=VALUE.")
        found[key] = parse_value(value)
    return found


def parse_value(text: str) -> str | int | float | bool:
    """A number, ``true`` / ``false``, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` or ``0-4``."""
    try:
        if "-" in text:
            low, high = map(int, text.split("-"))
            return tuple(range(low, high + 1))
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"Seeds '{text}': write 0,1,2 or 0-4.") from None


def parse_roots(given: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """``DIR`` for the only task, or ``TASK=DIR`` for one of several."""
    found = {}
    for text in given:
        task, equals, folder = text.partition("=")
        if not equals:
            if len(names) != 1:
                raise UserError(f"--data-root {text}: with several tasks write TASK=DIR.")
            task, folder = names[0], text
        if not Path(folder).is_dir():
            raise UserError(f"--data-root: no folder at {folder}.")
        found[task] = Path(folder)
    return found
