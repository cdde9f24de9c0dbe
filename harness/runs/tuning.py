"""Trials as part of a method: what is tried, which trial is chosen, and the file that says so.

Every entry gets the same number of trials. Trial 0 is the entry as it stands; the others draw its
options from its method's ``SEARCH`` and its learning rate from the range common to all. A named
rule picks by scores on validation items; the test split is only for an oracle, which never ranks.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from steelyard import methods
from steelyard.harness.core.errors import UserError, unknown
from steelyard.harness.core.files import write_json
from steelyard.harness.models import registry
from steelyard.harness.records.record import Ledger, Record, Score, checksum
from steelyard.harness.runs.suite import Entry, Suite, label_of
from steelyard.harness.training import search
from steelyard.tasks.corruptions.columns import columns_of

FILE = "tuning.json"
SCHEMA = 1
TRAINING_SEED = 100
"""Of the trials; boards count their seeds from 0, so that no run of theirs was chosen from."""
PHASE = "tune"


@dataclass(frozen=True, slots=True)
class Plan:
    """How a suite is tuned."""

    trials: int = 8
    """An entry, its own settings among them."""
    rule: str = "best-composite"
    seed: int = 0
    """Names the draw of the trials and their training seed."""
    oracle: bool = False
    """Score the trials on test items too."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials {self.trials}: give at least 1.")
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)


@dataclass(frozen=True, slots=True)
class Setting:
    """What one trial runs with."""

    options: Mapping[str, search.Option]
    learning_rate: float | None


def composite(found: Record) -> float:
    """Mean over tasks of the mean of a task's clean numbers, each turned so that more is better."""
    by_task: dict[str, list[float]] = {}
    for score in found.scores:
        directed = score.higher_is_better is not None
        if score.variant == "clean" and (score.shown or score.main) and directed:
            by_task.setdefault(score.task, []).append(_turned(score))
    return fmean(fmean(values) for values in by_task.values())


def main_metric(found: Record) -> float:
    """The clean main metric of the task trained on, turned so that more is better."""
    return _main(found)["clean"]


def balanced(found: Record) -> float:
    """Return the rank score of a board of one task: clean and corrupted weigh the same."""
    values = _main(found)
    columns = columns_of(found.spec.task, sorted(values))
    return sum(weight * values[variant] for variant, weight in columns["balanced"].items())


def _main(found: Record) -> dict[str, float]:
    """Return the main metric of the task trained on, by variant."""
    scores = [score for score in found.scores if score.main and score.task == found.spec.task]
    for score in scores:
        if score.higher_is_better is None:
            raise UserError(f"{score.task}: its main metric {score.metric} has no direction.")
    return {score.variant: _turned(score) for score in scores}


def _turned(score: Score) -> float:
    return score.value if score.higher_is_better else 1 - score.value


RULES: dict[str, Callable[[Record], float]] = {
    "best-composite": composite,
    "best-main": main_metric,
    "best-balanced": balanced,
}
"""By validation items, the mean over the data sets trained on; the earlier of equal trials."""
CORRUPTED = ("best-balanced",)
"""Rules that look at damaged items too."""


def settings(entry: Entry, made: Suite, plan: Plan) -> list[Setting]:
    """The trials of one entry, by name: the same on every machine. What it fixes stays fixed."""
    kind = registry.kind_of(made.backbone)
    usual = registry.configure(made.backbone, made.backbone_options).learning_rate
    space = methods.search_space(methods.load(entry.method))
    free = {name: found for name, found in space.items() if name not in entry.options}
    found = [Setting(dict(entry.options), entry.learning_rate)]
    for trial in range(1, plan.trials):
        names = (plan.seed, label_of(entry), trial)
        options = {**entry.options, **search.draw(free, kind, *names)}
        found.append(Setting(options, search.learning_rate(usual, *names)))
    return found


