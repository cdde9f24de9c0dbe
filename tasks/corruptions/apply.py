"""Apply a variant to the items of a split: take some of them and corrupt what each one shows."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Example, Inputs, Modality
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.answers import normalise
from steelyard.tasks.corruptions import CORRUPTIONS, CorruptionKind, corrupt
from steelyard.tasks.corruptions.missing import has
from steelyard.tasks.corruptions.variants import Variant

InputReader = Callable[[Example], Inputs]
"""Reads one modality of an item; the other one is None."""
DRAWS_BEFORE_SEARCH = 100
"""Draws of a donor after which all items are searched for one."""


def limited(
    examples: Sequence[Example], limit: int | None, *, by_cluster: bool = False
) -> Sequence[Example]:
    """Take ``limit`` items with the fractions of answers and subsets that all items have.

    A smaller limit gives a subset of a larger one. ``by_cluster`` takes complete clusters that fit,
    and the first one even if it does not: a metric over groups needs complete groups.
    """
    if limit is None:
        return examples
    if limit < 1:
        raise UserError(f"--limit {limit}: score one or more items.")
    clusters: dict[str, list[Example]] = {}
    for example in examples:
        name = (example.cluster or example.id) if by_cluster else example.id
        clusters.setdefault(name, []).append(example)
    firsts = {name: members[0] for name, members in clusters.items()}
    answers = {n: str(e.labels) + normalise(e.answers[0] if e.answers else "")
               for n, e in firsts.items()}  # fmt: skip
    subsets = {name: example.subset for name, example in firsts.items()}
    # The one with fewer values first: its fractions are the most exact.
    strata = sorted([answers, subsets], key=lambda values: len(set(values.values())))
    ids: set[str] = set()
    for name in _balanced(list(clusters), strata):
        # Stop, not skip: skipping would prefer small clusters.
        if ids and len(ids) + len(clusters[name]) > limit:
            break
        ids.update(example.id for example in clusters[name])
    return [example for example in examples if example.id in ids]


def _balanced(names: Sequence[str], strata: Sequence[Mapping[str, str]]) -> list[str]:
    """Order names so that each beginning has the fractions of every stratum, else by a hash.

    A systematic sample: the members of a stratum have equal distances, from a hashed start.
    """
    if not strata:
        return sorted(names, key=lambda name: seed_for("limit", name))
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(strata[0][name], []).append(name)
    places = []
    for value, members in groups.items():
        start = seed_for("limit", value) / 2**63
        ordered = _balanced(members, strata[1:])
        places += [((rank + start) / len(members), name) for rank, name in enumerate(ordered)]
    return [name for _, name in sorted(places)]


def corrupted_reader(
    variant: Variant, modality: Modality, split: str, examples: Sequence[Example], read: InputReader
) -> InputReader:
    """Return ``read`` of a modality with the variant's corruption.

    A modality that an item does not have stays absent. An attack is left to the scored model.
    ``examples`` are all items of the split, for some corruptions take content of other items.
    """
    missing = variant.missing_items(split, examples)
    corruption = variant.on(modality)
    if modality == "image" and variant.attack is not None:
        corruption = None
    # By id, so that the order of the files does not decide which donor an item gets.
    present = [example for example in examples if has(example, modality)] if corruption else []
    candidates = sorted(present, key=lambda example: example.id)

    def read_corrupted(example: Example) -> Inputs:
        if missing.get(example.id) == modality:
            return Inputs(None, None)
        inputs = read(example)
        if corruption is None or not has(example, modality):
            return inputs
        kind = CORRUPTIONS[corruption.name]

        def draw(rng: np.random.Generator) -> Inputs:
            return read(_draw_donor(variant, kind, candidates, example, rng))

        return corrupt(corruption.name, corruption.level, example.id, inputs, draw)

    return read_corrupted


def _draw_donor(
    variant: Variant,
    kind: CorruptionKind,
    candidates: list[Example],
    example: Example,
    rng: np.random.Generator,
) -> Example:
    """Draw an item with other content and, if of another class, no right answer in common.

    Items are drawn, not distinct contents, so that frequent contents stay frequent.
    """

    def content(item: Example) -> object:
        return item.image if kind.modality == "image" else (item.text or "").strip()

    def right_answers(item: Example) -> frozenset[int | str]:
        return frozenset(item.labels or map(normalise, item.answers))

    def fits(donor: Example) -> bool:
        if content(donor) == content(example):
            return False
        answers = right_answers(donor)
        # Without an answer an item cannot mislead.
        different = bool(answers) and answers.isdisjoint(right_answers(example))
        return kind.donor == "any" or different

    # Drawing again is uniform over the items that fit and mostly faster than listing them.
    for draws in itertools.count(1):
        donor = candidates[rng.integers(len(candidates))]
        if fits(donor):
            return donor
        # If an item fits, draw on: taking the first that fits would not be uniform.
        if draws == DRAWS_BEFORE_SEARCH and not any(map(fits, candidates)):
            break
    raise UserError(
        f"{variant}: every {kind.modality} of the split is the same, none to swap in."
        if kind.donor == "any"
        else f"{variant}: no item of the split has another right answer than '{example.id}', "
        "none to mislead with."
    )
