"""Tune a suite: trials of every entry, the rule that chooses one, and the tuning file.

Every entry gets the same number of trials. Trial 0 has the entry's own settings; the others draw
options from the method's ``SEARCH`` and a learning rate from one range for all methods. A rule
chooses by scores on validation items; test items are only for an oracle, which is never ranked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

from steelyard import methods
from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.options import Help
from steelyard.harness.core.readers import read_object
from steelyard.harness.models import registry
from steelyard.harness.records.record import Ledger, Record, Score, checksum
from steelyard.harness.runs.suite import Suite, SuiteEntry
from steelyard.harness.training import search
from steelyard.tasks.corruptions.columns import columns_of, task_means, upward
from steelyard.tasks.corruptions.variants import CLEAN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "tuning.json"
SCHEMA = 1
TRAINING_SEED = 100
"""Seed of the trials: boards use seeds from 0, so no run on a board was itself chosen."""
PHASE = "tune"


def composite(record: Record) -> float:
    """Return the mean over tasks of the mean of a task's clean metrics, higher is better."""
    scores = [
        score
        for score in record.scores
        if score.variant == CLEAN
        and (score.shown or score.main)
        and score.higher_is_better is not None
    ]
    means = task_means([score.task for score in scores], [_directed(score) for score in scores])
    return fmean(float(mean) for mean in means.values())


def main_metric(record: Record) -> float:
    """Return the clean main metric of the task trained on, higher is better."""
    return _main_scores(record)[CLEAN]


def balanced(record: Record) -> float:
    """Return the rank score of a board of one task: clean and corrupted weigh the same."""
    values = _main_scores(record)
    # Sorted, so that equal records add up in the same order.
    weights = columns_of(record.spec.task, sorted(values))["balanced"]
    return sum(weight * values[variant] for variant, weight in weights.items())


def _main_scores(record: Record) -> dict[str, float]:
    """Return the main metric of the task trained on by variant."""
    scores = [score for score in record.scores if score.main and score.task == record.spec.task]
    for score in scores:
        if score.higher_is_better is None:
            raise UserError(f"{score.task}: its main metric {score.metric} has no direction.")
    return {score.variant: float(_directed(score)) for score in scores}


def _directed(score: Score) -> "NDArray[np.float64]":
    import numpy as np  # here, because a command's help must be fast

    return upward(np.array(score.value), score.higher_is_better)


RULES: dict[str, Callable[[Record], float]] = {
    "best-composite": composite,
    "best-main": main_metric,
    "best-balanced": balanced,
}
"""Scores on validation items, averaged over the data sets trained on; ties: the earlier trial."""
CORRUPTED = ("best-balanced",)
"""Rules that also use corrupted items."""


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """Number of trials and rule of a tuning; the fields are keys of the tuning file."""

    trials: Annotated[int, Help("Number of trials per entry, its own settings included")] = 8
    rule: Annotated[str, Help(f"Rule that chooses on validation items: {', '.join(RULES)}")] = (
        "best-composite"
    )
    seed: Annotated[int, Help("Seed of the drawn settings")] = 0
    """Added to the trials' training seed."""
    oracle: bool = False
    """Whether to score the trials on test items too."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise UserError(f"--trials {self.trials}: give at least 1.")
        check_known("rule", self.rule, RULES)

    @property
    def training_seed(self) -> int:
        """Seed of every trial."""
        return TRAINING_SEED + self.seed


def trials_of(entry: SuiteEntry, suite: Suite, plan: TuningPlan) -> list[SuiteEntry]:
    """Draw the trials of an entry: the same on every machine; its own options stay as they are."""
    kind = registry.kind_of(suite.backbone)
    default = registry.configure(suite.backbone, suite.backbone_options).learning_rate
    default *= methods.learning_rate(entry.method, kind)
    space = methods.search_space(methods.load(entry.method))
    # An option that the entry sets is what the entry is about, so it is not searched.
    free = {name: values for name, values in space.items() if name not in entry.options}
    trials = []
    for number in range(plan.trials):
        options, rate = entry.options, entry.learning_rate
        if number:
            names = (plan.seed, entry.name, number)
            options = {**options, **search.draw(free, kind, *names)}
            rate = search.learning_rate(default, *names)
        label = trial_label(entry.name, number)
        trials.append(SuiteEntry(entry.method, options, label, rate, entry.trl, kind="trial"))
    return trials


def trial_label(name: str, number: int) -> str:
    """Return the label of a trial's records."""
    return f"{name} trial {number}"


