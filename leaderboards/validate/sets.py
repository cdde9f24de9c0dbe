"""Records against one another: a suite's seeds, items, data and costs, and its tuning file."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from steelyard.harness.core.errors import UserError
from steelyard.harness.records import record
from steelyard.harness.records.record import Record, Score
from steelyard.harness.runs import tuning
from steelyard.leaderboards.loading.collect import Run, backbone_name, budget_name
from steelyard.leaderboards.validate.record import Finding

JUMP = 0.02
"""How far a score may be from that of the published run of the same id."""
SLOW = 10.0
"""How many times the usual seconds for its FLOPs a run may have taken, and
a minute more: machines are not equally busy."""
GRACE_SECONDS = 60.0
SPREAD = 0.25
"""How far the FLOPs of a training item may be from the median of an entry's seeds, relatively."""
DECODING = ("mine", "rollout")
"""Phases in which words are decoded, which takes long for few FLOPs."""

Key = tuple[Path, str, str, str]


Ids = Mapping[Path, Mapping[tuple[str, str], str]]
"""Hash of the scored item ids, by run folder, then by task and variant."""


def check(path: Path, runs: Sequence[Run], ids: Ids) -> list[Finding]:
    """Findings over runs that lie together and were trained alike, and over tuning files."""
    findings: list[Finding] = []
    groups: defaultdict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        spec = run.record.spec
        if run.record.kind != "trial":
            key = (run.folder.parent, spec.task, backbone_name(spec), budget_name(spec))
            groups[key].append(run)
    for (folder, task, _, _), group in sorted(groups.items()):
        sets = (_seeds(group), _twice(group), _data(group), _items(group, ids), _speed(group))
        findings += [Finding(folder, f"{task}: {what}") for found in sets for what in found]
    findings += [Finding(folder, what) for folder, what in _same_run(runs)]
    contents: dict[Path, dict[str, Any]] = {}
    for file in sorted(path.rglob(tuning.FILE)):
        try:
            contents[file] = tuning.read(file)
        except UserError as error:
            findings.append(Finding(file, str(error)))
            continue
        findings += [Finding(file, what) for what in _tuning(contents[file])]
    return findings + [Finding(run.folder, what) for run, what in _tuned(runs, contents.values())]


def jumps(runs: Sequence[Run], against: Path) -> list[Finding]:
    """Runs that scored otherwise than the published run with the same spec."""
    published = {_scored(found): found for found in map(record.read, record.find(against))}
    return [
        Finding(run.folder, f"{what} in {against}")
        for run in runs
        if (known := published.get(_scored(run.record))) is not None
        for what in _apart(run.record.scores, known.scores, JUMP)
    ]


def _scored(found: Record) -> tuple[str, str, str]:
    """Which run it is and which items it was scored on."""
    made = found.provenance
    return found.id, str(made.get("data", {}).get("items")), str(made.get("limit"))


def _apart(own: Sequence[Score], other: Sequence[Score], tolerance: float) -> Iterator[str]:
    known = {(s.task, s.variant, s.metric, s.subset): s.value for s in other}
    for score in own:
        value = known.get((score.task, score.variant, score.metric, score.subset), score.value)
        if abs(value - score.value) > tolerance * max(1.0, abs(value)):
            yield (
                f"{score.task} {score.variant} {score.metric} is {score.value:.4f}, the same run "
                f"has {value:.4f}"
            )
            return  # one is enough: all of a run's scores move together


def _seeds(group: Sequence[Run]) -> Iterator[str]:
    by_label: defaultdict[str, set[int]] = defaultdict(set)
    for run in group:
        by_label[run.record.label].add(run.record.spec.seed)
    wanted = set(range(max(seed for seeds in by_label.values() for seed in seeds) + 1))
    for label, seeds in sorted(by_label.items()):
        if missing := sorted(wanted - seeds):
            named = ", ".join(map(str, missing))
            yield f"{label} has no run of seed {named}; seeds count from 0, none is left out"


def _twice(group: Sequence[Run]) -> Iterator[str]:
    first: dict[tuple[str, int], Run] = {}
    for run in group:
        key = (run.record.label, run.record.spec.seed)
        if (other := first.setdefault(key, run)) is not run:
            names = f"{other.folder.name} and {run.folder.name}"
            yield f"{key[0]} has two runs of seed {key[1]}: {names}"


def _data(group: Sequence[Run]) -> Iterator[str]:
    """Trained on the same items in the same form, under the same rules."""
    for what, name in (("data revisions", "revision"), ("item sets", "items")):
        values = {str(run.record.provenance.get("data", {}).get(name)) for run in group}
        if len(values) > 1:
            yield f"{len(values)} {what} among runs that are compared: {', '.join(sorted(values))}"
    rules = {str(run.record.provenance.get("rules", 1)) for run in group}
    if len(rules) > 1:
        yield f"runs under {len(rules)} versions of the rules: {', '.join(sorted(rules))}"
    made = {str(run.record.provenance.get("packages", {}).get("torch")) for run in group}
    if len(made) > 1:
        yield f"runs under {len(made)} versions of torch, which may count unlike: " + ", ".join(
            sorted(made)
        )


