"""Ask a model about items as they are and with a modality removed: the answers of a profile.

A view is named by what the model still gets: ``full``, ``text`` (image removed), ``image`` (text
removed) and ``neither``. A modality is removed by blanking it, or by replacing it with that of
another item; replacement is repeated with other items. An answer is worth what the task's own
scoring gives. ``leaderboards.reliance`` turns the rows into a profile.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES, Corpus, Inputs, Modality, ModelKind
from steelyard.harness.core.progress import no_progress
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, evaluation_mode
from steelyard.harness.records.record import UNPARSED
from steelyard.harness.reliance.answer_cache import AnswerCache
from steelyard.tasks import answers as wording
from steelyard.tasks import build

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance
    from pandas import DataFrame

    from steelyard.harness.evaluation.lmms_model import Scorer
    from steelyard.tasks._lmms.memory_task import MemoryTask

REMOVED: Mapping[str, tuple[Modality, ...]] = {
    "text": ("image",),
    "image": ("text",),
    "neither": MODALITIES,
}
"""Modalities that are removed in each view; views are named by what remains."""
EMAP_ITEMS = 150
"""Number N of items for the additive projection, which costs N x N fusions."""
ACCURACIES = ("accuracy", "aAcc")
"""Names of metrics that are the fraction of correct items."""
SMALLEST_PROBABILITY = 1e-9
"""Replaces a probability that single precision rounds to 0."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Items of a profile, and number of times that a modality is replaced by another item's."""

    split: str = "test"
    limit: int | None = 500
    draws: int = 5


@dataclass(frozen=True, slots=True)
class View:
    """Part of every item that the model gets."""

    name: str
    way: str = ""
    """How the rest is removed, ``blank`` or ``shuffled``; empty for ``full``."""
    draw: int = 0


@dataclass(frozen=True, slots=True)
class ModelQuery:
    """Question to the model about the item in ``row``."""

    view: View
    row: int
    image: int | None
    """Row of the item whose image is shown; None for no image."""
    text: int | None
    """Row of the item whose text is shown; None for no text."""


def views(*, has_text: bool, draws: int) -> list[View]:
    """List all views; without text beside the image, only the image can be removed."""
    names = list(REMOVED) if has_text else ["text"]
    blank = [View(name, "blank") for name in names]
    shuffled = [View(name, "shuffled", draw) for draw in range(draws) for name in names]
    return [View("full"), *blank, *shuffled]


def donors(
    contents: Sequence[str | None], ids: Sequence[str], modality: Modality, draw: int
) -> list[int]:
    """Choose for each item another item, of different content, that lends this modality.

    Donors depend on the ids and not on the order of the items. UserError if all contents are equal.
    """
    present = sorted((row for row, content in enumerate(contents) if content), key=lambda r: ids[r])
    if len({contents[row] for row in present}) < 2:
        raise UserError(
            f"Every {modality} of the chosen items is the same, so none can be swapped in: "
            "choose more items."
        )
    chosen_rows = []
    for row, content in enumerate(contents):
        rng = np.random.default_rng(seed_for("reliance", modality, draw, ids[row]))
        donor = present[rng.integers(len(present))]
        while contents[donor] == content:  # several items may share an image or a question
            donor = present[rng.integers(len(present))]
        chosen_rows.append(donor)
    return chosen_rows


def plan(docs: Sequence[Mapping[str, Any]], *, has_text: bool, draws: int) -> list[ModelQuery]:
    """List all queries about these rows, view by view."""
    ids = [doc["id"] for doc in docs]
    contents: dict[Modality, list[str | None]] = {
        modality: [(doc[modality] or "").strip() or None for doc in docs] for modality in MODALITIES
    }
    queries = []
    for view in views(has_text=has_text, draws=draws):
        sources: dict[Modality, list[int | None]] = {}
        for modality in MODALITIES:
            rows: Sequence[int] = range(len(docs))
            if modality in REMOVED.get(view.name, ()):
                if view.way == "blank":
                    sources[modality] = [None] * len(docs)
                    continue
                rows = donors(contents[modality], ids, modality, view.draw)
            # A modality that an item never had stays absent.
            pairs = zip(contents[modality], rows, strict=True)
            sources[modality] = [row if content else None for content, row in pairs]
        columns = zip(range(len(docs)), sources["image"], sources["text"], strict=True)
        queries += [ModelQuery(view, row, image, text) for row, image, text in columns]
    return queries