def trial_suite(
    suite: Suite, plan: TuningPlan, numbers: Sequence[int], names: Sequence[str]
) -> Suite:
    """Return a suite of these trials of the entries with these names, on validation items."""
    entries = tuple(
        trial
        for entry in suite.entries
        if entry.name in names
        for number, trial in enumerate(trials_of(entry, suite, plan))
        if number in numbers
    )
    corruptions = suite.corruptions if plan.rule in CORRUPTED else ()
    seeds = (plan.training_seed,)
    return replace(suite, entries=entries, seeds=seeds, split="val", corruptions=corruptions)


def report(
    suite: Suite,
    plan: TuningPlan,
    records: Sequence[Record],
    test_records: Sequence[Record],
    revisions: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of a tuning file; ``test_records`` are the trials on test items."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "suite": suite.name,
        **asdict(plan),
        "training_seed": plan.training_seed,
        "split": "val",
        "limit": suite.limit,
        "tasks": {task: revisions[task] for task in suite.tasks},
        "evaluate": list(suite.evaluate),
        "backbone": suite.backbone,
        "backbone_options": dict(suite.backbone_options),
        "budget": suite.budget,
        "track": suite.run_track,
        "wall": suite.wall,
        "entries": [
            _entry_report(entry, suite, plan, records, test_records) for entry in suite.entries
        ],
    }
    for entry in content["entries"]:
        entry["hash"] = entry_hash(content, entry)
    return {**content, "seal": checksum(content)}


def _entry_report(
    entry: SuiteEntry,
    suite: Suite,
    plan: TuningPlan,
    val_records: Sequence[Record],
    test_records: Sequence[Record],
) -> dict[str, Any]:
    trials: list[dict[str, Any]] = []
    runs: list[Record] = []
    rule = RULES[plan.rule]
    for trial in trials_of(entry, suite, plan):
        records = [record for record in val_records if record.label == trial.label]
        if not records:
            continue  # a method that trains nothing has one trial
        runs += records
        failures = [record.failure for record in records if record.status == "failed"]
        tests = [rule(record) for record in test_records if record.label == trial.label]
        trials.append(
            {
                "options": dict(trial.options),
                "learning_rate": trial.learning_rate,
                "runs": [record.id for record in records],
                # A mean over fewer data sets is not comparable with the other trials.
                "score": None if failures else fmean(map(rule, records)),
                "test": fmean(tests) if tests and not failures else None,
                "failure": "; ".join(failures),
                "flops": sum(record.ledger.total_flops for record in records),
                "seconds": round(sum(record.ledger.total_seconds for record in records), 3),
            }
        )
    return {
        "label": entry.name,
        "method": entry.method,
        "source": runs[0].spec.source,
        "trials": trials,
        "chosen": best([row["score"] for row in trials]),
        "oracle": best([row["test"] for row in trials]),
        "ledger": asdict(_total_ledger(runs, plan.trials * len(suite.tasks))),
    }


def _total_ledger(runs: Sequence[Record], count: int) -> Ledger:
    """Add up the trials of an entry; the limits are those of one run times ``count``."""
    ledgers = [record.ledger for record in runs]
    first = ledgers[0]
    return Ledger(
        flops={PHASE: sum(ledger.total_flops for ledger in ledgers)},
        seconds={PHASE: round(sum(ledger.total_seconds for ledger in ledgers), 3)},
        steps=sum(ledger.steps for ledger in ledgers),
        items=sum(ledger.items for ledger in ledgers),
        answers=sum(ledger.answers for ledger in ledgers),
        peak_bytes=max(ledger.peak_bytes for ledger in ledgers),
        device=first.device,
        # No limit (None) stays None.
        limit_flops=first.limit_flops and first.limit_flops * count,
        limit_seconds=first.limit_seconds and first.limit_seconds * count,
        stopped="finished",
        limit_items=first.limit_items and first.limit_items * count,
    )


def best(scores: Sequence[float | None]) -> int | None:
    """Return the first index of the highest score; None if no trial has a score."""
    # Negative, so that the earlier trial wins a tie.
    ranked = [(score, -trial) for trial, score in enumerate(scores) if score is not None]
    return -max(ranked)[1] if ranked else None