def trial_suite(made: Suite, plan: Plan, trials: Sequence[int], labels: Sequence[str]) -> Suite:
    """These trials of these entries as a suite that is scored on validation items."""
    entries = tuple(
        Entry(
            entry.method,
            setting.options,
            trial_label(label_of(entry), trial),
            setting.learning_rate,
            kind="trial",
        )
        for entry in made.entries
        if label_of(entry) in labels
        for trial, setting in enumerate(settings(entry, made, plan))
        if trial in trials
    )
    corruptions = made.corruptions if plan.rule in CORRUPTED else ()
    seeds = (TRAINING_SEED + plan.seed,)
    return replace(made, entries=entries, seeds=seeds, split="val", corruptions=corruptions)


def trial_label(label: str, trial: int) -> str:
    """What a trial's records are called."""
    return f"{label} trial {trial}"


def report(
    made: Suite,
    plan: Plan,
    records: Sequence[Record],
    tested: Sequence[Record],
    revisions: Mapping[str, str],
) -> dict[str, Any]:
    """The content of a tuning file; ``tested`` are the same trials scored on test items."""
    by_label: dict[str, list[Record]] = {}
    on_test: dict[str, list[Record]] = {}
    for found, place in ((records, by_label), (tested, on_test)):
        for each in found:
            place.setdefault(each.label, []).append(each)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": made.name,
        **asdict(plan),
        "training_seed": TRAINING_SEED + plan.seed,
        "split": "val",
        "limit": made.limit,
        "tasks": {task: revisions[task] for task in made.tasks},
        "evaluate": list(made.evaluate),
        "backbone": made.backbone,
        "backbone_options": dict(made.backbone_options),
        "budget": made.budget,
        "track": made.run_track,
        "wall": made.wall,
        "entries": [_entry(entry, made, plan, by_label, on_test) for entry in made.entries],
    }
    for entry in content["entries"]:
        entry["hash"] = entry_hash(content, entry)
    return {**content, "seal": checksum(content)}


def _entry(
    entry: Entry,
    made: Suite,
    plan: Plan,
    by_label: Mapping[str, Sequence[Record]],
    on_test: Mapping[str, Sequence[Record]],
) -> dict[str, Any]:
    label = label_of(entry)
    trials = []
    runs: list[Record] = []
    for trial, setting in enumerate(settings(entry, made, plan)):
        own = by_label.get(trial_label(label, trial), ())
        if not own:
            continue  # a method that trains nothing is tried once
        runs += own
        test = on_test.get(trial_label(label, trial), ())
        trials.append(_trial(setting, own, test, RULES[plan.rule]))
    return {
        "label": label,
        "method": entry.method,
        "source": runs[0].spec.source,
        "trials": trials,
        "chosen": best([trial["score"] for trial in trials]),
        "oracle": best([trial["test"] for trial in trials]),
        "ledger": asdict(_ledger(runs, plan.trials * len(made.tasks))),
    }


def _trial(
    setting: Setting,
    own: Sequence[Record],
    test: Sequence[Record],
    rule: Callable[[Record], float],
) -> dict[str, Any]:
    failures = [found.failure for found in own if found.status == "failed"]
    return {
        "options": dict(setting.options),
        "learning_rate": setting.learning_rate,
        "runs": [found.id for found in own],
        "score": None if failures else fmean(rule(found) for found in own),
        "test": fmean(rule(found) for found in test) if test and not failures else None,
        "failure": "; ".join(failures),
        "flops": sum(found.ledger.total_flops for found in own),
        "seconds": round(sum(found.ledger.total_seconds for found in own), 3),
    }


