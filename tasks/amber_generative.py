"""AMBER's generative half: objects in a description that are not in the image."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steelyard.harness.core.examples import Corpus
from steelyard.tasks._shared import amber_files, official


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read the generative queries of AMBER's folder with its annotations."""
    return amber_files.load("amber_generative", root, ("generative",), max_bad)


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, image, truth, hallu: the columns lmms-eval's amber_g reads).

    It lacks the words of relation.json and safe_words.txt; both are in the ``data`` of AMBER's
    repository.
    """
    queries, annotations = [], []
    for row in rows:
        id_ = official.column(row, "question_id")
        name = f"AMBER_{id_}.jpg"
        official.write_image(official.column(row, "image"), folder / "image", name)
        queries.append({"id": id_, "image": name, "query": amber_files.DESCRIBE})
        objects = {key: list(official.column(row, key)) for key in ("truth", "hallu")}
        annotations.append({"id": id_, "type": amber_files.CAPTIONS, **objects})
    official.write_json(folder / "data" / "query" / "query_generative.json", queries)
    official.write_json(folder / "data" / "annotations.json", annotations)