def entry_hash(content: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Hash the trials and the choice of one entry, without times and other entries: 16 digits."""
    names = ("rule", "seed", "split", "limit", "tasks", "evaluate", "backbone", "backbone_options",
             "budget", "track", "wall")  # fmt: skip
    choice = {name: entry[name] for name in ("label", "method", "source", "chosen", "oracle")}
    trials = [(trial["options"], trial["learning_rate"]) for trial in entry["trials"]]
    return checksum({**{name: content[name] for name in names}, **choice, "trials": trials})[:16]


def read(path: Path) -> dict[str, Any]:
    """Read a tuning file.

    Raises:
        UserError: the file is missing, foreign, of another schema, or was changed by hand.
    """
    if not path.is_file():
        raise UserError(f"No tuning file at {path}; 'steelyard tune' writes one.")
    content = read_object(path)
    if not content.keys() >= {"schema", "seal"}:
        raise UserError(f"{path} is not a tuning file of 'steelyard tune': no schema and seal.")
    schema, seal = content["schema"], content["seal"]
    if schema != SCHEMA:
        raise UserError(f"{path}: schema {schema}, this version reads {SCHEMA}.")
    if seal != checksum(content):
        raise UserError(
            f"{path} was changed after it was written: its checksum is {seal}, its content gives "
            f"{checksum(content)}. Tune again."
        )
    return content


def add_chosen(suites: Sequence[Suite], path: Path, *, oracle: bool) -> list[Suite]:
    """Add the chosen settings of a tuning file as further entries.

    Raises:
        UserError: see ``read``; or the file is about none of the entries.
    """
    content = read(path)
    entries = [chosen_entries(content, suite, oracle=oracle) for suite in suites]
    if not any(entries):
        names = ", ".join(sorted(entry["label"] for entry in content["entries"]))
        raise UserError(
            f"{path} has settings of {names} with backbone {content['backbone']} on "
            f"{', '.join(content['tasks'])}: no such entry is run here."
        )
    return [
        replace(suite, entries=(*suite.entries, *more))
        for suite, more in zip(suites, entries, strict=True)
    ]


def chosen_entries(content: Mapping[str, Any], suite: Suite, *, oracle: bool) -> list[SuiteEntry]:
    """Return the chosen settings of a suite's entries, labelled ``... tuned``.

    ``oracle`` adds the settings that are best on test items. Empty if the tuning file has another
    backbone or other data sets.
    """
    if (content["backbone"], content["backbone_options"], sorted(content["tasks"])) != (
        suite.backbone, dict(suite.backbone_options), sorted(suite.tasks),
    ):  # fmt: skip
        return []
    tuned = {entry["label"]: entry for entry in content["entries"]}
    entries = []
    for entry in suite.entries:
        choice = tuned.get(entry.name)
        if choice is None or choice["method"] != entry.method or not choice["ledger"]["steps"]:
            continue  # not tuned, or a method that trains nothing
        for kind, trial in (("tuned", choice["chosen"]), ("oracle", choice["oracle"])):
            if trial is not None and (oracle or kind == "tuned"):
                entries.append(replace(_chosen_entry(content, choice, trial, kind), trl=entry.trl))
    return entries


def _chosen_entry(
    content: Mapping[str, Any], choice: Mapping[str, Any], trial: int, kind: str
) -> SuiteEntry:
    setting = choice["trials"][trial]
    summary = {
        # A part of the run's id: runs of an oracle and of the tuned entry must not share a folder.
        "hash": choice["hash"] if kind == "tuned" else f"oracle-{choice['hash']}",
        "rule": content["rule"] if kind == "tuned" else f"{content['rule']} on test",
        "trial": trial,
        "trials": content["trials"],
        **{name: content[name] for name in ("seed", "budget", "track", "wall", "split")},
        "flops": sum(choice["ledger"]["flops"].values()),
        "seconds": sum(choice["ledger"]["seconds"].values()),
    }
    return SuiteEntry(
        choice["method"],
        setting["options"],
        f"{choice['label']} {kind}",
        setting["learning_rate"],
        kind="entry" if kind == "tuned" else "oracle",
        tuning=summary,
    )