def _ledger(runs: Sequence[Record], count: int) -> Ledger:
    """All trials of an entry together; the caps are those of one run times their number."""
    ledgers = [found.ledger for found in runs]
    first = ledgers[0]

    def times(limit: float | None) -> float | None:
        return None if limit is None else limit * count

    return Ledger(
        flops={PHASE: sum(ledger.total_flops for ledger in ledgers)},
        seconds={PHASE: round(sum(ledger.total_seconds for ledger in ledgers), 3)},
        steps=sum(ledger.steps for ledger in ledgers),
        items=sum(ledger.items for ledger in ledgers),
        peak_bytes=max(ledger.peak_bytes for ledger in ledgers),
        device=first.device,
        limit_flops=times(first.limit_flops),
        limit_seconds=times(first.limit_seconds),
        stopped="finished",
        limit_items=None if first.limit_items is None else first.limit_items * count,
    )


def best(scores: Sequence[float | None]) -> int | None:
    """The first of the highest scores; None where no trial has one."""
    known = [(score, -trial) for trial, score in enumerate(scores) if score is not None]
    return -max(known)[1] if known else None


def entry_hash(content: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Hash of what was tried and chosen for one entry; times and other entries do not matter."""
    about = ("rule", "seed", "split", "limit", "tasks", "evaluate", "backbone", "backbone_options",
             "budget", "track", "wall")  # fmt: skip
    own = {name: entry[name] for name in ("label", "method", "source", "chosen", "oracle")}
    tried = [(trial["options"], trial["learning_rate"]) for trial in entry["trials"]]
    return checksum({**{name: content[name] for name in about}, **own, "trials": tried})[:16]


def write(content: Mapping[str, Any], folder: Path) -> Path:
    """Write the tuning file beside the runs of its trials."""
    write_json(folder / FILE, content)
    return folder / FILE


def read(path: Path) -> dict[str, Any]:
    """A tuning file; one that is missing, foreign or changed by hand is a UserError."""
    if not path.is_file():
        raise UserError(f"No tuning file at {path}; 'steelyard tune' writes one.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        schema, seal = content["schema"], content["seal"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a tuning file of 'steelyard tune': {error!r}.") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: schema {schema}, this version reads {SCHEMA}.")
    if seal != checksum(content):
        raise UserError(
            f"{path} was changed after it was written: its checksum is {seal}, its content gives "
            f"{checksum(content)}. Tune again."
        )
    return content


def chosen_entries(content: Mapping[str, Any], made: Suite, *, oracle: bool) -> list[Entry]:
    """The chosen settings of those entries of a suite that were tuned, labelled ``... tuned``.

    ``oracle`` adds those that test items would have chosen. Empty where the file is of another
    backbone or other data sets.
    """
    same = (content["backbone"], content["backbone_options"], sorted(content["tasks"])) == (
        made.backbone, dict(made.backbone_options), sorted(made.tasks),
    )  # fmt: skip
    tuned = {entry["label"]: entry for entry in content["entries"]} if same else {}
    found = []
    for entry in made.entries:
        about = tuned.get(label_of(entry))
        if about is None or about["method"] != entry.method or not about["ledger"]["steps"]:
            continue  # not tuned, or nothing of it is trained
        for kind, trial in (("tuned", about["chosen"]), ("oracle", about["oracle"])):
            if trial is not None and (oracle or kind == "tuned"):
                found.append(_chosen(content, about, trial, kind))
    return found


def _chosen(content: Mapping[str, Any], about: Mapping[str, Any], trial: int, kind: str) -> Entry:
    setting = about["trials"][trial]
    short = {
        "hash": about["hash"] if kind == "tuned" else f"oracle-{about['hash']}",
        "rule": content["rule"] if kind == "tuned" else f"{content['rule']} on test",
        "trial": trial,
        "trials": content["trials"],
        **{name: content[name] for name in ("seed", "budget", "track", "wall", "split")},
        "flops": sum(about["ledger"]["flops"].values()),
        "seconds": sum(about["ledger"]["seconds"].values()),
    }
    return Entry(
        about["method"],
        setting["options"],
        f"{about['label']} {kind}",
        setting["learning_rate"],
        kind="entry" if kind == "tuned" else "oracle",
        tuning=short,
    )