def ask(
    backbone: Backbone,
    task_name: str,
    corpus: Corpus,
    cache: AnswerCache,
    settings: ProfileSettings,
    on_progress: Callable[[int], None] = no_progress,
) -> "DataFrame":
    """Answer all queries about a task: one row per item and view, sorted by item within a view.

    Columns: view, way, draw, id, cluster, subset; ``top`` and ``bottom``, the item's part of the
    score as a ratio; ``answer`` as parsed, ``unparsed`` if nothing in it could be read; ``truth``,
    the correct one; ``habit``, the answer of the language prior where the task knows it; ``told``,
    on a single-label task the truth of the item that lent its text; ``gain``, in the full view the
    log-likelihood per token of the correct answer, in nats, minus that without the image.

    ``on_progress`` gets the number of queries that were just answered.

    Raises:
        UserError: no such split, or too few items to swap their modalities.
    """
    import pandas as pd

    task = build(tasks.Variant(task_name), corpus, settings.split, settings.limit)
    from steelyard.harness.evaluation.lmms_model import Scorer

    info = tasks.info(task_name)
    scorer = Scorer(backbone, backbone.recipe.batch_size)
    scorer.task_dict[task.task_name] = task.dataset
    model = _CachedModel(task, scorer, cache, info.generative, on_progress)
    docs: Sequence[Any] = task.dataset[settings.split]
    queries = plan(docs, has_text=bool(info.text), draws=settings.draws)
    answers = model.answers(queries)
    gains = _gains(model, queries, answers)
    metric, single_label = profile_metric(info), bool(corpus.classes) and not corpus.multi_label
    rows = []
    for query, answer in zip(queries, answers, strict=True):
        doc, view = docs[query.row], query.view
        values = task.process_results(doc, [answer])
        top, bottom = _score_parts(values, metric)
        prior = doc.get("facts", {}).get("prior", ())
        donor = query.text if single_label and query.text != query.row else None
        labels = sorted(doc.get("labels", ()))
        truth = " ".join(map(str, labels)) or _in_words(doc, tasks.target(task_name, doc))
        rows.append(
            {
                "view": view.name, "way": view.way, "draw": view.draw,
                "id": doc["id"], "cluster": values["item"]["cluster"],
                "subset": doc.get("subset", ""), "top": top, "bottom": bottom,
                "answer": _parsed(doc, answer, values), "truth": truth,
                "unparsed": any(values.get(name, (0,))[0] for name in UNPARSED),
                "habit": _in_words(doc, prior[0]) if prior else "",
                "told": "" if donor is None else str(docs[donor]["labels"][0]),
                "gain": gains[query.row] if view.name == "full" else np.nan,
            }
        )  # fmt: skip
    rows += _additive_rows(model, docs, rows)
    return pd.DataFrame(rows).sort_values(["view", "way", "draw", "id"], ignore_index=True)


def count_queries(task: str, corpus: Corpus, settings: ProfileSettings, kind: ModelKind) -> int:
    """Count the answers and likelihoods that ``ask`` needs, before equal ones are merged."""
    items = min(settings.limit or sys.maxsize, len(corpus.splits.get(settings.split, ())))
    count = len(views(has_text=bool(tasks.info(task).text), draws=settings.draws))
    # A vlm gives the correct answer's likelihood too, with the image and without.
    return items * (count + (2 if kind == "vlm" else 0))


