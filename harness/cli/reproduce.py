"""Command reproduce: run a record's spec again and compare the results."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import click

from steelyard import tasks
from steelyard.harness.cli.options import pass_options
from steelyard.harness.core.environment import code, device_name, packages, pick_device
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import digest, file_hash
from steelyard.harness.core.options import Help
from steelyard.harness.core.progress import console, print_table, show_progress
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import options as shared
from steelyard.harness.runs import parallel
from steelyard.harness.runs.job import Job, variant_name
from steelyard.harness.runs.run import run

SHOWN = 10  # scores with the largest distance
ROUNDING = 1e-12  # of a score's last digits in JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproduceOptions(shared.DataOptions):
    """Options of ``steelyard reproduce``."""

    tolerance: Annotated[float, Help("Largest allowed difference of a score in [0, 1]")] = 0.0
    out: Annotated[Path, shared.OUT] = Path("reproduced")
    method: Annotated[Path | None, shared.METHOD_FILE] = None
    device: Annotated[str, shared.DEVICE] = "auto"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Recorded number or status that differs from the new one."""

    name: str
    recorded: str
    rerun: str
    distance: float | None
    """Absolute difference of a score; None for anything else and for a missing score."""

    def exceeds(self, tolerance: float) -> bool:
        """Return whether the record does not hold: a score too far off or missing, or a status.

        Weights, steps and FLOPs may differ in the last digits from machine to machine.
        """
        if self.distance is not None:
            return self.distance > tolerance
        return self.name not in ("weights", "steps", "FLOPs")


@click.command()
@click.argument("folder", type=Path)
@pass_options(ReproduceOptions)
def reproduce(folder: Path, options: ReproduceOptions) -> None:
    """Run a record again and compare scores and costs.

    Names all differences of code, packages and device from the record in FOLDER. Exit code 1 if a
    score differs by more than the tolerance. Everything is trained and scored anew; code of a
    method's file runs only if that file is given.

    \b
    Example:
      steelyard reproduce leaderboards/records/world/joint-food101-tiny-S-s0-ad309750
    """
    old = record.read(folder)
    if old.origin == "answers from a file":
        raise UserError(
            f"{folder} has answers of a file: score that file again, 'steelyard score'."
        )
    if engine := old.provenance.get("engine"):
        raise UserError(
            f"{folder} has answers by {engine['name']}: score the model again, with 'steelyard "
            f"evaluate --engine {engine['name']}'."
        )
    source = old.provenance
    variants = tuple(dict.fromkeys(map(variant_name, old.scores)))
    spec = _find_method(old, options.method)
    if (place := options.out / spec.id).exists():
        raise UserError(
            f"{place} exists already, and a run that lies there reproduces nothing: remove it, or "
            "give another folder with --out."
        )
    split, limit = source["data"]["split"], source["limit"]
    job = Job(
        spec,
        old.label,
        variants,
        split,
        limit,
        old.kind,
        source.get("tuning"),
        elsewhere=source.get("elsewhere"),
    )
    parallel.quiet_heavy_libraries()
    device = pick_device(options.device)
    for line in environment_changes(old, device):
        console.print(line)
    corpora = parallel.load_job_corpora(job, old, options)
    parallel.ensure_base_model(spec.backbone, spec.backbone_options)
    with show_progress() as progress:
        new = run(job, corpora, options.out, device, progress)
    mismatches = list(compare(old, new))
    _print_comparison(old, new, mismatches, options.tolerance)
    if any(mismatch.exceeds(options.tolerance) for mismatch in mismatches):
        sys.exit(1)


def _find_method(old: Record, path: Path | None) -> RunSpec:
    """Return the spec; a method that is not in the package needs its unchanged file.

    The path that a stranger's record names is not code that the user asked to run.
    """
    spec = old.spec
    if not spec.source:
        return spec
    if path is None:
        raise UserError(f"{old.id} was trained by {spec.method}: give that file with --method.")
    if not path.is_file():
        raise UserError(f"No method file at {path}.")
    if file_hash(path) != spec.source:
        raise UserError(
            f"{path} is not the file that trained {old.id}: its hash is {file_hash(path)}, "
            f"recorded is {spec.source}."
        )
    return replace(spec, method=str(path))


def environment_changes(old: Record, device: str) -> Iterator[str]:
    """Yield a line for each change of code, packages and machine since the record."""
    before, now = old.provenance["code"], code()
    if before["source"] != now["source"]:
        layout = "" if old.layout == now["layout"] else f" (source layout {old.layout})"
        yield (
            f"other code: recorded {before['commit'] or before['source']}{layout}, here "
            f"{now['commit'] or now['source']}{' with changes' if now['dirty'] else ''}"
        )
    task = digest(path.read_bytes() for path in tasks.files(old.spec.task))
    if old.provenance["task"] != task:
        yield f"other files of task {old.spec.task}: recorded {old.provenance['task']}, here {task}"
    installed = packages()
    for name, version in sorted(old.provenance["packages"].items()):
        if installed.get(name) != version:
            yield f"other {name}: recorded {version}, here {installed.get(name, 'none')}"
    if old.ledger.device != device_name(device):
        yield f"other device: recorded {old.ledger.device}, here {device_name(device)}"
    if old.spec.wall is not None:
        yield f"capped at {old.spec.wall:g} s: the number of steps depends on the machine"


def compare(old: Record, new: Record) -> Iterator[Mismatch]:
    """Yield all differences of two records of one spec, scores first."""
    # Matched by name: the rerun may have more scores.
    values = {(s.task, s.variant, s.metric, s.subset): s.value for s in new.scores}
    for score in old.scores:
        value = values.get((score.task, score.variant, score.metric, score.subset))
        if value is None or abs(value - score.value) > ROUNDING:
            name = " ".join(p for p in (variant_name(score), score.subset, score.metric) if p)
            distance = None if value is None else abs(value - score.value)
            rerun = "none" if value is None else f"{value:.6f}"
            yield Mismatch(name, f"{score.value:.6f}", rerun, distance)
    facts = {
        "status": (f"{old.status} {old.failure}", f"{new.status} {new.failure}"),
        "steps": (str(old.ledger.steps), str(new.ledger.steps)),
        "FLOPs": (f"{old.ledger.total_flops:.0f}", f"{new.ledger.total_flops:.0f}"),
    }
    # A run without training has no weights.
    if old.provenance["weights"] is not None:
        facts["weights"] = (old.provenance["weights"], str(new.provenance["weights"]))
    for name, (before, now) in facts.items():
        if before != now:
            yield Mismatch(name, before.strip(), now.strip(), None)


def _print_comparison(
    old: Record, new: Record, mismatches: Sequence[Mismatch], tolerance: float
) -> None:
    if not mismatches:
        weights = old.provenance["weights"] or "not recorded"
        console.print(
            f"equal: weights {weights}, {len(old.scores)} scores, "
            f"{new.ledger.steps} steps, {new.ledger.total_flops:.4g} FLOPs"
        )  # fmt: skip
        return
    largest = sorted(mismatches, key=lambda mismatch: -(mismatch.distance or 0.0))[:SHOWN]
    rows = [
        (row.name, row.recorded, row.rerun, "" if row.distance is None else f"{row.distance:.6f}")
        for row in mismatches
        if row.distance is None or row in largest
    ]
    print_table(("name", "recorded", "rerun", "difference"), rows, old.id)
    off = sum(mismatch.exceeds(tolerance) for mismatch in mismatches)
    console.print(f"{off} of {len(old.scores)} scores differ by more than {tolerance:g}")
