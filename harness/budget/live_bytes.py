"""Memory of a stretch of training by parts, counted tensor by tensor.

with LiveBytes(model) as memory:
    method.train(model, data, meter, config, seed)
memory.peak                                # {"weights": ..., "activations": ...} in bytes

An allocator's rounding and the libraries of a GPU come on top.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from steelyard.harness.budget.flops import tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS, COPIES, GRADIENTS, OPTIMISER, ACTIVATIONS, HOST = (
    "weights", "copies of weights", "gradients", "optimiser", "activations", "host")  # fmt: skip


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that operations inside have made and not freed yet.

    A storage that was there before counts only as a weight of the model. What an optimiser's step
    makes is the optimiser's, a copy of a weight is a copy, and the rest are activations.

    With ``adopt`` a storage from before counts as soon as an operation reads it, so that some steps
    of a run show what it holds. Parts are not told apart then, which takes hooks on its parameters.
    """

    def __init__(self, model: "nn.Module", *, adopt: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._adopts = adopt
        self._parts: dict[int, str] = {}
        """Part of every live storage, by address."""
        self._now: dict[str, int] = defaultdict(int)
        self.most = 0
        self.peak: dict[str, int] = {}
        """Bytes of each part at the moment of most."""
        self.most_of: dict[str, int] = defaultdict(int)
        """Most bytes of each part, at moments of their own."""
        self._new = ACTIVATIONS
        self._paused = False
        self._handles: list[Any] = []
        self._parameters = list(model.parameters())
        for weight in (*self._parameters, *model.buffers()):
            self._add(weight, WEIGHTS)

    def __enter__(self) -> "LiveBytes":
        def stepping(part: str) -> Any:
            return lambda *call: setattr(self, "_new", part)

        self._handles = (
            []
            if self._adopts
            else [
                register_optimizer_step_pre_hook(stepping(OPTIMISER)),
                register_optimizer_step_post_hook(stepping(ACTIVATIONS)),
                *(
                    parameter.register_post_accumulate_grad_hook(self._label_gradient)  # type: ignore[no-untyped-call]
                    for parameter in self._parameters
                    if parameter.requires_grad
                ),
            ]
        )
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._paused:
            return result
        part = self._new
        if func.overloadpacket.__name__ == "clone" and self._part(args[0]) == WEIGHTS:
            part = COPIES
        for tensor in tensors((args, kwargs, result) if self._adopts else result):
            self._add(tensor, part)
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is made inside: it is not the run's."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def on_host(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that reads batches which do not count: beside a GPU the host has them.

        Their copies on the GPU are not counted either.
        """

        def wrapped(*args: Any) -> Any:
            before, self._new = self._new, HOST
            try:
                return read(*args).map(self._hosted)
            finally:
                self._new = before

        return wrapped

    def _hosted(self, tensor: "Tensor") -> "Tensor":
        self._add(tensor, HOST)  # also of a batch that is read outside
        return tensor

    def _part(self, tensor: "Tensor") -> str | None:
        return self._parts.get(tensor.untyped_storage()._cdata)

    def _add(self, tensor: "Tensor", part: str) -> None:
        if tensor.layout != torch.strided:  # it has no storage
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._parts:  # a view, or a result in place
            return
        self._parts[key] = part
        self._change(part, storage.nbytes())
        weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._change(self._parts.pop(key), -size)

    def _label_gradient(self, parameter: "Tensor") -> None:
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        part = self._parts.get(storage._cdata)
        if part == ACTIVATIONS:
            self._parts[storage._cdata] = GRADIENTS
            self._now[part] -= storage.nbytes()
            self._now[GRADIENTS] += storage.nbytes()

    def _change(self, part: str, size: int) -> None:
        if part == HOST:
            return
        self._now[part] += size
        self.most_of[part] = max(self.most_of[part], self._now[part])
        total = sum(self._now.values())
        if total > self.most:
            self.most, self.peak = total, {name: n for name, n in self._now.items() if n}
