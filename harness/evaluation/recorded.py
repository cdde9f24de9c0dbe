"""Items of a variant for models elsewhere, and their answers in place of a model's.

export_items(tasks.parse_variant("pope@image-blank"), corpus, "test", None, Path("items"))
model = RecordedAnswers.read(Path("answers.jsonl"), variant, corpus, "test", None)
evaluate(model, variant, corpus)
"""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Inputs, ModelKind
from steelyard.harness.core.files import digest, explain_write_errors, write_atomic
from steelyard.harness.data.tables import file_rows
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models.backbone import Backbone, Recipe

if TYPE_CHECKING:
    from torch import Tensor

ITEMS = "items.jsonl"
COLUMNS = ("id", "hash", "answer")


def item_hash(inputs: Inputs, choices: Sequence[str]) -> str:
    """Hash what an item asks: prompt, choices and the pixels of its images, corrupted or not."""
    parts = [inputs.prompt.encode(), *(choice.encode() for choice in choices)]
    parts += [part for i in inputs.images for part in (str(i.size).encode(), i.tobytes())]
    return digest(parts)


def item_ids(
    variant: tasks.Variant, corpus: Corpus, split: str, limit: int | None
) -> tuple[str, ...]:
    """Return the ids of a variant's items in the order in which they are asked."""
    task: Any = tasks.build(variant, corpus, split, limit)
    if tasks.is_stock(variant.task):
        return tuple(item.id for item in task.items)
    return tuple(str(doc["id"]) for doc in task.docs)


class Substitute(ABC):
    """Stands in for a backbone in ``evaluate``, which asks items in the order of ``ids``."""

    kind: ModelKind = "vlm"
    classes: tuple[str, ...] = ()
    multi_label = False
    recipe = Recipe()

    def __init__(self, name: str, ids: Sequence[str]) -> None:
        self.name = name
        self._ids = iter(ids)

    @abstractmethod
    def reply(self, item: str, inputs: Inputs, choices: Sequence[str]) -> str:
        """Answer one item, given by its id."""

    def generate(
        self, inputs: Sequence[Inputs], max_tokens: int, pixels: "Tensor | None" = None
    ) -> list[str]:
        return [self.reply(next(self._ids), item, ()) for item in inputs]

    def answer(
        self, inputs: Sequence[Inputs], choices: Sequence[str], pixels: "Tensor | None" = None
    ) -> "Tensor":
        """Return 1 for the choice that an answer is, [B, C]."""
        import torch

        answers = [self.reply(next(self._ids), item, choices) for item in inputs]
        return torch.tensor([[float(a == choice) for choice in choices] for a in answers])

    def image_capacity(self, images: int) -> int:
        return images

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class _Export(Substitute):
    def __init__(self, ids: Sequence[str], folder: Path) -> None:
        super().__init__("export", ids)
        self.folder, self.rows = folder, list[dict[str, Any]]()

    def reply(self, item: str, inputs: Inputs, choices: Sequence[str]) -> str:
        names: list[str] = []
        for image in inputs.images:
            names.append(f"images/{len(self.rows):06d}-{len(names)}.png")
            with explain_write_errors(self.folder / names[-1]):
                image.save(self.folder / names[-1])
        row = {"id": item, "hash": item_hash(inputs, choices), "prompt": inputs.prompt}
        self.rows.append(row | {"images": names, **({"choices": list(choices)} if choices else {})})
        return choices[0] if choices else ""


def export_items(
    variant: tasks.Variant, corpus: Corpus, split: str, limit: int | None, folder: Path
) -> int:
    """Write a variant's items as ``items.jsonl`` and images below a folder; return their number."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    export = _Export(item_ids(variant, corpus, split, limit), folder)
    evaluate(cast(Backbone, export), variant, corpus, split=split, limit=limit)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in export.rows)
    write_atomic(folder / ITEMS, "".join(lines))
    return len(export.rows)


class RecordedAnswers(Substitute):
    """Answers of a file, checked against what ``evaluate`` asks."""

    def __init__(
        self, name: str, ids: Sequence[str], rows: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__(name, ids)
        self.rows = rows

    @classmethod
    def read(
        cls, path: Path, variant: tasks.Variant, corpus: Corpus, split: str, limit: int | None
    ) -> "RecordedAnswers":
        """Read a file of ``COLUMNS``; UserError unless it has each item's answer once."""
        rows = []
        for where, row in file_rows(path):
            rows.append(row)
            if absent := [name for name in COLUMNS if not isinstance(row.get(name), str)]:
                raise UserError(
                    f"{where}: no text as '{absent[0]}': a row has "
                    f"{', '.join(COLUMNS)}; 'steelyard items {variant}' writes ids and hashes."
                )
        ids = item_ids(variant, corpus, split, limit)
        counts = Counter(row["id"] for row in rows)
        faults = {
            "are missing": [item for item in ids if item not in counts],
            "are not of this set": sorted(counts.keys() - set(ids)),
            "occur more than once": [item for item, count in counts.items() if count > 1],
        }
        lines = [
            f"{len(items)} {fault} ({', '.join(items[:3])}{' ...' if len(items) > 3 else ''})"
            for fault, items in faults.items()
            if items
        ]
        if lines:
            raise UserError(
                f"{path}: of {len(ids)} items of {variant}, {'; '.join(lines)}: answer each "
                f"item of 'steelyard items {variant}' once."
            )
        return cls(path.name, ids, {row["id"]: row for row in rows})

    def reply(self, item: str, inputs: Inputs, choices: Sequence[str]) -> str:
        row = self.rows[item]
        if (expected := item_hash(inputs, choices)) != row["hash"]:
            raise UserError(
                f"{self.name}: item {item} was asked something else: its hash is {row['hash']}, "
                f"and here {expected}. Export the items again, and answer those."
            )
        answer = str(row["answer"]).strip()
        if choices and answer not in choices:
            raise UserError(
                f"{self.name}: the answer '{answer[:40]}' to item {item} is none of its "
                f"{len(choices)} choices, such as {choices[0]}."
            )
        return answer
