"""Training costs of entries: means of their runs' ledgers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from steelyard.leaderboards.loading.collect import Run


@dataclass(frozen=True, slots=True)
class Cost:
    """Training cost of an entry: means over seeds."""

    flops: float | None
    """Metered, or declared by the user; None if unknown or if nothing was trained."""
    relative: float | None
    """FLOPs divided by the control's; None if the control is not ranked."""
    seconds: float
    steps: float
    items: float
    peak_bytes: float
    phases: Mapping[str, float]
    """FLOPs by phase."""
    amortised: float
    """FLOPs if artefacts (mined answers, teachers, features) are charged once for all seeds; shown
    only, boards use ``flops``."""
    tuning: float
    """FLOPs of the tuning trials, not part of ``flops``; 0 without tuning."""
    source: str = field(default="metered", repr=False)
    """``metered``, ``declared``, ``unknown`` or ``nothing trained``; an entry's kind implies it."""

    def __str__(self) -> str:
        if self.flops is None:
            return self.source
        return (
            f"{self.flops:.2e}" if self.source == "metered" else f"{self.flops:.2e} {self.source}"
        )


def costs_of(complete: Mapping[str, Sequence[Run]], control: str) -> dict[str, Cost]:
    """Return the cost of each entry by label, also relative to the control."""
    control_flops = [run.record.ledger.total_flops for run in complete.get(control, ())]
    # A control without training has no FLOPs to divide by.
    base = fmean(control_flops) if any(control_flops) else None
    return {label: _cost(group, base) for label, group in complete.items()}


def _cost(runs: Sequence[Run], base: float | None) -> Cost:
    ledgers = [run.record.ledger for run in runs]
    flops, source = _flops(runs)
    phases = sorted({phase for ledger in ledgers for phase in ledger.flops})
    return Cost(
        flops=flops,
        source=source,
        relative=flops / base if base and flops is not None else None,
        seconds=fmean(ledger.total_seconds for ledger in ledgers),
        steps=fmean(ledger.steps for ledger in ledgers),
        items=fmean(ledger.items for ledger in ledgers),
        peak_bytes=fmean(ledger.peak_bytes for ledger in ledgers),
        phases={p: fmean(ledger.flops.get(p, 0.0) for ledger in ledgers) for p in phases},
        amortised=fmean(ledger.amortised_flops(len(runs)) for ledger in ledgers),
        # Not a sum: all seeds share the trials.
        tuning=max(run.record.provenance.get("tuning", {}).get("flops", 0.0) for run in runs),
    )


def _flops(runs: Sequence[Run]) -> tuple[float | None, str]:
    """Return the FLOPs of an entry and how they are known."""
    record = runs[0].record
    if record.origin == "trained":
        return fmean(run.record.ledger.total_flops for run in runs), "metered"
    if record.origin == "as it is":
        return None, "nothing trained"
    return record.declared_flops, "unknown" if record.declared_flops is None else "declared"
