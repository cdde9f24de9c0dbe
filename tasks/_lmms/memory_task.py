"""What our lmms-eval tasks share: rows in memory, and one variant's damage to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config
from PIL.Image import Image

from steelyard import tasks
from steelyard.harness.core.errors import unknown
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.tasks._shared.images import store_of
from steelyard.tasks.corruptions import apply, missing
from steelyard.tasks.metrics import POOLS, Doc, Question

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
    examples = apply.some(everyone, limit, whole=_has_groups(config))
    images = store_of(corpus.root, split)

    def image(example: Example) -> Inputs:
        return Inputs(images.get(example.image)[0] if example.image else None, None)

    def text(example: Example) -> Inputs:
        return Inputs(None, example.text)

    lost = missing.of(variant, split, everyone)
    see = apply.shown(variant, "image", everyone, lost, image)
    tell = apply.shown(variant, "text", everyone, lost, text)
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


def _content(
    task: str, corpus: Corpus, split: str, examples: Sequence[Example], tell: apply.Read
) -> Content:
    docs = Docs(tasks.row(corpus, split, example, tell(example).text) for example in examples)
    choices = tasks.module(task).choices(corpus.classes) if corpus.classes else []
    return Content(docs, choices, corpus.multi_label)


def _stock_content(config: Mapping[str, Any]) -> Content:
    name, split = config["task"].removeprefix(tasks.PREFIX), config["test_split"]
    root = config["dataset_kwargs"]["root"]
    corpus = tasks.load(name, tasks.find_root(name, Path(root) if root else None))
    examples = corpus.splits[split]
    return _content(name, corpus, split, examples, lambda example: Inputs(None, example.text))
