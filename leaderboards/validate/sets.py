"""Checks across records: seeds, items, data and costs of a suite, and its tuning file."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.folders import tree
from steelyard.harness.records.record import Record, Score
from steelyard.harness.runs import tuning
from steelyard.harness.runs.provenance import data_revisions
from steelyard.leaderboards.loading.collect import Run, backbone_name, budget_name, read_runs
from steelyard.leaderboards.validate.finding import Finding

JUMP = 0.02
"""Largest allowed difference to the published score of the same run."""
SLOW = 10.0
"""A run may take this many times the median seconds for its FLOPs, plus ``GRACE_SECONDS``."""
GRACE_SECONDS = 60.0
SPREAD = 0.25
"""Largest relative difference of the FLOPs per training item to the median of the seeds."""
DECODING = ("mine", "rollout")
"""Phases that decode words, which takes long for few FLOPs."""
Ids = Mapping[Path, Mapping[tuple[str, str], str]]
"""Hash of the scored item ids, by run folder, then by task and variant."""


def check(path: Path, runs: Sequence[Run], ids: Ids) -> list[Finding]:
    """Check runs of the same folder, task, backbone and budget together, and the tuning files."""
    findings: list[Finding] = []
    groups: defaultdict[tuple[Path, str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        spec = run.record.spec
        if run.record.kind != "trial":
            key = (run.folder.parent, spec.task, backbone_name(spec), budget_name(spec))
            groups[key].append(run)
    for (folder, task, _, _), group in sorted(groups.items()):
        checks = (_seeds(group), _twice(group), _data(group), _items(group, ids), _speed(group))
        findings += [Finding(folder, f"{task}: {message}") for message in chain(*checks)]
    findings += [Finding(folder, message) for folder, message in _same_run(runs)]
    contents: dict[Path, dict[str, Any]] = {}
    for file in (Path(folder, tuning.FILE) for folder, names in tree(path) if tuning.FILE in names):
        try:
            contents[file] = tuning.read(file)
        except UserError as error:
            findings.append(Finding(file, str(error)))
            continue
        findings += [Finding(file, message) for message in _tuning(contents[file])]
    tuned = _tuned(runs, contents.values())
    return findings + [Finding(run.folder, message) for run, message in tuned]


def compare_published(runs: Sequence[Run], against: Path) -> list[Finding]:
    """Find runs whose scores differ from the published run with the same spec."""
    published = {
        _run_key(record): record for record in (run.record for run in read_runs([against]))
    }
    return [
        Finding(run.folder, f"{message} in {against}")
        for run in runs
        if (record := published.get(_run_key(run.record))) is not None
        for message in _differences(run.record.scores, record.scores)
    ]


def _run_key(record: Record) -> tuple[str, str, str]:
    """Return the run's id, and the items that it was scored on."""
    provenance = record.provenance
    return record.id, str(provenance.get("data", {}).get("items")), str(provenance.get("limit"))


def _differences(scores: Sequence[Score], expected: Sequence[Score]) -> Iterator[str]:
    values = {(s.task, s.variant, s.metric, s.subset): s.value for s in expected}
    for score in scores:
        value = values.get((score.task, score.variant, score.metric, score.subset), score.value)
        # Devices round differently, and training amplifies it. Absolute for fractions.
        if abs(value - score.value) > JUMP * max(1.0, abs(value)):
            yield (
                f"{score.task} {score.variant} {score.metric} is {score.value:.4f}, the same run "
                f"has {value:.4f}"
            )
            return  # all scores of a run change together


def _seeds(group: Sequence[Run]) -> Iterator[str]:
    by_label: defaultdict[str, set[int]] = defaultdict(set)
    for run in group:
        by_label[run.record.label].add(run.record.spec.seed)
    # A gap may be a seed that was run and left out for its score.
    expected = set(range(max(seed for seeds in by_label.values() for seed in seeds) + 1))
    for label, seeds in sorted(by_label.items()):
        if missing := ", ".join(map(str, sorted(expected - seeds))):
            yield f"{label} has no run of seed {missing}; seeds are 0, 1, 2 ... without gaps"


def _twice(group: Sequence[Run]) -> Iterator[str]:
    first: dict[tuple[str, int], Run] = {}
    for run in group:
        key = (run.record.label, run.record.spec.seed)
        if (earlier := first.setdefault(key, run)) is not run:
            names = f"{earlier.folder.name} and {run.folder.name}"
            yield f"{key[0]} has two runs of seed {key[1]}: {names}"


def _data(group: Sequence[Run]) -> Iterator[str]:
    """Check that all runs have the same data, rules and torch version."""
    for noun, values in (
        ("data revisions", {", ".join(data_revisions(run.record)) for run in group}),
        ("item sets", {str(run.record.provenance.get("data", {}).get("items")) for run in group}),
    ):
        if len(values) > 1:
            yield f"{len(values)} {noun} among the runs: {', '.join(sorted(values))}"
    rules = {str(run.record.provenance.get("rules", 1)) for run in group}
    if len(rules) > 1:
        yield f"runs under {len(rules)} versions of the rules: {', '.join(sorted(rules))}"
    versions = {str(run.record.provenance.get("packages", {}).get("torch")) for run in group}
    if len(versions) > 1:
        listed = ", ".join(sorted(versions))
        yield f"runs under {len(versions)} versions of torch, which may count differently: {listed}"


