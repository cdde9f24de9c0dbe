"""Asking a model about items as they are, and with a side taken away: the answers of a profile.

Views are named by what is left: ``full``, ``text`` (the image is taken away), ``image`` (the text
is) and ``neither``. A side is taken away by blanking it, or by putting another item's in its place;
the second is done several times over with other items each time. What an answer is worth is the
task's own scoring. ``leaderboards.reliance`` turns the rows into a profile.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES, Corpus, Inputs, Kind, Modality
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone
from steelyard.harness.reliance.answer_cache import Memory
from steelyard.tasks import answers as wording

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance
    from pandas import DataFrame

    from steelyard.harness.evaluation.lmms_model import Scorer
    from steelyard.tasks._lmms.memory_task import MemoryTask

TAKEN_AWAY: Mapping[str, tuple[Modality, ...]] = {
    "text": ("image",),
    "image": ("text",),
    "neither": MODALITIES,
}
"""Sides that each view lacks, by what is left."""
DRAWS = 5
"""How often a side is replaced by another item's."""
EMAP_ITEMS = 150
"""Items whose sides are all combined with each other, N x N fusions."""
ACCURACIES = ("accuracy", "aAcc")
"""Names of the share of items that are right."""
SMALLEST_PROBABILITY = 1e-9
"""In place of a probability that single precision rounds to 0."""

Tell = Callable[[int], None]
"""Told how many more questions have their answers."""


