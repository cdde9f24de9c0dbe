"""What opens below an entry: differences, variants, cost by phase, provenance, one command."""

import html
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.boards.tables import VERDICTS
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
"""What entries of a record's provenance are called; the others keep their names."""
APART = ("packages", "tables", "data.sizes", "data.notes")
"""Groups that make one line."""


def detail(
    runs: Sequence[Run],
    differences: Mapping[str, ControlDifference],
    variants: Mapping[str, Interval],
    cost: Cost | None,
    percent: bool,
    places: Mapping[str, str],
) -> str:
    """Everything known about one entry, as HTML.

    Args:
        runs: the entry's runs on the board.
        differences: to the control, by column.
        variants: scores by variant or column.
        cost: means over seeds; None for an incomplete entry.
        percent: whether scores are shares, to be shown as percentages.
        places: folder of each run by id, as a command names it.
    """
    scores = _differences(differences, percent) if differences else ""
    scores += _variants(variants, percent) if variants else ""
    origin = _cost(cost) if cost is not None else ""
    origin += _commands(runs, places) + _seeds(runs) + _provenance(runs)
    return "".join(f'<div class="half">{half}</div>' for half in (scores, origin) if half)


def _shown(value: float, percent: bool, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.4g}"


def _differences(differences: Mapping[str, ControlDifference], percent: bool) -> str:
    rows = []
    for name, found in differences.items():
        each = found.interval
        text = f"{_shown(each.mean, percent, '+')} ± {_shown(each.half, percent)}"
        ends = f"{_shown(each.low, percent, '+')} to {_shown(each.high, percent, '+')}"
        shown = number_html(text + VERDICTS[found.verdict])
        rows.append((esc(name), shown, ends, f"{each.p:.3g}", f"{found.adjusted:.3g}"))
    header = ("column", "difference", "95 % interval", "p", "p (Holm)")
    return plain("Difference to the control, paired by seed and item", header, rows)


def _variants(variants: Mapping[str, Interval], percent: bool) -> str:
    rows = [
        (
            esc(name),
            number_html(f"{_shown(each.mean, percent)} ± {_shown(each.half, percent)}"),
            f"{_shown(each.low, percent)} to {_shown(each.high, percent)}",
            " ".join(_shown(value, percent) for value in each.values),
        )
        for name, each in variants.items()
    ]
    return plain("Scores", ("scored on", "mean", "95 % interval", "each seed"), rows)


def _cost(cost: Cost) -> str:
    rows = [
        (esc(phase), f"{flops:.3g}", _share(flops / cost.flops if cost.flops else 0.0))
        for phase, flops in cost.phases.items()
    ]
    told = {
        "total": f"{cost.flops:.3g} FLOPs"
        + ("" if cost.relative is None else f", {cost.relative:.2f} of the control's"),
        "artefacts shared by all seeds": f"{cost.amortised:.3g} FLOPs",
        "tuning, beside it": f"{cost.tuning:.3g} FLOPs" if cost.tuning else "none",
        "training": f"{cost.steps:.0f} steps, {cost.items:.0f} items, {cost.seconds:.1f} s",
        "peak memory": f"{cost.peak_bytes / 2**20:.0f} MiB",
    }
    table = plain("Cost by phase, mean over seeds", ("phase", "FLOPs", "share"), rows)
    return table + facts({name: esc(text) for name, text in told.items()})


def _share(share: float) -> str:
    return f"{bar(share)} {100 * share:.0f}%"