def _items(group: Sequence[Run], ids: Ids) -> Iterator[str]:
    """Every run of a group was scored on the same items of each task and variant."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for run in group:
        for key, own in ids.get(run.folder, {}).items():
            name, other = first.setdefault(key, (run.folder.name, own))
            if other != own:
                yield f"{run.folder.name} and {name} were scored on other items of {' '.join(key)}"


def _speed(group: Sequence[Run]) -> Iterator[str]:
    """Seconds that FLOPs do not explain, and FLOPs an item that jump from seed to seed."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for run in group:
        flops, seconds = _undecoded(run)
        if flops and seconds:
            rates[run.record.ledger.device].append(flops / seconds)
    for run in group:
        flops, seconds = _undecoded(run)
        known = rates[run.record.ledger.device]
        if known and seconds > SLOW * flops / median(known) + GRACE_SECONDS:
            yield (
                f"{run.folder.name} trained {seconds:.0f} s, {flops:.3g} FLOPs explain "
                f"{flops / median(known):.0f} s: work that was not counted?"
            )
    entries: defaultdict[str, list[Run]] = defaultdict(list)
    for run in group:
        if run.record.status == "done" and run.record.ledger.items:
            entries[run.record.label].append(run)
    for own in entries.values():
        costs = [run.record.ledger.total_flops / run.record.ledger.items for run in own]
        usual = median(costs)
        for run, cost in zip(own, costs, strict=True):
            if abs(cost - usual) > SPREAD * usual:
                yield (
                    f"{run.folder.name} spent {cost:.3g} FLOPs a training item, its other seeds "
                    f"{usual:.3g}"
                )


def _undecoded(run: Run) -> tuple[float, float]:
    ledger = run.record.ledger
    flops = sum(value for phase, value in ledger.flops.items() if phase not in DECODING)
    seconds = sum(value for phase, value in ledger.seconds.items() if phase not in DECODING)
    return flops, seconds


def _same_run(runs: Sequence[Run]) -> Iterator[tuple[Path, str]]:
    """The same spec in two folders gives the same scores on the same items."""
    first: dict[tuple[str, str, str], Run] = {}
    for run in runs:
        other = first.setdefault(_scored(run.record), run)
        if other is not run:
            for what in _apart(run.record.scores, other.record.scores, JUMP):
                yield run.folder, f"{what} in {other.folder}"


def _tuning(content: Mapping[str, Any]) -> Iterator[str]:
    """As many trials for each entry, the best of them chosen, and no more spent than allowed."""
    for entry in content["entries"]:
        label, trials, ledger = entry["label"], entry["trials"], entry["ledger"]
        if len(trials) != content["trials"] and not (len(trials) == 1 and not ledger["steps"]):
            yield f"{label} has {len(trials)} trials, the plan is {content['trials']}"
        if entry["chosen"] != tuning.best([trial["score"] for trial in trials]):
            yield f"{label}: trial {entry['chosen']} was chosen and is not the best"
        if entry["hash"] != tuning.entry_hash(content, entry):
            yield f"{label}: its hash does not follow from its trials"
        for name, limit in (("flops", ledger["limit_flops"]), ("seconds", ledger["limit_seconds"])):
            spent = sum(ledger[name].values())
            if name == "flops" and limit is not None and spent > limit * (1 + 1e-9):
                yield f"{label}: tuning spent {spent:.4g} FLOPs of {limit:.4g}"


def _tuned(runs: Sequence[Run], contents: Any) -> Iterator[tuple[Run, str]]:
    """Every tuned run names trials that lie beside it, as many as the other entries had."""
    known = {entry["hash"]: entry for content in contents for entry in content["entries"]}
    tuned = [run for run in runs if run.record.spec.tuning and run.record.kind != "trial"]
    plans: defaultdict[tuple[Path, str], set[Any]] = defaultdict(set)
    for run in tuned:
        plans[_board(run)].add(run.record.provenance.get("tuning", {}).get("trials"))
    for run in tuned:
        about = run.record.provenance.get("tuning", {})
        entry = known.get(run.record.spec.tuning.removeprefix("oracle-"))
        if entry is None:
            yield run, f"no {tuning.FILE} with the trials {run.record.spec.tuning} lies beside it"
            continue
        setting = entry["trials"][about.get("trial", 0)]
        spec = run.record.spec
        if (dict(spec.options), spec.learning_rate) != (
            setting["options"], setting["learning_rate"],
        ):  # fmt: skip
            yield run, f"its settings are not those of trial {about.get('trial')}"
        if len(unequal := plans[_board(run)]) > 1:
            yield run, f"entries had unequal numbers of trials: {sorted(map(str, unequal))}"


def _board(run: Run) -> tuple[Path, str]:
    """Which entries are compared: those trained on one task whose runs lie together."""
    return run.folder.parent, run.record.spec.task
