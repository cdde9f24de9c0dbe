"""``steelyard reproduce``: run a record's spec again here and compare everything it claims."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from steelyard.harness.cli.console import make_ready, pick_device, reading
from steelyard.harness.core.environment import code, device_name, packages
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import file_hash
from steelyard.harness.core.progress import console, progress_bar
from steelyard.harness.records import record
from steelyard.harness.records.record import Record, Score
from steelyard.harness.runs.corpora import corpora_of
from steelyard.harness.runs.run import Job, run

SHOWN = 10  # scores that are furthest off
ROUNDING = 1e-12  # of a score's last digits in JSON


@dataclass(frozen=True, slots=True)
class Difference:
    """One number that came out otherwise."""

    what: str
    recorded: str
    here: str
    apart: float | None
    """How far a score is off; None for what has no distance."""


def reproduce(folder: Path, out: Path, tolerance: float, given: Mapping[str, Any]) -> bool:
    """Rerun the record in ``folder`` into ``out``; whether all scores are within ``tolerance``.

    Raises:
        UserError: there is no such record, its method's file or its data is another one, or
            ``out`` holds the record itself.
    """
    from steelyard.harness.runs.parallel import quiet_heavy_libraries

    found = record.read(folder)
    if out.resolve() == folder.parent.resolve():
        raise UserError(f"--out {out} holds the record itself: give another folder.")
    spec = _with_method(found, given["method"])
    variants = tuple(dict.fromkeys(map(_variant, found.scores)))
    made = found.provenance
    job = Job(spec, found.label, variants, made["data"]["split"], made["limit"], found.kind,
              made.get("tuning"))  # fmt: skip
    quiet_heavy_libraries()
    device = pick_device(given["device"])
    for line in environment(found, device):
        console.print(line, highlight=False)
    with reading():
        corpora = corpora_of(job, found, given)
    make_ready(spec.backbone, spec.backbone_options)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=1.0)

        def report(doing: str, share: float) -> None:
            bar.update(task, description=doing, completed=share)

        again = run(job, corpora, out, device, report)
    differences = list(compare(found, again))
    _print(found, again, differences, tolerance)
    return not any(beyond(difference, tolerance) for difference in differences)


def _with_method(found: Record, given: Path | None) -> Any:
    """The spec, with the method's file where it is a user's and lies elsewhere now."""
    spec = found.spec
    if not spec.source:
        return spec
    path = given or Path(spec.method)
    if not path.is_file():
        raise UserError(f"{found.id} was trained by {spec.method}: give that file with --method.")
    if file_hash(path) != spec.source:
        raise UserError(
            f"{path} is not the file that trained {found.id}: its hash is "
            f"{file_hash(path)}, recorded is {spec.source}."
        )
    return replace(spec, method=str(path))


def _variant(score: Score) -> str:
    return score.task if score.variant == "clean" else f"{score.task}@{score.variant}"


def environment(found: Record, device: str) -> Iterator[str]:
    """A line for each thing about code, packages and machine that is not as it was."""
    made = found.provenance
    before, now = made["code"], code()
    if before["source"] != now["source"]:
        yield (
            f"other code: recorded {before['commit'] or before['source']}, here "
            f"{now['commit'] or now['source']}{' with changes' if now['dirty'] else ''}"
        )
    installed = packages()
    for name, version in sorted(made["packages"].items()):
        if installed.get(name) != version:
            yield f"other {name}: recorded {version}, here {installed.get(name, 'none')}"
    if found.ledger.device != device_name(device):
        yield f"other device: recorded {found.ledger.device}, here {device_name(device)}"
    if found.spec.wall is not None:
        yield f"capped at {found.spec.wall:g} s: how far it comes depends on the machine"


def compare(found: Record, again: Record) -> Iterator[Difference]:
    """What came out otherwise, scores first."""
    values = {(s.task, s.variant, s.metric, s.subset): s.value for s in again.scores}
    for score in found.scores:
        here = values.get((score.task, score.variant, score.metric, score.subset))
        if here is None or abs(here - score.value) > ROUNDING:
            name = " ".join(p for p in (_variant(score), score.subset, score.metric) if p)
            apart = None if here is None else abs(here - score.value)
            shown = "none" if here is None else f"{here:.6f}"
            yield Difference(name, f"{score.value:.6f}", shown, apart)
    facts = {
        "status": (f"{found.status} {found.failure}", f"{again.status} {again.failure}"),
        "steps": (str(found.ledger.steps), str(again.ledger.steps)),
        "FLOPs": (f"{found.ledger.total_flops:.0f}", f"{again.ledger.total_flops:.0f}"),
    }
    if found.provenance["weights"] is not None:
        facts["weights"] = (found.provenance["weights"], str(again.provenance["weights"]))
    for what, (before, now) in facts.items():
        if before != now:
            yield Difference(what, before.strip(), now.strip(), None)


def beyond(difference: Difference, tolerance: float) -> bool:
    """Whether it says that the record does not hold: a score too far off or lacking, or a status.

    Weights, steps and FLOPs may differ in the last digits from machine to machine.
    """
    if difference.apart is not None:
        return difference.apart > tolerance
    return difference.what not in ("weights", "steps", "FLOPs")


def _print(found: Record, again: Record, differences: list[Difference], tolerance: float) -> None:
    if not differences:
        weights = found.provenance["weights"] or "not recorded"
        console.print(
            f"equal: weights {weights}, {len(found.scores)} scores, "
            f"{again.ledger.steps} steps, {again.ledger.total_flops:.4g} FLOPs", highlight=False
        )  # fmt: skip
        return
    table = Table("what", "recorded", "here", "apart", title=found.id)
    worst = sorted(differences, key=lambda each: -(each.apart or 0.0))[:SHOWN]
    for difference in (each for each in differences if each.apart is None or each in worst):
        apart = "" if difference.apart is None else f"{difference.apart:.6f}"
        table.add_row(difference.what, difference.recorded, difference.here, apart)
    console.print(table)
    off = sum(beyond(difference, tolerance) for difference in differences)
    console.print(f"{off} of {len(found.scores)} scores are off by more than {tolerance:g}")
