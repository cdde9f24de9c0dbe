"""What entries cost to train: means of their runs' ledgers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from steelyard.leaderboards.loading.collect import Run


@dataclass(frozen=True, slots=True)
class Cost:
    """What an entry's training cost: means over seeds."""

    flops: float
    relative: float | None
    """FLOPs over the control's; None where the control is not ranked."""
    seconds: float
    steps: float
    items: float
    peak_bytes: float
    phases: Mapping[str, float]
    """FLOPs by phase."""
    amortised: float
    """FLOPs where artefacts (mined answers, teachers, features) are charged once for all seeds; it
    is only shown, ``flops`` is what counts."""
    tuning: float
    """FLOPs of the trials that chose the settings, beside ``flops``; 0 where nobody tuned."""


def costs_of(complete: Mapping[str, Sequence[Run]], control: str) -> dict[str, Cost]:
    """What each entry cost, also relative to the control, by label."""
    spent = [run.record.ledger.total_flops for run in complete.get(control, ())]
    base = fmean(spent) if any(spent) else None
    return {label: _cost(group, base) for label, group in complete.items()}


def _cost(runs: Sequence[Run], base: float | None) -> Cost:
    ledgers = [run.record.ledger for run in runs]
    flops = fmean(ledger.total_flops for ledger in ledgers)
    phases = sorted({phase for ledger in ledgers for phase in ledger.flops})
    return Cost(
        flops=flops,
        relative=flops / base if base else None,
        seconds=fmean(ledger.total_seconds for ledger in ledgers),
        steps=fmean(ledger.steps for ledger in ledgers),
        items=fmean(ledger.items for ledger in ledgers),
        peak_bytes=fmean(ledger.peak_bytes for ledger in ledgers),
        phases={p: fmean(ledger.flops.get(p, 0.0) for ledger in ledgers) for p in phases},
        amortised=fmean(ledger.amortised_flops(len(runs)) for ledger in ledgers),
        tuning=max(run.record.provenance.get("tuning", {}).get("flops", 0.0) for run in runs),
    )
