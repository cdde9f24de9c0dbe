"""What heavy libraries need done around them: a missing pair of operators, and no side effects."""

import functools
import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

_libraries: list[Any] = []
"""Operator declarations, which vanish when nothing refers to them."""


@functools.cache
def prepare_imports() -> None:
    """Call before the first import of transformers or lmms-eval; light where nothing is amiss."""
    try:
        torchvision = version("torchvision")
    except PackageNotFoundError:
        return
    if needs_operators(version("torch"), torchvision):
        _declare_operators()


def needs_operators(torch: str, torchvision: str) -> bool:
    """Whether torchvision was built for another torch: then its import fails on ``nms``."""
    return "+cpu" in torch and "+cpu" not in torchvision


def _declare_operators() -> None:
    # A CUDA build of torchvision cannot load its compiled operators beside a CPU-only torch, and
    # its Python part then refuses to import. The image transforms need none of them.
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)


@functools.cache
def import_lmms_eval() -> ModuleType:
    """``lmms_eval.evaluator``, imported so that the process stays as it was, and kept quiet."""
    prepare_imports()
    from loguru import logger

    logger.disable("lmms_eval")
    with _process_restored(), _log_sinks_kept():
        return importlib.import_module("lmms_eval.evaluator")


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _process_restored() -> Iterator[None]:
    """Undo what the import does: mutes all warnings, reads ``.env``, accepts truncated images."""
    from PIL import ImageFile

    environment, truncated = dict(os.environ), ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def _log_sinks_kept() -> Iterator[None]:
    # lmms-eval replaces every log sink of the process by one on standard output.
    from loguru import logger

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    with swapped(type(logger), "remove", nothing), swapped(type(logger), "add", nothing):
        yield
