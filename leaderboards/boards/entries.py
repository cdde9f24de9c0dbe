"""Split the entries of a board by whether they have all runs and scores that the others have."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from steelyard.leaderboards.loading.collect import Run
from steelyard.tasks.corruptions.variants import CLEAN


@dataclass(frozen=True, slots=True)
class Blank:
    """Entry without a rank, and what it lacks."""

    label: str
    kind: str
    missing: str


class EntryGroups(NamedTuple):
    """Entries of a board, complete and incomplete."""

    complete: dict[str, list[Run]]
    blanks: tuple[Blank, ...]
    kinds: dict[str, str]


def entry_groups(
    groups: Mapping[str, list[Run]],
    seeds: Sequence[int],
    required: Set[tuple[str, str]],
    kinds: Mapping[str, str],
) -> EntryGroups:
    """Split entries by whether they have all seeds and (task, variant) pairs.

    ``kinds`` are by label, or else by method.
    """
    by_label = {
        # A variant of a method is of the method's kind unless it has its own.
        label: kinds.get(label, kinds.get(group[0].record.spec.method, ""))
        if (origin := group[0].record.origin) == "trained"
        else origin
        for label, group in groups.items()
    }
    missing = {label: _missing(group, seeds, required) for label, group in groups.items()}
    complete = {label: group for label, group in groups.items() if not missing[label]}
    blanks = [Blank(label, by_label[label], why) for label, why in missing.items() if why]
    return EntryGroups(complete, tuple(blanks), by_label)


def _missing(runs: Sequence[Run], seeds: Sequence[int], required: Set[tuple[str, str]]) -> str:
    """Describe which seeds and (task, variant) pairs an entry's runs lack; empty if none."""
    present = {run.record.spec.seed for run in runs}
    parse_tasks = {task for task, variant in required if variant == CLEAN}
    parts = [f"no run of seed {seed}" for seed in seeds if seed not in present]
    # On the board of one task its name says nothing.
    several_tasks = len({task for task, _ in required}) > 1
    for run in runs:
        seed = run.record.spec.seed
        scored = {(score.task, score.variant) for score in run.record.scores if score.main}
        absent = sorted(required - scored)
        names = [f"{task} {variant}" if several_tasks else variant for task, variant in absent]
        if run.record.status == "failed":
            parts.append(f"seed {seed} failed: {run.record.failure}")
        elif absent:
            parts.append(f"seed {seed} lacks {', '.join(names)}")
        elif unread := [t for t in parse_tasks if run.record.unparsed.get((t, CLEAN)) == 1]:
            parts.append(f"seed {seed}: no answer to {', '.join(sorted(unread))} could be read")
    return "; ".join(parts)
