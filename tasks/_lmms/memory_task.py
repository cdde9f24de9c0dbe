"""Our tasks as lmms-eval tasks: documents in memory, shown as one variant corrupts them.

Stock lmms-eval builds ``MemoryTask(config)`` from a task's YAML; ``tasks.build`` calls ``build``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config
from PIL.Image import Image

from steelyard import tasks
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.harness.data.images import store_of
from steelyard.tasks.corruptions import apply
from steelyard.tasks.metrics import Pool, TaskDoc


class Docs(list[TaskDoc]):
    """Documents of one split, with the column names that lmms-eval reads from a data set."""

    @property
    def features(self) -> dict[str, None]:
        # Documents of a task have equal keys.
        return dict.fromkeys(self[0])


class MemoryTask(ConfigurableTask):  # type: ignore[misc]  # lmms-eval is untyped
    """lmms-eval task over documents in memory, answered by class probabilities or in words.

    Without ``docs``, as in stock lmms-eval, the data is read from ``dataset_kwargs.root``, or from
    where ``tasks.find_root`` says.
    """

    def __init__(self, config: Mapping[str, Any], docs: Docs | None = None) -> None:
        name = config["task"].removeprefix(tasks.PREFIX).partition("@")[0]
        if docs is None:
            root, split = config["dataset_kwargs"]["root"], config["test_split"]
            corpus = tasks.load(name, tasks.find_root(name, Path(root) if root else None))
            items = corpus.splits[split]
            docs = Docs(tasks.document(corpus, split, item, item.text) for item in items)
        self.docs = docs
        doc: Any = self.docs[0]
        # Only documents of classification tasks have classes.
        self.choices = tasks.module(name).choices(doc["classes"]) if "classes" in doc else []
        # lmms-eval's configuration has no key for the class itself.
        super().__init__(config={key: config[key] for key in config if key != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Take the documents from memory; lmms-eval would fetch a data set, trying five times."""
        self.dataset = self.dataset_no_image = {self.config.test_split: self.docs}

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Instance:
        """Ask for a JSON list of all class probabilities, or for a greedy answer in words."""
        doc = self.docs[doc_id]
        kind, options = "generate_until", dict(self.config.generation_kwargs or {})
        if self.choices:
            kind, options = "score_choices", {"id": doc["id"], "text": doc["text"]}
            multi_label = self.config.metadata["multi_label"]
            options |= {"choices": self.choices, "multi_label": multi_label}
        # lmms-eval's order of arguments, which every model unpacks by position.
        where = (doc_id, self.config.task, self.config.test_split)
        arguments = (ctx, options, self.doc_to_visual, *where)
        return Instance(request_type=kind, arguments=arguments, idx=0, **kwargs)

    def process_results(self, doc: TaskDoc, results: Sequence[str]) -> dict[str, Any]:
        """Score one answer. lmms-eval's own method would retry a failure for ten seconds."""
        scores: dict[str, Any] = self.config.process_results(doc, results)
        return scores


def build(variant: "tasks.Variant", corpus: Corpus, split: str, limit: int | None) -> MemoryTask:
    """Build a variant of one of our tasks, see ``tasks.build``."""
    config = load_yaml_config(str(tasks.definition(variant.task)), mode="full")
    # A limit takes some items, but donors come from all of them.
    everyone = corpus.splits[split]
    # A pooled metric needs complete groups.
    has_groups = any(isinstance(row["aggregation"], Pool) for row in config["metric_list"])
    examples = apply.limited(everyone, limit, by_cluster=has_groups)
    images = store_of(corpus.root, split)

    def image_of(example: Example) -> Inputs:
        return Inputs(images.get(example.image)[0] if example.image else None, None)

    read_image = apply.corrupted_reader(variant, "image", split, everyone, image_of)
    read_text = apply.corrupted_reader(
        variant, "text", split, everyone, lambda example: Inputs(None, example.text)
    )
    by_id = {example.id: example for example in examples}

    def visual(doc: TaskDoc) -> list[Image]:
        image = read_image(by_id[doc["id"]]).image
        return [] if image is None else [image]

    # Images are decoded and corrupted when a request is answered, one batch at a time.
    changes = {"task": str(variant), "test_split": split, "num_fewshot": 0, "doc_to_visual": visual}
    # Texts are small, so they are corrupted at once.
    docs = Docs(tasks.document(corpus, split, item, read_text(item).text) for item in examples)
    return MemoryTask({**config, **changes}, docs)