def profile_metric(info: "tasks.TaskInfo") -> str:
    """Return the metric that a profile follows: accuracy if the task has it, else the main one.

    Accuracy is a fraction of items, and its chance level is known.
    """
    if not info.generative:
        return "samples F1" if info.multi_label else "accuracy"
    return next((name for name in ACCURACIES if name in info.metrics), info.main)


@dataclass(frozen=True, slots=True)
class _CachedModel:
    """Model behind an answer cache: equal queries are sent once, answered ones never."""

    task: "MemoryTask"
    scorer: "Scorer"
    cache: AnswerCache
    in_words: bool
    on_progress: Callable[[int], None]

    def answers(self, queries: Sequence[ModelQuery]) -> list[str]:
        """Return the model's answers: words, or a JSON list of class probabilities."""
        keys = [self._key("answer", query) for query in queries]
        respond = self.scorer.generate_until if self.in_words else self.scorer.score_choices

        def answer(chunk: Sequence[ModelQuery]) -> list[Any]:
            responses = respond([self._request(query) for query in chunk])
            return [r if isinstance(r, str) else r.text for r in responses]

        return self._through_cache(keys, queries, answer)

    def likelihoods(self, queries: Sequence[ModelQuery], targets: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each target, averaged over its tokens, end included."""
        import torch

        backbone: Any = self.scorer.backbone
        pairs = list(zip(queries, targets, strict=True))
        keys = [self._key("likelihood", query, target) for query, target in pairs]

        def score(chunk: Sequence[tuple[ModelQuery, str]]) -> list[float]:
            inputs = [self.inputs(query) for query, _ in chunk]
            batch = backbone.collate(inputs, [target for _, target in chunk])
            values: list[float] = (-backbone.loss(backbone.predict(batch), batch)).tolist()
            return values

        with torch.no_grad(), evaluation_mode(backbone):
            return self._through_cache(keys, pairs, score)

    def inputs(self, query: ModelQuery) -> Inputs:
        images = self._images(query)
        text, prompt = self._text(query)
        return Inputs(images[0] if images else None, text, prompt)

    def _through_cache(
        self,
        keys: Sequence[str],
        queries: Sequence[Any],
        respond: Callable[[Sequence[Any]], list[Any]],
    ) -> list[Any]:
        pairs = zip(keys, queries, strict=True)
        # Equal queries share a key: the model gets one of them.
        waiting = {key: query for key, query in pairs if key not in self.cache}
        self.on_progress(len(keys) - len(waiting))
        for start in range(0, len(waiting), self.scorer.batch_size):
            chunk = list(waiting)[start : start + self.scorer.batch_size]
            responses = respond([waiting[key] for key in chunk])
            self.cache.add(dict(zip(chunk, responses, strict=True)))
            self.on_progress(len(chunk))
        return [self.cache[key] for key in keys]

    def _text(self, query: ModelQuery) -> tuple[str | None, str]:
        docs = self.task.docs
        text = None if query.text is None else docs[query.text]["text"]
        return text, self.task.doc_to_text({**docs[query.row], "text": text})

    def _images(self, query: ModelQuery) -> list[Any]:
        if query.image is None:
            return []
        images: list[Any] = self.task.doc_to_visual(self.task.docs[query.image])
        return images

    def _key(self, kind: str, query: ModelQuery, target: str = "") -> str:
        image = None if query.image is None else self.task.docs[query.image]["image"]
        # The image's name is enough: the cache's path has the revision of the data.
        return AnswerCache.key(kind, image, *self._text(query), target)

    def _request(self, query: ModelQuery) -> "Instance":
        """Build lmms-eval's request for the item, with text and image of the query's rows."""
        text, prompt = self._text(query)
        request = self.task.construct_requests(
            query.row,
            prompt,
            metadata={"task": self.task.task_name, "doc_id": query.row, "repeats": 1},
        )
        # The request has the item's own text and image; the query may show others.
        _, settings, _, *position = request.arguments
        if not self.in_words:
            settings = {**settings, "text": text}
        images = self._images(query)
        return replace(request, arguments=(prompt, settings, lambda doc: images, *position))


def _gains(
    model: _CachedModel, queries: Sequence[ModelQuery], answers: Sequence[str]
) -> list[float]:
    """Return the image's information gain per item; NaN if the model gives no probabilities."""
    docs = model.task.docs
    full = [query for query in queries if query.view.name == "full"]
    text_only = [query for query in queries if query.view == View("text", "blank")]
    if model.scorer.backbone.kind == "vlm":
        targets = [model.task.doc_to_target(docs[query.row]) for query in full]
        with_image, without_image = (model.likelihoods(qs, targets) for qs in (full, text_only))
    elif not model.in_words:
        answer_to = {(q.view, q.row): answer for q, answer in zip(queries, answers, strict=True)}
        with_image, without_image = (
            [_log_probability(docs[q.row], answer_to[q.view, q.row]) for q in qs]
            for qs in (full, text_only)
        )
    else:
        return [np.nan] * len(docs)
    return [a - b for a, b in zip(with_image, without_image, strict=True)]


def _log_probability(doc: Mapping[str, Any], answer: str) -> float:
    # Of the correct class; if multi-label, the mean over the decisions for all classes.
    probabilities = np.clip(json.loads(answer), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    # Softmax probabilities add up to 1, those of a multi-label model need not.
    if len(doc["labels"]) == 1 and abs(sum(probabilities) - 1) < 1e-3:
        return float(np.log(probabilities[doc["labels"][0]]))
    positive = np.isin(np.arange(len(probabilities)), doc["labels"])
    return float(np.log(np.where(positive, probabilities, 1 - probabilities)).mean())


def _additive_rows(
    model: _CachedModel, docs: Sequence[Any], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return rows of the view ``additive``: a classifier without interaction of its modalities."""
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.reliance.additive import additive_probabilities

    backbone = model.scorer.backbone
    if not isinstance(backbone, Classifier) or backbone.readout != "fused":
        return []
    # By id, so that the sample does not depend on the order of the items.
    sample = sorted(range(len(docs)), key=lambda r: seed_for("emap", docs[r]["id"]))[:EMAP_ITEMS]
    queries = [ModelQuery(View("full"), r, r, r if docs[r]["text"] else None) for r in sample]
    probabilities = additive_probabilities(backbone, [model.inputs(query) for query in queries])
    full = {row["id"]: row for row in rows if row["view"] == "full"}
    additive = []
    for r, values in zip(sample, probabilities.tolist(), strict=True):
        results = model.task.process_results(docs[r], [json.dumps(values)])
        top, bottom = _score_parts(results, "")
        answer = _parsed(docs[r], "", results)
        changed = {"top": top, "bottom": bottom, "answer": answer, "gain": np.nan}
        additive.append({**full[docs[r]["id"]], "view": "additive", **changed})
    return additive


def _score_parts(values: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """Return an item's part of the metric as a ratio; for a group metric, being correct."""
    if "score" in values["item"]:
        return float(values["item"]["score"]), 1.0
    first, second = values.get(metric, (0.0, 0.0))  # an item may have no part in the metric
    # A group metric's part is the group's name and whether this answer is correct.
    if isinstance(first, str):
        return float(second), 1.0
    return float(first), float(second)


def _parsed(doc: Mapping[str, Any], answer: str, values: Mapping[str, Any]) -> str:
    if "predicted" in values["item"]:
        return " ".join(map(str, values["item"]["predicted"]))
    return _in_words(doc, answer)


def _in_words(doc: Mapping[str, Any], answer: str) -> str:
    return wording.choice(answer, doc["choices"]) or wording.normalise(answer)