@dataclass(frozen=True, slots=True)
class View:
    """What a model is shown of every item."""

    name: str
    way: str = ""
    """``blank`` or ``shuffled``; empty for ``full``."""
    draw: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to the model: an item with the image and the text of these items."""

    view: View
    row: int
    image: int | None
    """Row whose image is shown; None for no image."""
    text: int | None


def views(*, sided: bool, draws: int) -> list[View]:
    """Every view; where a task has no text beside the image, only the image can be taken away."""
    names = list(TAKEN_AWAY) if sided else ["text"]
    blank = [View(name, "blank") for name in names]
    shuffled = [View(name, "shuffled", draw) for draw in range(draws) for name in names]
    return [View("full"), *blank, *shuffled]


def donors(
    contents: Sequence[str | None], ids: Sequence[str], modality: Modality, draw: int
) -> list[int]:
    """For each item another one, of other content, that lends this side; by id, not by order.

    Raises:
        UserError: no two items differ.
    """
    present = sorted((row for row, given in enumerate(contents) if given), key=lambda r: ids[r])
    if len({contents[row] for row in present}) < 2:
        raise UserError(
            f"Every {modality} of the chosen items is the same, none to swap in: ask more."
        )
    found = []
    for row, own in enumerate(contents):
        rng = np.random.default_rng(seed_for("reliance", modality, draw, ids[row]))
        other = present[rng.integers(len(present))]
        while contents[other] == own:
            other = present[rng.integers(len(present))]
        found.append(other)
    return found


def plan(docs: Sequence[Mapping[str, Any]], *, sided: bool, draws: int) -> list[Ask]:
    """All questions about these rows, view by view."""
    ids = [doc["id"] for doc in docs]
    contents: dict[Modality, list[str | None]] = {
        modality: [(doc[modality] or "").strip() or None for doc in docs] for modality in MODALITIES
    }
    asks = []
    for view in views(sided=sided, draws=draws):
        shown: dict[Modality, list[int | None]] = {}
        for modality in MODALITIES:
            given: Sequence[int] = range(len(docs))
            if modality in TAKEN_AWAY.get(view.name, ()):
                if view.way == "blank":
                    shown[modality] = [None] * len(docs)
                    continue
                given = donors(contents[modality], ids, modality, view.draw)
            # A side that an item never had stays absent.
            pairs = zip(contents[modality], given, strict=True)
            shown[modality] = [row if content else None for content, row in pairs]
        columns = zip(range(len(docs)), shown["image"], shown["text"], strict=True)
        asks += [Ask(view, row, image, text) for row, image, text in columns]
    return asks


def ask(
    backbone: Backbone,
    task_name: str,
    corpus: Corpus,
    memory: Memory,
    *,
    split: str = "test",
    limit: int | None = None,
    draws: int = DRAWS,
    tell: Tell = lambda more: None,
) -> "DataFrame":
    """One row an item and view, sorted by item within a view.

    Columns: view, way, draw, id, cluster, subset; ``top`` and ``bottom``, the item's share of the
    score; ``answer`` as read; ``truth``, the right one; ``habit``, the usual one where the task
    knows it; ``told``, the truth of the item that lent its text, of a single-label task;
    ``gain``, in the full view the log-likelihood a token of the right answer, in nats, minus that
    without the image.

    Raises:
        UserError: no such split, or too few items to swap their sides.
    """
    import pandas as pd

    task = tasks.build(tasks.Variant(task_name), corpus, split, limit)
    from steelyard.harness.evaluation.lmms_model import Scorer

    info = tasks.info(task_name)
    scorer = Scorer(backbone, backbone.recipe.batch_size)
    scorer.task_dict[task.task_name] = task.dataset
    talk = _Talk(task, scorer, memory, info.generative, tell)
    docs = task.dataset[split]
    asks = plan(docs, sided=bool(info.text), draws=draws)
    answers = talk.answers(asks)
    gains = _gains(talk, asks, answers)
    number = number_of(info)
    rows = []
    for each, answer in zip(asks, answers, strict=True):
        doc = docs[each.row]
        values = task.process_results(doc, [answer])
        top, bottom = _share(values, number)
        rows.append(
            {
                "view": each.view.name, "way": each.view.way, "draw": each.view.draw,
                "id": doc["id"], "cluster": values["item"]["cluster"],
                "subset": doc.get("subset", ""), "top": top, "bottom": bottom,
                "answer": _read(doc, answer, values), "truth": _truth(task_name, doc),
                "habit": _habit(doc), "told": _told(docs, each, corpus),
                "gain": gains[each.row] if each.view.name == "full" else np.nan,
            }
        )  # fmt: skip
    rows += _projected(talk, docs, rows)
    found = pd.DataFrame(rows)
    return found.sort_values(["view", "way", "draw", "id"], ignore_index=True)


def questions(
    task: str, corpus: Corpus, split: str, limit: int | None, draws: int, kind: Kind
) -> int:
    """How many answers and likelihoods ``ask`` needs, equal ones counted as often as they occur."""
    items = min(limit or sys.maxsize, len(corpus.splits.get(split, ())))
    shown = len(views(sided=bool(tasks.info(task).text), draws=draws))
    return items * (shown + (2 if kind == "vlm" else 0))


def number_of(info: "tasks.TaskInfo") -> str:
    """The metric that a profile follows: accuracy where the task has it, for it is a share of
    items and its chance level is known, else the main one."""
    if not info.generative:
        return "samples F1" if info.multi_label else "accuracy"
    return next((name for name in ACCURACIES if name in info.metrics), info.main)


@dataclass(frozen=True, slots=True)
class _Talk:
    """Asks what has not been asked before; equal questions are put once."""

    task: "MemoryTask"
    scorer: "Scorer"
    memory: Memory
    in_words: bool
    tell: Tell

    def answers(self, asks: Sequence[Ask]) -> list[str]:
        """As the model gives them: words, or a JSON list of class probabilities."""
        keys = [self._key("answer", each) for each in asks]
        reply = self.scorer.generate_until if self.in_words else self.scorer.score_choices

        def put(chunk: Sequence[Ask]) -> list[Any]:
            given = reply([self._request(each) for each in chunk])
            return [one if isinstance(one, str) else one.text for one in given]

        return self._remembered(keys, asks, put)

    def likelihoods(self, asks: Sequence[Ask], targets: Sequence[str]) -> list[float]:
        """Log-likelihood of each target as the answer, averaged over its tokens, in nats."""
        keys = [
            self._key("likelihood", each, target)
            for each, target in zip(asks, targets, strict=True)
        ]

        def put(chunk: Sequence[tuple[Ask, str]]) -> list[float]:
            wanted = [target for _, target in chunk]
            return log_likelihoods(
                self.scorer.backbone, [self.inputs(each) for each, _ in chunk], wanted
            )

        return self._remembered(keys, list(zip(asks, targets, strict=True)), put)

    def inputs(self, each: Ask) -> Inputs:
        """What the model is shown."""
        images = self._images(each)
        text, prompt = self._text(each)
        return Inputs(images[0] if images else None, text, prompt)

    def _remembered(
        self, keys: Sequence[str], what: Sequence[Any], put: Callable[[Sequence[Any]], list[Any]]
    ) -> list[Any]:
        waiting = {key: one for key, one in zip(keys, what, strict=True) if key not in self.memory}
        self.tell(len(keys) - len(waiting))
        for chunk in _chunks(list(waiting), self.scorer.batch_size):
            given = put([waiting[key] for key in chunk])
            self.memory.add(dict(zip(chunk, given, strict=True)))
            self.tell(len(chunk))
        return [self.memory[key] for key in keys]

    def _text(self, each: Ask) -> tuple[str | None, str]:
        """Evidence and the whole prompt."""
        docs = self.task.content.docs
        text = None if each.text is None else docs[each.text]["text"]
        return text, self.task.doc_to_text({**docs[each.row], "text": text})

    def _images(self, each: Ask) -> list[Any]:
        if each.image is None:
            return []
        images: list[Any] = self.task.doc_to_visual(self.task.content.docs[each.image])
        return images

    def _key(self, kind: str, each: Ask, target: str = "") -> str:
        image = None if each.image is None else self.task.content.docs[each.image]["image"]
        return Memory.key(kind, image, *self._text(each), target)

    def _request(self, each: Ask) -> "Instance":
        text, prompt = self._text(each)
        name = self.task.task_name
        made = self.task.construct_requests(
            each.row, prompt, metadata={"task": name, "doc_id": each.row, "repeats": 1}
        )
        _, asked, _, *place = made.arguments
        if not self.in_words:
            asked = {**asked, "text": text}
        images = self._images(each)
        return replace(made, arguments=(prompt, asked, lambda doc: images, *place))


def log_likelihoods(backbone: Any, inputs: Sequence[Inputs], answers: Sequence[str]) -> list[float]:
    """Mean log-likelihood of each answer's tokens, the end token included, in nats: [B]."""
    import torch

    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            batch = backbone.collate(inputs, answers)
            found: list[float] = (-backbone.loss(backbone.predict(batch), batch)).tolist()
            return found
    finally:
        backbone.train(training)


