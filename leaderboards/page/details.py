"""Collect an entry's details: provenance, and the commands that repeat its runs."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.loading.costs import Cost
from steelyard.leaderboards.stats.differences import ControlDifference
from steelyard.leaderboards.stats.intervals import Interval

NAMES = {
    "code.commit": "code commit",
    "code.dirty": "uncommitted changes",
    "code.source": "hash of the source",
    "learning_rate": "learning rate",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """Content of an entry's expanded row."""

    runs: Sequence[Run]
    paths: Mapping[str, str]
    """Folder of each run by id, as commands name it."""
    percent: bool
    """Show scores as percentages."""
    differences: Mapping[str, ControlDifference] = field(default_factory=dict)
    """To the control, by column."""
    variants: Mapping[str, Interval] = field(default_factory=dict)
    """Scores by variant or column."""
    cost: Cost | None = None
    """Means over seeds."""
    missing: str = ""
    """What an incomplete entry lacks."""

    @property
    def rerun(self) -> str:
        """Return the command that repeats the runs and compares them."""
        return reproduce([self.paths[run.record.id] for run in self.runs])

    @property
    def fresh(self) -> str:
        """Return the command that makes the runs without these records, if there is one."""
        if any(run.record.provenance.get("limit") for run in self.runs):
            return ""
        return from_nothing([run.record.spec for run in self.runs], _variants_of(self.runs))

    @property
    def revisions(self) -> list[str]:
        return sorted({str(run.record.spec.data.get("revision", "")) for run in self.runs})

    @property
    def provenance(self) -> dict[str, list[str]]:
        """Return all values of each property; several where runs differ."""
        values: dict[str, set[str]] = {}
        for run in self.runs:
            for name, value in (*_settings(run), *_flat(run.record.provenance)):
                if name != "weights":
                    values.setdefault(NAMES.get(name, name), set()).add(value)
        return {name: sorted(texts) for name, texts in values.items()}


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    spec, ledger = run.record.spec, run.record.ledger
    # The folder of a user's method file is private.
    yield "method", f"{PurePath(spec.method).name} {spec.source}".strip()
    yield "options", _pairs(spec.options) or "the defaults"
    if spec.trl:
        yield "settings of TRL", _pairs(spec.trl)
    # In the provenance too, of records that are new enough.
    rate = run.record.provenance.get("learning_rate", spec.learning_rate)
    yield "learning rate", str(rate or "the backbone's")
    yield "backbone", f"{spec.model} {_pairs(spec.model_options)}".strip()
    yield "device", ledger.device
    limits = {"FLOPs": ledger.limit_flops, "s": ledger.limit_seconds, "items": ledger.limit_items}
    caps = [f"{limit:.4g} {unit}" for unit, limit in limits.items() if limit is not None]
    yield "budget", f"{spec.budget}, track {spec.track}: {' or '.join(caps) or 'no limit'}"
    audit = f"at most {100 * ledger.unposted:.2g}% in {ledger.audited} audited windows"
    yield "unaccounted FLOPs", audit if ledger.audited else "not audited"
    if ledger.answers > ledger.items:
        yield "answers trained on", f"{ledger.answers:,}"


def _pairs(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(options.items()))


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
    words += ["--backbone", spec.model, "--budget", spec.budget]
    words += ["--seeds", ",".join(str(spec.seed) for spec in specs)]
    if spec.track != "compute":
        words += ["--track", spec.track]
    if spec.wall is not None:
        words += ["--wall", f"{spec.wall:g}"]
    words += _options("--set", spec.options)
    words += _options("--trl", spec.trl)
    words += _options("--backbone-set", spec.model_options)
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
