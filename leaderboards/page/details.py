"""Build an entry's details: differences, variants, cost by phase, provenance, command."""

import html
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.boards.cells import VERDICTS
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.loading.costs import Cost
from steelyard.leaderboards.page.markup import esc
from steelyard.leaderboards.page.tables import bar, facts, number_html, plain
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.leaderboards.stats.intervals import Interval

NAMES = {
    "code.commit": "code commit",
    "code.dirty": "uncommitted changes",
    "code.source": "hash of the source",
    "data.card": "data card",
    "data.revision": "data revision",
    "data.items": "hash of the item ids",
    "task": "hash of the task's files",
    "weights": "hash of the weights",
    "rules": "version of the rules",
    "limit": "limit on items",
}
"""Titles of provenance entries; the others keep their names."""
ONE_LINE = ("packages", "tables", "data.sizes", "data.notes")
"""Provenance groups shown on one line."""


def detail(
    runs: Sequence[Run],
    differences: Mapping[str, ControlDifference],
    variants: Mapping[str, Interval],
    cost: Cost | None,
    percent: bool,
    paths: Mapping[str, str],
) -> str:
    """Return the details of one entry as HTML.

    Args:
        runs: the entry's runs on the board.
        differences: to the control, by column.
        variants: scores by variant or column.
        cost: means over seeds; None for an incomplete entry.
        percent: show scores as percentages.
        paths: folder of each run by id, as commands name it.
    """
    scores = _differences(differences, percent) if differences else ""
    scores += _variants(variants, percent) if variants else ""
    origin = _cost(cost) if cost is not None else ""
    origin += _commands(runs, paths) + _seeds(runs) + _provenance(runs)
    return "".join(f'<div class="half">{half}</div>' for half in (scores, origin) if half)


def _format(value: float, percent: bool, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.4g}"


def _differences(differences: Mapping[str, ControlDifference], percent: bool) -> str:
    rows = []
    for name, difference in differences.items():
        interval = difference.interval
        text = f"{_format(interval.mean, percent, '+')} ± {_format(interval.half, percent)}"
        ends = f"{_format(interval.low, percent, '+')} to {_format(interval.high, percent, '+')}"
        number = number_html(text + VERDICTS[difference.verdict])
        rows.append((esc(name), number, ends, f"{interval.p:.3g}", f"{difference.adjusted:.3g}"))
    header = ("column", "difference", "95 % interval", "p", "p (Holm)")
    return plain("Difference to the control, paired by seed and item", header, rows)


def _variants(variants: Mapping[str, Interval], percent: bool) -> str:
    rows = [
        (
            esc(name),
            number_html(f"{_format(interval.mean, percent)} ± {_format(interval.half, percent)}"),
            f"{_format(interval.low, percent)} to {_format(interval.high, percent)}",
            " ".join(_format(value, percent) for value in interval.values),
        )
        for name, interval in variants.items()
    ]
    return plain("Scores", ("scored on", "mean", "95 % interval", "each seed"), rows)


def _cost(cost: Cost) -> str:
    rows = [
        (esc(phase), f"{flops:.3g}", f"{bar(fraction)} {100 * fraction:.0f}%")
        for phase, flops in cost.phases.items()
        for fraction in [flops / cost.flops if cost.flops else 0.0]
    ]
    totals = {
        "total": f"{cost.flops:.3g} FLOPs"
        + ("" if cost.relative is None else f", {cost.relative:.2f} of the control's"),
        "artefacts shared by all seeds": f"{cost.amortised:.3g} FLOPs",
        "tuning, not in the total": f"{cost.tuning:.3g} FLOPs" if cost.tuning else "none",
        "training": f"{cost.steps:.0f} steps, {cost.items:.0f} items, {cost.seconds:.1f} s",
        "peak memory": f"{cost.peak_bytes / 2**20:.0f} MiB",
    }
    table = plain("Cost by phase, mean over seeds", ("phase", "FLOPs", "fraction"), rows)
    return table + facts({name: esc(text) for name, text in totals.items()})


def _seeds(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        record = run.record
        ended = record.failure or f"{record.ledger.stopped} after {record.ledger.steps} steps"
        weights = record.provenance.get("weights")
        rows.append((str(record.spec.seed), f"<code>{esc(record.id)}</code>",
                     f"<code>{esc(weights or 'not kept')}</code>", esc(ended)))  # fmt: skip
    return plain("Runs", ("seed", "run (with the hash of its settings)", "weights", "end"), rows)


def _provenance(runs: Sequence[Run]) -> str:
    """Return the provenance; where runs differ, all values."""
    spec = runs[0].record.spec
    values = {
        # The folder of a user's method file is private.
        "method": {
            esc(f"{PurePath(run.record.spec.method).name} {run.record.spec.source}") for run in runs
        },
        "options": {esc(_pairs(run.record.spec.options)) for run in runs},
        "learning rate": {esc(run.record.spec.learning_rate or "the backbone's") for run in runs},
        "backbone": {esc(f"{spec.backbone} {_pairs(spec.backbone_options, '')}") for run in runs},
        "device": {esc(run.record.ledger.device) for run in runs},
        "budget": {esc(_budget(run)) for run in runs},
        "unaccounted FLOPs": {esc(_audit(run)) for run in runs},
    }
    for run in runs:
        for name, value in _flat(run.record.provenance):
            if name != "weights":
                values.setdefault(NAMES.get(name, name), set()).add(esc(value))
    joined = {name: "<br>".join(sorted(texts)) for name, texts in values.items()}
    return "<h4>Provenance</h4>" + facts(joined)


def _pairs(options: Mapping[str, Any], nothing: str = "the defaults") -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(options.items())) or nothing


