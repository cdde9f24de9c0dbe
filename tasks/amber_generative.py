"""AMBER's generative half: which objects of a description are not in the picture."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steelyard.harness.data import Corpus
from steelyard.tasks import _amber, _official
from steelyard.tasks._amber import doc_to_target, doc_to_text, process_results

__all__ = ["doc_to_target", "doc_to_text", "load", "process_results", "write_official"]


def load(root: Path, *, max_bad: float = 0.01) -> Corpus:
    """Read the generative queries of AMBER's folder with its annotations.

    Raises:
        UserError: as ``_amber.load``.
    """
    return _amber.load("amber_generative", root, ("generative",), max_bad)


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a hub copy (question_id, image, truth, hallu: what lmms-eval's amber_g reads of it).

    The words of relation.json and safe_words.txt are not in its rows; both are in the ``data`` of
    AMBER's own repository.
    """
    queries, annotations = [], []
    for row in rows:
        id_ = _official.column(row, "question_id")
        name = f"AMBER_{id_}.jpg"
        _official.write_image(_official.column(row, "image"), folder / "image", name)
        queries.append({"id": id_, "image": name, "query": _amber.DESCRIBE})
        objects = {key: list(_official.column(row, key)) for key in ("truth", "hallu")}
        annotations.append({"id": id_, "type": _amber.CAPTIONS, **objects})
    _official.write_json(folder / "data" / "query" / "query_generative.json", queries)
    _official.write_json(folder / "data" / "annotations.json", annotations)
