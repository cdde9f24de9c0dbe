"""The items of a split as one variant shows them: which are asked, and what each of them shows."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Inputs, Modality
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.answers import normalise
from steelyard.tasks.corruptions import CORRUPTIONS, Giver, corrupt
from steelyard.tasks.corruptions.variants import Variant

Read = Callable[[Example], Inputs]
"""Reads an item's inputs; the side that is not read is None."""
PATIENCE = 100
"""Draws of a donor after which it is looked up whether there is one."""


def some(
    examples: Sequence[Example], limit: int | None, *, whole: bool = False
) -> Sequence[Example]:
    """``limit`` items by a hash of their ids; ``whole`` takes clusters uncut while they fit.

    One cluster is taken even if it does not fit, for a metric over groups needs all of a group.
    """
    if limit is None:
        return examples
    if limit < 1:
        raise UserError(f"--limit {limit}: score one or more items.")
    if whole:
        chosen = _whole_clusters(examples, limit)
    else:
        chosen = {e.id for e in sorted(examples, key=lambda e: seed_for("limit", e.id))[:limit]}
    return [example for example in examples if example.id in chosen]


def _whole_clusters(examples: Sequence[Example], limit: int) -> set[str]:
    members: dict[str, list[str]] = {}
    for example in examples:
        members.setdefault(example.cluster or example.id, []).append(example.id)
    chosen: set[str] = set()
    for cluster in sorted(members, key=lambda name: seed_for("limit", name)):
        if chosen and len(chosen) + len(members[cluster]) > limit:
            break
        chosen.update(members[cluster])
    return chosen


def shown(
    variant: Variant,
    modality: Modality,
    examples: Sequence[Example],
    lost: Mapping[str, Modality],
    read: Read,
) -> Read:
    """``read`` with the variant's damage to this side, and nothing where ``lost`` takes the side.

    A side that is missing stays missing. An attack is left to the model that is scored.

    Args:
        examples: the whole split, for some damage takes from other items.
        lost: the side that an item loses, by its id.
        read: reads this side alone.
    """
    corrupted = _corrupted(variant, modality, examples, read)

    def kept(example: Example) -> Inputs:
        return Inputs(None, None) if lost.get(example.id) == modality else corrupted(example)

    return kept


def _corrupted(
    variant: Variant, modality: Modality, examples: Sequence[Example], read: Read
) -> Read:
    corruption = variant.on(modality)
    if corruption is None or (modality == "image" and variant.attack is not None):
        return read
    donors = Donors(variant, modality, examples, CORRUPTIONS[corruption.name].giver)

    def corrupted(example: Example) -> Inputs:
        inputs = read(example)
        if not _held(example, modality):
            return inputs

        def other(rng: np.random.Generator) -> Inputs:
            return read(donors.draw(example, rng))

        return corrupt(corruption.name, corruption.level, example.id, inputs, other)

    return corrupted


def _held(example: Example, modality: Modality) -> Path | str | None:
    return example.image if modality == "image" else (example.text or "").strip()


class Donors:
    """The items that may give their image or evidence to another one."""

    def __init__(
        self, variant: Variant, modality: Modality, examples: Sequence[Example], giver: Giver
    ) -> None:
        self.variant, self.modality, self.giver = variant, modality, giver
        # By id, so that the order of the files does not decide who gives to whom.
        able = (example for example in examples if _held(example, modality))
        self.present = sorted(able, key=lambda example: example.id)

    def draw(self, example: Example, rng: np.random.Generator) -> Example:
        """One with another content and, of rivals, with no right answer in common.

        Drawn among items, not among distinct contents, so that frequent ones stay frequent.

        Raises:
            UserError: there is none.
        """
        for tries in itertools.count(1):
            drawn = self.present[rng.integers(len(self.present))]
            if self._fits(example, drawn):
                return drawn
            if tries == PATIENCE and not any(self._fits(example, o) for o in self.present):
                break
        raise UserError(
            f"{self.variant}: every {self.modality} of the split is the same, none to swap in."
            if self.giver == "other"
            else f"{self.variant}: no item of the split has another right answer than "
            f"'{example.id}', none to mislead with."
        )

    def _fits(self, example: Example, drawn: Example) -> bool:
        if _held(drawn, self.modality) == _held(example, self.modality):
            return False
        given = _right(drawn)
        return self.giver == "other" or (bool(given) and given.isdisjoint(_right(example)))


def _right(example: Example) -> frozenset[int | str]:
    return frozenset(example.labels or map(normalise, example.answers))