def _budget(run: Run) -> str:
    spec, ledger = run.record.spec, run.record.ledger
    caps = [
        f"{limit:.4g} {unit}"
        for limit, unit in (
            (ledger.limit_flops, "FLOPs"),
            (ledger.limit_seconds, "s"),
            (ledger.limit_items, "items"),
        )
        if limit is not None
    ]
    return f"{spec.budget}, track {spec.track}: {' or '.join(caps) or 'no limit'}"


def _audit(run: Run) -> str:
    ledger = run.record.ledger
    if not ledger.audited:
        return "not audited"
    return f"at most {100 * ledger.unposted:.2g}% in {ledger.audited} audited windows"


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of a nested mapping by their path; some groups as one line."""
    for name, value in sorted(content.items()):
        path = f"{before}{name}"
        if isinstance(value, Mapping) and path.endswith(ONE_LINE):
            yield path, ", ".join(f"{key} {part}" for key, part in sorted(value.items())) or "none"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif isinstance(value, bool):
            yield path, "yes" if value else "no"
        else:
            yield path, "none" if value is None else str(value)


def _commands(runs: Sequence[Run], paths: Mapping[str, str]) -> str:
    rerun = reproduce([paths[run.record.id] for run in runs])
    parts = ["<h4>Reproduce it</h4><p>Run each seed again and compare every score and cost:</p>"]
    parts.append(command_html(rerun))
    fresh = from_nothing([run.record.spec for run in runs], _variants_of(runs))
    if fresh and not any(run.record.provenance.get("limit") for run in runs):
        parts += ["<p>Or without these records:</p>", command_html(fresh)]
    revisions = sorted({str(run.record.spec.data.get("revision", "")) for run in runs})
    parts.append(
        "<p>Without <code>--data-root</code> the data is generated; the runs used revision "
        f"<code>{esc(', '.join(revisions))}</code>.</p>"
    )
    return "".join(parts)


def command_html(command: str) -> str:
    """Return a shell command whose lines wrap between words."""
    words = " ".join(f"<span>{html.escape(word)}</span>" for word in command.split(" "))
    return f'<pre class="command"><code>{words}</code></pre>'


def reproduce(folders: Sequence[str]) -> str:
    """Return one shell command that repeats the runs in ``folders``."""
    if len(folders) == 1:
        return f"steelyard reproduce {shlex.quote(folders[0])}"
    return f'for run in {shlex.join(folders)}; do steelyard reproduce "$run" || break; done'


def from_nothing(specs: Sequence[RunSpec], variants: Sequence[str]) -> str:
    """Return the ``steelyard run`` with these specs; empty if its options cannot express them.

    ``variants`` are tasks with or without a corruption. A learning rate, a user's method file and
    tuned settings are not options of the command.
    """
    spec = specs[0]
    if spec.learning_rate or spec.source or spec.tuning or not variants:
        return ""
    tasks = dict.fromkeys(variant.partition("@")[0] for variant in variants)
    words = ["steelyard", "run", spec.method, "--task", spec.task]
    words += ["--backbone", spec.backbone, "--budget", spec.budget]
    words += ["--seeds", ",".join(str(spec.seed) for spec in specs)]
    if spec.track != "compute":
        words += ["--track", spec.track]
    if spec.wall is not None:
        words += ["--wall", f"{spec.wall:g}"]
    words += _options("--set", spec.options)
    words += _options("--backbone-set", spec.backbone_options)
    words += _options("--data-set", {k: v for k, v in spec.data.items() if k != "revision"})
    # ``steelyard run`` scores the trained task in any case.
    for task in tasks:
        words += ["--evaluate", task] if task != spec.task else []
    for name in _ranges(dict.fromkeys(v.partition("@")[2] for v in variants if "@" in v)):
        words += ["--corruption", name]
    return shlex.join(words)


def _ranges(corruptions: Iterable[str]) -> list[str]:
    """Join consecutive severities of a corruption: ``image-noise:1-5``."""
    levels: dict[str, list[int]] = {}
    for corruption in corruptions:
        name, _, level = corruption.rpartition(":")
        # A percentage of missing items is no severity, and a combination has two of them.
        if name and level.isdigit() and "+" not in name and "missing" not in name:
            levels.setdefault(name, []).append(int(level))
        else:
            levels.setdefault(corruption, [])
    names = []
    for name, severities in levels.items():
        low, high = min(severities, default=0), max(severities, default=0)
        is_range = low < high and sorted(severities) == list(range(low, high + 1))
        ends = [f"{low}-{high}"] if is_range else map(str, severities)
        names += [f"{name}:{end}" for end in ends] or [name]
    return names


def _options(name: str, options: Mapping[str, Any]) -> Iterable[str]:
    for key, value in sorted(options.items()):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        yield from (name, f"{key}={text}")


def _variants_of(runs: Sequence[Run]) -> list[str]:
    """Return the variants that the runs were scored on, those of the trained task first."""
    variants = dict.fromkeys(
        score.task if score.variant == "clean" else f"{score.task}@{score.variant}"
        for run in runs
        for score in run.record.scores
    )
    task = runs[0].record.spec.task
    return sorted(variants, key=lambda name: name.partition("@")[0] != task)
