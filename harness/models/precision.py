"""Precision of a backbone's passes, set where no method, trainer or scorer can miss it."""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn


def autocast_calls(modules: Iterable[nn.Module]) -> None:
    """Run every call of these modules, and of deep copies of them, under bfloat16 autocast.

    Hooks and not a context around a run: the context would hold casts of weights that the optimiser
    has changed since, and backward passes belong outside. Call it before a meter watches, which
    has to measure under the same precision.
    """
    contexts: list[ExitStack] = []  # of calls in progress, the innermost last

    def enter(module: nn.Module, args: Any) -> None:
        contexts.append(ExitStack())
        device = next(module.parameters()).device.type
        contexts[-1].enter_context(torch.autocast(device, torch.bfloat16))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        contexts.pop().close()

    for module in modules:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, always_call=True)