def _seeds(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        record = run.record
        ended = record.failure or f"{record.ledger.stopped} after {record.ledger.steps} steps"
        weights = record.provenance.get("weights")
        rows.append((str(record.spec.seed), f"<code>{esc(record.id)}</code>",
                     f"<code>{esc(weights or 'not kept')}</code>", esc(ended)))  # fmt: skip
    return plain("Runs", ("seed", "run (its hash is that of its settings)", "weights", "end"), rows)


def _provenance(runs: Sequence[Run]) -> str:
    """What all runs share, or each of the values where they differ."""
    spec = runs[0].record.spec
    found = {
        "method": {esc(_method(run.record.spec)) for run in runs},
        "options": {esc(_pairs(run.record.spec.options)) for run in runs},
        "learning rate": {esc(run.record.spec.learning_rate or "the backbone's") for run in runs},
        "backbone": {esc(f"{spec.backbone} {_pairs(spec.backbone_options, '')}") for run in runs},
        "device": {esc(run.record.ledger.device) for run in runs},
        "budget": {esc(_budget(run)) for run in runs},
        "unposted FLOPs": {esc(_audit(run)) for run in runs},
    }
    for run in runs:
        for name, value in _flat(run.record.provenance):
            if name != "weights":
                found.setdefault(NAMES.get(name, name), set()).add(esc(value))
    shown = {name: "<br>".join(sorted(values)) for name, values in found.items()}
    return "<h4>Where it comes from</h4>" + facts(shown)


def _method(spec: RunSpec) -> str:
    """Without the folder of a user's file, which names a machine."""
    return f"{PurePath(spec.method).name} {spec.source}".strip()


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
    return f"at most {100 * ledger.unposted:.2g}% in {ledger.audited} stretches audited"


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of a nested mapping by their path; some groups as one line."""
    for name, value in sorted(content.items()):
        path = f"{before}{name}"
        if isinstance(value, Mapping) and path.endswith(APART):
            yield path, ", ".join(f"{key} {part}" for key, part in sorted(value.items())) or "none"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif isinstance(value, bool):
            yield path, "yes" if value else "no"
        else:
            yield path, "none" if value is None else str(value)


def _commands(runs: Sequence[Run], places: Mapping[str, str]) -> str:
    again = reproduce([places[run.record.id] for run in runs])
    parts = ["<h4>Reproduce it</h4><p>Run each seed again and compare every score and cost:</p>"]
    parts.append(command_html(again))
    anew = from_nothing([run.record.spec for run in runs], _variants_of(runs))
    if anew and not any(run.record.provenance.get("limit") for run in runs):
        parts += ["<p>Or from nothing, without these records:</p>", command_html(anew)]
    revisions = sorted({str(run.record.spec.data.get("revision", "")) for run in runs})
    parts.append(
        "<p>Without <code>--data-root</code> the data is generated; the runs used revision "
        f"<code>{esc(', '.join(revisions))}</code>.</p>"
    )
    return "".join(parts)


def command_html(command: str) -> str:
    """A shell command whose words stay whole where lines wrap."""
    words = " ".join(f"<span>{html.escape(word)}</span>" for word in command.split(" "))
    return f'<pre class="command"><code>{words}</code></pre>'


def reproduce(folders: Sequence[str]) -> str:
    """One shell command that runs each record in ``folders`` again."""
    if len(folders) == 1:
        return f"steelyard reproduce {shlex.quote(folders[0])}"
    return f'for run in {shlex.join(folders)}; do steelyard reproduce "$run" || break; done'


def from_nothing(specs: Sequence[RunSpec], variants: Sequence[str]) -> str:
    """The ``steelyard run`` that makes runs of these specs; empty where options cannot say it.

    ``variants`` are tasks with a corruption or without one. A learning rate of its own, a user's
    file and a tuned setting are not options of the command.
    """
    spec = specs[0]
    if spec.learning_rate or spec.source or spec.tuning or not variants:
        return ""
    tasks = dict.fromkeys(variant.partition("@")[0] for variant in variants)
    words = ["steelyard", "run", spec.method, "--task", spec.task]
    words += ["--backbone", spec.backbone, "--budget", spec.budget]
    words += ["--seeds", ",".join(str(each.seed) for each in specs)]
    if spec.track != "compute":
        words += ["--track", spec.track]
    if spec.wall is not None:
        words += ["--wall", f"{spec.wall:g}"]
    words += _options("--set", spec.options)
    words += _options("--backbone-set", spec.backbone_options)
    words += _options("--data-set", {k: v for k, v in spec.data.items() if k != "revision"})
    for task in tasks:
        words += ["--evaluate", task] if task != spec.task else []
    for name in _ranges(dict.fromkeys(v.partition("@")[2] for v in variants if "@" in v)):
        words += ["--corruption", name]
    return shlex.join(words)


def _ranges(corruptions: Iterable[str]) -> list[str]:
    """Corruptions with runs of severities put together: ``image-noise:1-5``."""
    levels: dict[str, list[int]] = {}
    for each in corruptions:
        name, _, level = each.rpartition(":")
        if name and level.isdigit() and "+" not in name and "missing" not in name:
            levels.setdefault(name, []).append(int(level))
        else:
            levels.setdefault(each, [])
    found = []
    for name, of in levels.items():
        whole = len(of) > 1 and sorted(of) == list(range(min(of), max(of) + 1))
        ends = [f"{min(of)}-{max(of)}"] if whole else [str(level) for level in of]
        found += [f"{name}:{end}" for end in ends] or [name]
    return found


def _options(name: str, options: Mapping[str, Any]) -> Iterable[str]:
    for key, value in sorted(options.items()):
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        yield from (name, f"{key}={shown}")


def _variants_of(runs: Sequence[Run]) -> list[str]:
    """What a run was scored on, its own task first."""
    found = dict.fromkeys(
        score.task if score.variant == "clean" else f"{score.task}@{score.variant}"
        for run in runs
        for score in run.record.scores
    )
    own = runs[0].record.spec.task
    return sorted(found, key=lambda name: name.partition("@")[0] != own)
