"""Import torchvision and lmms-eval without their faults and side effects."""

import functools
import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

_libraries: list[Any] = []
"""Operator declarations, which torch drops when nothing refers to them."""


@functools.cache
def prepare_imports() -> None:
    """Make torchvision importable; call before the first import of transformers or lmms-eval."""
    with suppress(PackageNotFoundError):
        if needs_operators(version("torch"), version("torchvision")):
            _declare_operators()


def needs_operators(torch: str, torchvision: str) -> bool:
    """Test by their versions whether torchvision was built for another torch."""
    return "+cpu" in torch and "+cpu" not in torchvision


def _declare_operators() -> None:
    # A CUDA build of torchvision cannot load its compiled operators with a CPU-only torch, and its
    # import then fails on ``nms``. The image transforms need no operator.
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)


@functools.cache
def import_lmms_eval() -> ModuleType:
    """Import ``lmms_eval.evaluator`` without its log and its changes to the process."""
    prepare_imports()
    from loguru import logger

    logger.disable("lmms_eval")
    with _process_restored(), _log_sinks_kept():
        return importlib.import_module("lmms_eval.evaluator")


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _process_restored() -> Iterator[None]:
    # The import mutes all warnings, reads ``.env`` and accepts truncated images.
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
        pass

    with swapped(type(logger), "remove", nothing), swapped(type(logger), "add", nothing):
        yield
