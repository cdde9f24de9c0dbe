"""What our lmms-eval tasks share: rows in memory, and one variant's damage to them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config
from PIL.Image import Image

from steelyard import tasks
from steelyard.harness.backbone import Inputs, Side
from steelyard.harness.data import Corpus, Example
from steelyard.harness.errors import UserError, unknown
from steelyard.harness.seeds import seed_for
from steelyard.tasks import missing
from steelyard.tasks.answers import normalise
from steelyard.tasks.corruptions import CORRUPTIONS, Giver, corrupt
from steelyard.tasks.images import store_of
from steelyard.tasks.metrics import POOLS, Doc, Question

Read = Callable[[Example], Inputs]
"""Reads an item's inputs; the side that is not read is None."""
PATIENCE = 100
"""Draws of a donor after which it is looked up whether there is one."""
Row = Doc | Question


class Docs(list[Row]):
    """Rows of one split, with the column names lmms-eval asks of a data set."""

    @property
    def features(self) -> dict[str, None]:
        """Column names."""
        return dict.fromkeys(self[0])


@dataclass(frozen=True, slots=True)
class Content:
    """What a task is asked about."""

    docs: Docs
    choices: list[str]
    """Answer strings in class order; none for questions."""
    multi_label: bool


class MemoryTask(ConfigurableTask):  # type: ignore[misc]  # lmms-eval is untyped
    """An lmms-eval task over rows in memory.

    Made from a YAML's configuration alone, as stock lmms-eval does, it reads the data itself:
    from ``dataset_kwargs.root``, or where ``steelyard.tasks.find_root`` says.
    """

    def __init__(self, config: Mapping[str, Any], content: Content | None = None) -> None:
        self.content = content or _stock_content(config)
        super().__init__(config={key: config[key] for key in config if key != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Take the rows from memory; lmms-eval would fetch a data set, trying five times."""
        self.dataset = self.dataset_no_image = {self.config.test_split: self.content.docs}

    def process_results(self, doc: Row, results: Sequence[str]) -> dict[str, Any]:
        """Score one answer. lmms-eval's own method would retry a failure for ten seconds."""
        scores: dict[str, Any] = self.config.process_results(doc, results)
        return scores


def build(variant: "tasks.Variant", corpus: Corpus, split: str, limit: int | None) -> MemoryTask:
    """See ``steelyard.tasks.build``."""
    if split not in corpus.splits:
        raise unknown(f"split of {corpus.name}", split, corpus.splits)
    config = load_yaml_config(str(tasks.definition(variant.task)), mode="full")
    everyone = corpus.splits[split]
    examples = _some(everyone, limit, whole=_has_groups(config))
    images = store_of(corpus.root, split)

    def image(example: Example) -> Inputs:
        return Inputs(images.get(example.image) if example.image else None, None)

    def text(example: Example) -> Inputs:
        return Inputs(None, example.text)

    lost = missing.of(variant, split, everyone)
    see = _without(_damaged(variant, "image", everyone, image), "image", lost)
    tell = _without(_damaged(variant, "text", everyone, text), "text", lost)
    by_id = {example.id: example for example in examples}

    def visual(doc: Row) -> list[Image]:
        seen = see(by_id[doc["id"]]).image
        return [] if seen is None else [seen]

    changes = {
        "task": str(variant),
        "test_split": split,
        "num_fewshot": 0,
        "doc_to_visual": visual,
    }
    content = _content(variant.task, corpus, split, examples, tell)
    made: MemoryTask = config["class"]({**config, **changes}, content)
    return made


def _has_groups(config: Mapping[str, Any]) -> bool:
    return any(metric["aggregation"] in POOLS for metric in config["metric_list"])


def _some(
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


def _damaged(variant: "tasks.Variant", side: Side, examples: Sequence[Example], read: Read) -> Read:
    """``read`` with the variant's damage to this side; a side that is missing stays missing.

    An attack is left to the model that is scored.
    """
    damage = variant.on(side)
    if damage is None or (side == "image" and variant.attack is not None):
        return read
    donors = Donors(variant, side, examples, CORRUPTIONS[damage.name].giver)

    def damaged(example: Example) -> Inputs:
        inputs = read(example)
        if not _held(example, side):
            return inputs

        def other(rng: np.random.Generator) -> Inputs:
            return read(donors.draw(example, rng))

        return corrupt(damage.name, damage.level, example.id, inputs, other)

    return damaged


def _held(example: Example, side: Side) -> Path | str | None:
    return example.image if side == "image" else (example.text or "").strip()


class Donors:
    """The items that may give their image or evidence to another one."""

    def __init__(
        self, variant: "tasks.Variant", side: Side, examples: Sequence[Example], giver: Giver
    ) -> None:
        self.variant, self.side, self.giver = variant, side, giver
        # By id, so that the order of the files does not decide who gives to whom.
        able = (example for example in examples if _held(example, side))
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
            f"{self.variant}: every {self.side} of the split is the same, none to swap in."
            if self.giver == "other"
            else f"{self.variant}: no item of the split has another right answer than "
            f"'{example.id}', none to mislead with."
        )

    def _fits(self, example: Example, drawn: Example) -> bool:
        if _held(drawn, self.side) == _held(example, self.side):
            return False
        given = _right(drawn)
        return self.giver == "other" or (bool(given) and given.isdisjoint(_right(example)))


def _right(example: Example) -> frozenset[int | str]:
    return frozenset(example.labels or map(normalise, example.answers))


def _without(read: Read, side: Side, lost: Mapping[str, Side]) -> Read:
    """``read`` without this side in the items that lose it."""
    if side not in lost.values():
        return read

    def kept(example: Example) -> Inputs:
        return Inputs(None, None) if lost.get(example.id) == side else read(example)

    return kept


def _content(
    task: str, corpus: Corpus, split: str, examples: Sequence[Example], tell: Read
) -> Content:
    docs = Docs(tasks.row(corpus, split, example, tell(example).evidence) for example in examples)
    choices = tasks.module(task).choices(corpus.classes) if corpus.classes else []
    return Content(docs, choices, corpus.multi_label)


def _stock_content(config: Mapping[str, Any]) -> Content:
    name, split = config["task"].removeprefix(tasks.PREFIX), config["test_split"]
    root = config["dataset_kwargs"]["root"]
    corpus = tasks.load(name, tasks.find_root(name, Path(root) if root else None))
    examples = corpus.splits[split]
    return _content(name, corpus, split, examples, lambda example: Inputs(None, example.text))
