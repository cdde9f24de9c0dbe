"""Mark boards whose runs are too short for a conclusion, and boards of generated data."""

from collections.abc import Iterable, Mapping, Sequence

from steelyard import methods
from steelyard.harness.models import registry
from steelyard.harness.records.record import Record
from steelyard.leaderboards.loading.collect import Run

FEWEST_STEPS = 300
"""Optimiser steps that every trained entry of a board needs before the board can conclude."""
PRELIMINARY = "preliminary"
GENERATED_REVISIONS = frozenset({
    "f2970ff306dd1129",  # food101
    "2a33c603c6ce10d7",  # hateful_memes
    "27e932bdfc2ea853",  # mm_imdb
    "70458701486c134b",  # instruct
    "e9f6db0b3e574fb7",  # chair
    "6ee725c9bb39e92d",  # pope
    "3d6496b9a8940833",  # prior_conflict
    "ef93c1d71f32967b",  # vqa
})  # fmt: skip
"""Data revisions of the generated world in published records that predate ``data.generated``."""


def preliminary(entries: Mapping[str, Sequence[Run]]) -> str:
    """Return why these entries cannot carry a conclusion, or an empty string if they can.

    Decided by the trained entry with the fewest optimiser steps in one run, which is the one that
    pays most for a step under an equal budget.
    """
    steps = {
        label: min(run.record.ledger.steps for run in runs)
        for label, runs in entries.items()
        if any(_trains(run.record) for run in runs)
    }
    # The label breaks ties: the sentence is the same in every build.
    label = min(steps, key=lambda label: (steps[label], label), default="")
    if not label or steps[label] >= FEWEST_STEPS:
        return ""
    count = f"{steps[label]:.0f} optimiser step{'' if steps[label] == 1 else 's'}"
    return f"{PRELIMINARY}: {label} took {count}, fewer than {FEWEST_STEPS}"


def _trains(record: Record) -> bool:
    """Return whether a run took steps, or would have if its budget had sufficed for one."""
    # A method that finished without a step needs none.
    if record.ledger.steps or record.ledger.stopped == "finished":
        return record.ledger.steps > 0
    method = record.spec.method
    # Boards run no code of a user's file.
    return method not in methods.names() or methods.about(method).learns


def adapted(entries: Mapping[str, Sequence[Run]]) -> Sequence[str]:
    """Return a note on entries whose method is partly ours on their backbone, if any."""
    labels = [
        label
        for label, runs in sorted(entries.items())
        # Once for all seeds: to list the methods reads a folder.
        if any(
            _is_adapted(*pair)
            for pair in {(r.record.spec.method, r.record.spec.backbone) for r in runs}
        )
    ]
    if not labels:
        return ()
    return (
        f"Adapted to vision-language models by steelyard, not by the papers: {', '.join(labels)}; "
        "the cards of the methods say how.",
    )


def _is_adapted(method: str, backbone: str) -> bool:
    # Boards run no code of a user's file.
    shipped = registry.kind_of(backbone) == "vlm" and method in methods.names()
    return shipped and bool(methods.about(method).adapted)


def joined(reasons: Mapping[str, str]) -> str:
    """Combine the reasons of several boards, by name, into one; empty if there is none."""
    parts = [f"{name}: {r.removeprefix(f'{PRELIMINARY}: ')}" for name, r in reasons.items() if r]
    return f"{PRELIMINARY}: {'; '.join(parts)}" if parts else ""


def sentence(reason: str) -> str:
    """Return a reason as a sentence that ends a caption, or an empty string."""
    return f" {reason[0].upper()}{reason[1:]}." if reason else ""


def is_generated(runs: Iterable[Run]) -> bool:
    """Return whether any run was trained or scored on generated data."""
    return any(
        part.get("data", {}).get("generated", False)
        or part.get("data", {}).get("revision") in GENERATED_REVISIONS
        for provenance in (run.record.provenance for run in runs)
        for part in (provenance, *provenance.get("scored", {}).values())
    )


def titled(name: str, *, generated: bool, preliminary: str) -> str:
    """Return a board's name with its marks, such as ``food101 (generated, preliminary)``."""
    marks = ["generated"] * generated + [PRELIMINARY] * bool(preliminary)
    if not marks:
        return name
    # One pair of brackets, as in ``vqa (tiny, generated)``.
    start = f"{name[:-1]}, " if name.endswith(")") else f"{name} ("
    return f"{start}{', '.join(marks)})"