def _items(group: Sequence[Run], ids: Ids) -> Iterator[str]:
    """Check that all runs were scored on the same items of each task and variant."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for run in group:
        for key, items in ids.get(run.folder, {}).items():
            name, expected = first.setdefault(key, (run.folder.name, items))
            if items != expected:
                names = f"{run.folder.name} and {name}"
                yield f"{names} were scored on different items of {' '.join(key)}"


def _speed(group: Sequence[Run]) -> Iterator[str]:
    """Check that seconds fit the FLOPs, and that seeds use similar FLOPs per training item."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for run in group:
        flops, seconds = _undecoded(run)
        if flops and seconds:
            # By device, since speeds of different ones do not compare.
            rates[run.record.ledger.device].append(flops / seconds)
    for run in group:
        flops, seconds = _undecoded(run)
        device_rates = rates[run.record.ledger.device]
        # The median rate: the slow run itself hardly moves it.
        if device_rates and seconds > SLOW * flops / median(device_rates) + GRACE_SECONDS:
            yield (
                f"{run.folder.name} trained {seconds:.0f} s, its {flops:.3g} FLOPs take about "
                f"{flops / median(device_rates):.0f} s: was work not counted?"
            )
    entries: defaultdict[str, list[Run]] = defaultdict(list)
    for run in group:
        if run.record.status == "done" and run.record.ledger.items:
            entries[run.record.label].append(run)
    for entry in entries.values():
        costs = [run.record.ledger.total_flops / run.record.ledger.items for run in entry]
        # Per item, since runs that stop early differ in total.
        middle = median(costs)
        for run, cost in zip(entry, costs, strict=True):
            if abs(cost - middle) > SPREAD * middle:
                yield (
                    f"{run.folder.name} used {cost:.3g} FLOPs per training item, the median seed "
                    f"{middle:.3g}"
                )


def _undecoded(run: Run) -> tuple[float, float]:
    ledger = run.record.ledger
    flops = sum(value for phase, value in ledger.flops.items() if phase not in DECODING)
    seconds = sum(value for phase, value in ledger.seconds.items() if phase not in DECODING)
    return flops, seconds


def _same_run(runs: Sequence[Run]) -> Iterator[tuple[Path, str]]:
    """Check that runs of the same spec and items in two folders have the same scores."""
    first: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        earlier = first.setdefault(_run_key(run.record), run)
        if earlier is not run:
            for message in _differences(run.record.scores, earlier.record.scores):
                yield run.folder, f"{message} in {earlier.folder}"


def _tuning(content: Mapping[str, Any]) -> Iterator[str]:
    """Check the numbers of trials, the choice of the best, the limits and the hashes."""
    for entry in content["entries"]:
        label, trials, ledger = entry["label"], entry["trials"], entry["ledger"]
        # A method that takes no steps has nothing to tune: one trial is enough.
        if len(trials) != content["trials"] and not (len(trials) == 1 and not ledger["steps"]):
            yield f"{label} has {len(trials)} trials instead of {content['trials']}"
        if entry["chosen"] != tuning.best([trial["score"] for trial in trials]):
            yield f"{label}: trial {entry['chosen']} was chosen, but is not the best"
        if entry["hash"] != tuning.entry_hash(content, entry):
            yield f"{label}: its hash is not that of its trials"
        flops, items = sum(ledger["flops"].values()), ledger["items"]
        # No seconds: a run ends with the step in which its time is up.
        for noun, spent, limit in (
            ("FLOPs", flops, ledger["limit_flops"]),
            ("items", items, ledger.get("limit_items")),
        ):
            if limit is not None and spent > limit * (1 + 1e-9):
                yield f"{label}: tuning used {spent:.4g} {noun} of {limit:.4g}"


def _tuned(runs: Sequence[Run], contents: Any) -> Iterator[tuple[Run, str]]:
    """Check that the trials of tuned runs exist, equally many for all entries."""
    entries = {entry["hash"]: entry for content in contents for entry in content["entries"]}
    tuned = [run for run in runs if run.record.spec.tuning and run.record.kind != "trial"]
    plans: defaultdict[tuple[Path, str], set[Any]] = defaultdict(set)
    for run in tuned:
        plans[_board(run)].add(run.record.provenance.get("tuning", {}).get("trials"))
    for run in tuned:
        about = run.record.provenance.get("tuning", {})
        # Oracle runs choose from the same trials, by their test scores.
        entry = entries.get(run.record.spec.tuning.removeprefix("oracle-"))
        if entry is None:
            yield run, f"there is no {tuning.FILE} with the trials {run.record.spec.tuning}"
            continue
        setting = entry["trials"][about.get("trial", 0)]
        spec = run.record.spec
        if (dict(spec.options), spec.learning_rate) != (
            setting["options"], setting["learning_rate"],
        ):  # fmt: skip
            yield run, f"its settings are not those of trial {about.get('trial')}"
        if len(numbers := plans[_board(run)]) > 1:
            yield run, f"entries have different numbers of trials: {sorted(map(str, numbers))}"


def _board(run: Run) -> tuple[Path, str]:
    """Return the folder and the task, whose entries are compared."""
    return run.folder.parent, run.record.spec.task