def _gains(talk: _Talk, asks: Sequence[Ask], answers: Sequence[str]) -> list[float]:
    """Image information gain of each item's right answer; NaN where the model gives no odds."""
    docs = talk.task.content.docs
    full = [each for each in asks if each.view.name == "full"]
    blind = [each for each in asks if each.view == View("text", "blank")]
    if talk.scorer.backbone.kind == "vlm":
        targets = [talk.task.doc_to_target(docs[each.row]) for each in full]
        seen, unseen = (talk.likelihoods(those, targets) for those in (full, blind))
    elif not talk.in_words:
        given = {(each.view, each.row): answer for each, answer in zip(asks, answers, strict=True)}
        seen, unseen = (
            [_log_probability(docs[each.row], given[each.view, each.row]) for each in those]
            for those in (full, blind)
        )
    else:
        return [np.nan] * len(docs)
    return [a - b for a, b in zip(seen, unseen, strict=True)]


def _log_probability(doc: Mapping[str, Any], answer: str) -> float:
    """Of the right class, or of all right decisions about classes, averaged over them."""
    found = np.clip(json.loads(answer), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    if len(doc["labels"]) == 1 and abs(sum(found) - 1) < 1e-3:
        return float(np.log(found[doc["labels"][0]]))
    right = np.isin(np.arange(len(found)), doc["labels"])
    return float(np.log(np.where(right, found, 1 - found)).mean())


def _projected(
    talk: _Talk, docs: Sequence[Any], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the view ``additive``: a classifier without what its two sides do together."""
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.reliance.additive import additive_probabilities

    backbone = talk.scorer.backbone
    if not isinstance(backbone, Classifier) or backbone.readout != "fused":
        return []
    chosen = sorted(range(len(docs)), key=lambda r: seed_for("emap", docs[r]["id"]))[:EMAP_ITEMS]
    shown = [talk.inputs(Ask(View("full"), r, r, r if docs[r]["text"] else None)) for r in chosen]
    full = {row["id"]: row for row in rows if row["view"] == "full"}
    found = []
    for r, given in zip(chosen, additive_probabilities(backbone, shown).tolist(), strict=True):
        values = talk.task.process_results(docs[r], [json.dumps(given)])
        top, bottom = _share(values, "")
        answer = _read(docs[r], "", values)
        more = {"top": top, "bottom": bottom, "answer": answer, "gain": np.nan}
        found.append({**full[docs[r]["id"]], "view": "additive", **more})
    return found


def _share(values: Mapping[str, Any], number: str) -> tuple[float, float]:
    """An item's share of the number: of classes its own score, of a group metric being right."""
    if "score" in values["item"]:
        return float(values["item"]["score"]), 1.0
    first, second = values.get(number, (0.0, 0.0))  # an item may have no part in it
    if isinstance(first, str):
        return float(second), 1.0
    return float(first), float(second)


def _read(doc: Mapping[str, Any], answer: str, values: Mapping[str, Any]) -> str:
    if "predicted" in values["item"]:
        return " ".join(map(str, values["item"]["predicted"]))
    return _in_words(doc, answer)


def _in_words(doc: Mapping[str, Any], answer: str) -> str:
    return wording.choice(answer, doc["choices"]) or wording.normalise(answer)


def _truth(task: str, doc: Mapping[str, Any]) -> str:
    if "labels" in doc:
        return " ".join(map(str, sorted(doc["labels"])))
    return _in_words(doc, tasks.module(task).doc_to_target(doc))


def _habit(doc: Mapping[str, Any]) -> str:
    usual = doc.get("facts", {}).get("prior", ())
    return _in_words(doc, usual[0]) if usual else ""


def _told(docs: Sequence[Mapping[str, Any]], each: Ask, corpus: Corpus) -> str:
    if not corpus.classes or corpus.multi_label or each.text in (None, each.row):
        return ""
    return str(docs[each.text]["labels"][0])


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
