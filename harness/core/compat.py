"""Bridge versions of libraries, and import them without their faults and side effects."""

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

DECODER_SETTINGS = ("use_cache",)
"""Arguments that a vision tower ignores, but older releases of transformers hand to it."""
_libraries: list[Any] = []
"""Operator declarations, which torch drops when nothing refers to them."""


@functools.cache
def prepare_imports() -> None:
    """Make torchvision importable; call before the first import of transformers or lmms-eval."""
    with suppress(PackageNotFoundError):
        if not needs_operators(version("torch"), version("torchvision")):
            return
        # A CUDA build of torchvision cannot load its compiled operators with a CPU-only torch, and
        # its import then fails on ``nms``. The image transforms need no operator.
        import torch

        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _libraries.append(library)


def enable_checkpointing(model: Any) -> None:
    """Make layers of a transformers model compute their activations again in the backward pass."""
    # Reentrant checkpoints refuse ``autograd.grad``, by which the meter measures a call.
    options = {"use_reentrant": False}
    if enable := getattr(model, "activation_checkpointing_enable", None):
        enable(options)
        return
    # Transformers before 5.20 computes a layer's hooks again, which are the meter's.
    model.gradient_checkpointing_enable(options)
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer._gradient_checkpointing_func = _call
            _checkpoint_forward(type(layer))


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def _checkpoint_forward(kind: Any) -> None:
    """Let a class of layers compute its ``forward`` again, without the hooks around it."""
    from torch import is_grad_enabled
    from torch.utils.checkpoint import checkpoint

    forward = kind.forward
    if hasattr(forward, "is_checkpointed"):
        return

    @functools.wraps(forward)
    def checkpointed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (self.gradient_checkpointing and self.training and is_grad_enabled()):
            return forward(self, *args, **kwargs)
        call = functools.partial(forward, self, **kwargs)
        return checkpoint(call, *args, use_reentrant=False)

    vars(checkpointed)["is_checkpointed"] = True
    kind.forward = checkpointed


def needs_operators(torch: str, torchvision: str) -> bool:
    """Test by their versions whether torchvision was built for another torch."""
    return "+cpu" in torch and "+cpu" not in torchvision


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@functools.cache
def import_lmms_eval() -> ModuleType:
    """Import ``lmms_eval.evaluator`` without its log and its changes to the process."""
    prepare_imports()
    from loguru import logger
    from PIL import ImageFile

    logger.disable("lmms_eval")
    environment = dict(os.environ)
    # The import mutes all warnings, accepts truncated images, replaces every log sink by one on
    # standard output, and reads ``.env``.
    with (
        warnings.catch_warnings(action="ignore"),
        swapped(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES),
        swapped(type(logger), "remove", _do_nothing),
        swapped(type(logger), "add", _do_nothing),
    ):
        try:
            return importlib.import_module("lmms_eval.evaluator")
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass
