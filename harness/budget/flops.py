"""FLOPs of one call of a module: measured by torch's counter, or predicted from other sizes."""

import copy
import math
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from steelyard.harness.core.files import digest

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = 2e-3  # relative misfit above which calls of a kind are measured one size at a time
REACH = 16.0  # squared distance from the mean a line is trusted to, in sums of squares
NEEDS_GRADIENT = operator.attrgetter("requires_grad")
PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class CallCost:
    """Floating-point operations of one call."""

    forward: float
    backward: float
    """Of the pass back through this call to everything in and before it that needs a gradient."""
    to_weights: float
    """Of a pass back that ends in this call, at its parameters."""
    to_inputs: float
    """Of a pass back through this call that needs no gradient of its parameters."""

    def without(self, parts: "Sequence[CallCost]") -> "CallCost":
        """Return the cost of the rest of this call, before these parts at its end."""
        passed = sum(part.backward for part in parts)
        return CallCost(
            self.forward,
            self.backward - passed,
            self.to_weights - passed,
            self.to_inputs - sum(part.to_inputs for part in parts),
        )


@dataclass(frozen=True, slots=True)
class CallSize:
    """Size of one call, and everything else that decides its cost."""

    positions: int
    """Positions worked on: rows times new tokens, or patches of all images."""
    attended: float
    """Positions that each of them attends to, itself included; the mean if images differ."""
    pattern: tuple[Any, ...]
    """Type and shape of every tensor, without the dimensions that express the size."""


class FlopCache:
    """Costs of calls of any number of modules; each kind of call is measured a few times.

    Layers that work on every position alike cost a multiple of the positions, and attention a
    multiple of positions times attended ones, so the cost per position is a line:

        cost / positions
            |                       o  measured once more: beyond REACH of the measured sizes
            |            . x
            |      x  .             x  measured: three sizes give slope, height and a check
            |   .                   .  predicted
            | x
            +---------------------- attended positions

    A kind of call that does not fit the line is measured at each new size.
    """

    def __init__(self) -> None:
        self.calibration = 0.0
        """FLOPs of the measuring passes."""
        self._lines: dict[tuple[Any, ...], _CostLine] = {}
        # The reference to the module lets no other module get its id.
        self._parts: dict[int, _ModuleParts] = {}
        self._saved: dict[str, Any] = {}

    def of(self, module: "nn.Module", args: Any, kwargs: Any, name: int = 0) -> CallCost:
        """Return the cost of this call in the module's present state, gradient mode, precision.

        A module and its copies have one ``name``; their calls cost the same if shapes are equal.
        """
        size = _call_size(tensors((args, kwargs)), kwargs)
        kind = (name, *self._state(module), *size.pattern)
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = _CostLine(*self._saved.get(repr(kind), ((), ())))
        key = (size.positions, size.attended)
        cost = line.costs.get(key) or line.predict(size)
        if cost is None:
            with total_counter() as counter:
                cost = measure(module, args, kwargs)
            self.calibration += counter.get_total_flops()
            line.add((size.attended, *(c / size.positions for c in astuple(cost))))
        line.costs[key] = cost
        return cost

    def state_dict(self) -> dict[str, Any]:
        """Return all prices by kind of call: what is measured depends on the sizes before it."""
        kinds = {
            repr(kind): (line.points, [(key, astuple(cost)) for key, cost in line.costs.items()])
            for kind, line in self._lines.items()
        }
        return {"calibration": self.calibration, "kinds": {**self._saved, **kinds}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with these prices."""
        self.calibration, self._saved, self._lines = state["calibration"], state["kinds"], {}

    def _state(self, module: "nn.Module") -> tuple[Any, ...]:
        import torch

        parts = self._parts.get(id(module))
        if parts is None:  # walking a module is slow
            inner = tuple(m for m in module.modules() if "gradient_checkpointing" in vars(m))
            parameters = tuple(module.parameters())
            shapes = digest([repr([tuple(p.shape) for p in parameters]).encode()])
            parts = self._parts[id(module)] = _ModuleParts(module, parameters, inner, shapes)
        return (
            parts.shapes,
            module.training,
            torch.is_grad_enabled(),
            tuple(map(NEEDS_GRADIENT, parts.parameters)),
            # Layers that can drop their activations and compute them again.
            tuple([m.training and vars(m)["gradient_checkpointing"] for m in parts.checkpointed]),
        )


class _ModuleParts(NamedTuple):
    """What decides the price of a module's calls."""

    module: "nn.Module"
    parameters: "tuple[Tensor, ...]"
    checkpointed: "tuple[nn.Module, ...]"
    shapes: str
    """Checksum of the shapes of its parameters."""


class _CostLine:
    """Cost per position as a straight line over attended positions, by least squares."""

    def __init__(self, points: Iterable[Sequence[float]], costs: Iterable[Any]) -> None:
        """Begin with the ``points`` and ``costs`` of a checkpoint."""
        self.points: list[Sequence[float]] = []
        """Attended positions, and each cost per position."""
        self.costs = {tuple(key): CallCost(*cost) for key, cost in costs}
        """Costs by positions and attended positions, measured or predicted."""
        self._lines: list[tuple[float, float]] = []
        """Height at the mean and slope of each cost."""
        self._straight = True
        self._mean = self._spread = 0.0
        for point in points:
            self.add(point)

    def add(self, point: Sequence[float]) -> None:
        self.points.append(point)
        xs, *costs = zip(*self.points, strict=True)
        self._mean = sum(xs) / len(xs)
        self._spread = sum((x - self._mean) ** 2 for x in xs)
        self._lines = []
        for ys in costs:
            products = sum((x - self._mean) * y for x, y in zip(xs, ys, strict=True))
            line = sum(ys) / len(ys), products / self._spread if self._spread else 0.0
            self._lines.append(line)
            self._straight = self._straight and all(
                abs(self._at(line, x) - y) <= TOLERANCE * y for x, y in zip(xs, ys, strict=True)
            )

    def predict(self, size: CallSize) -> CallCost | None:
        """Return the cost of a call of this size, or None if it has to be measured."""
        required = 3 if self._spread else 2
        distance = (size.attended - self._mean) ** 2
        if len(self.points) < required or not self._straight or distance > REACH * self._spread:
            return None
        costs = (size.positions * self._at(line, size.attended) for line in self._lines)
        # Operations are whole numbers, and rounding gives exactly the measured one.
        return CallCost(*(float(round(cost)) for cost in costs))

    def _at(self, line: tuple[float, float], attended: float) -> float:
        return line[0] + line[1] * (attended - self._mean)


def measure(module: "nn.Module", args: Any, kwargs: Any) -> CallCost:
    """Count FLOPs of one forward and each backward of this call, without effect on the module.

    The pass is run on detached copies of the inputs (a key-value cache is copied too) with the
    random state and the buffers (batch-norm statistics) restored afterwards, and gradients are
    taken without touching ``.grad``. It is the harness's own overhead and is not charged.
    """
    import torch
    from torch.autograd.graph import saved_tensors_hooks

    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    devices = {t.device for t in tensors((args, kwargs)) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(d.index or 0 for d in devices)):
        args, kwargs = _detached(args), _detached(kwargs)
        # Within a checkpoint this pass must not count as the one that is computed again. Detached,
        # because an operation that keeps its own output would never be freed.
        with saved_tensors_hooks(torch.Tensor.detach, lambda t: t), total_counter() as counter:
            output = module.forward(*args, **kwargs)
        forward = counter.get_total_flops()
        ends = [tensor for tensor in tensors(output) if tensor.grad_fn is not None]

        def back_to(starts: "list[Tensor]") -> float:
            slopes = [torch.ones_like(end) for end in ends]
            with total_counter() as counter:
                torch.autograd.grad(ends, starts, slopes, retain_graph=True)
            return float(counter.get_total_flops())

        starts = _leaves(ends)
        weights: list[Tensor] = [start for start in starts if isinstance(start, torch.nn.Parameter)]
        inputs = [start for start in starts if not isinstance(start, torch.nn.Parameter)]
        backward = back_to(starts) if starts else 0.0
        # Of two passes that need the same gradients one is enough.
        mixed = bool(weights and inputs)
        to_weights, to_inputs = (back_to(s) if mixed else backward for s in (weights, inputs))
    for name, buffer in module.named_buffers():
        # Autograd refuses the backward pass of what was written to, even with the same value.
        if not torch.equal(buffer, buffers[name]):
            buffer.copy_(buffers[name])
    return CallCost(float(forward), backward, to_weights, to_inputs)


class _NoModules:
    """Replaces the tracker by which torch's counter separates modules: only totals are needed.

    Torch's tracker fails on checkpointed activations.
    """

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self) -> None: ...


def total_counter() -> "FlopCounterMode":
    """Return torch's counter without its table by module: slow, but exact."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(
        display=False, custom_mapping={**_attention_on_cpu(), **_products_in_four_bits()}
    )
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


@cache
def _attention_on_cpu() -> dict[Any, Any]:
    """Return formulas of a CPU's fused attention, which torch 2.14 lacks and counts as nothing.

    They are torch's for the same operation on a GPU, so that a budget means the same whatever the
    version.
    """
    import torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    count_forward: Callable[..., int] = sdpa_flop_count
    count_backward: Callable[..., int] = sdpa_backward_flop_count

    def forward(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return count_forward(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return count_backward(gradient, query, key, value)

    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def _products_in_four_bits() -> dict[Any, Any]:
    """Return formulas of bitsandbytes' products with weights of 4 bits, if it is imported.

    A product costs what its shape costs: torch's counter sees them in the backward pass alone,
    which unpacks the weights first.
    """
    import torch

    if "bitsandbytes" not in sys.modules:
        return {}

    def product(
        inputs: Sequence[int], packed: object, shape: Sequence[int], *rest: Any, **named: Any
    ) -> int:
        return 2 * math.prod(inputs) * shape[0]

    operations = (getattr(torch.ops.bitsandbytes, n, None) for n in ("gemm_4bit", "gemv_4bit"))
    return {operation: product for operation in operations if operation is not None}


def tensors(value: Any) -> "list[Tensor]":
    """List all tensors in nested containers, in order."""
    import torch

    result: list[Tensor] = []
    _collect(value, torch.Tensor, result)
    return result


def _collect(value: Any, kind: "type[Tensor]", result: "list[Tensor]") -> None:
    # In order of how fast the checks are: this runs at every call of a watched module.
    if isinstance(value, kind):
        result.append(value)
    elif isinstance(value, PLAIN):
        return
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, kind, result)
    elif isinstance(value, (dict, Mapping)):
        for item in value.values():
            _collect(item, kind, result)


def _leaves(ends: "list[Tensor]") -> "list[Tensor]":
    """Return the tensors to which a backward pass from ``ends`` gives a gradient.

    Parameters and inputs, and activations that checkpointing makes require one: those cost a
    backward pass even if no parameter is trained.
    """
    leaves: list[Tensor] = []
    visited: set[Any] = set()
    nodes: list[Any] = [end.grad_fn for end in ends]
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        # By name, because some versions of torch declare the class and others do not.
        if type(node).__name__ == "AccumulateGrad":
            leaves.append(node.variable)
        nodes += [earlier for earlier, _ in node.next_functions]
    return leaves


def _call_size(inputs: "list[Tensor]", kwargs: Mapping[str, Any]) -> CallSize:
    """Return the size of a call: of a language model, a vision tower, or any layer on rows."""
    import torch

    grid, lead, free = kwargs.get("grid_thw"), inputs[0], 1
    if isinstance(grid, torch.Tensor):  # patches of images of unequal sizes in one row
        frames = [(t, h * w) for t, h, w in grid.tolist()]
        positions = sum(t * area for t, area in frames)
        attended = sum(t * area**2 for t, area in frames) / positions
        names = {positions: "patches", len(grid): "images"}
    else:
        for name in ("input_ids", "inputs_embeds"):
            if kwargs.get(name) is not None:
                lead = kwargs[name]
        rows, new = lead.shape[0], 1
        if lead.dim() == 3 or (lead.dim() == 2 and not lead.is_floating_point()):
            new, free = lead.shape[1], 2
        cache = kwargs.get("past_key_values")
        total = new if cache is None else new + int(cache.get_seq_length())
        positions, attended = rows * new, float(total)
        names = {total: "total", new: "new", rows: "rows"}
    # In the leading tensor the first dimensions express the size. Elsewhere they are recognised by
    # value: a size that is equal by chance makes one kind more and does no harm.
    shapes: list[Any] = [lead.shape[free:], lead.dim()]
    for t in inputs:
        if t is not lead:
            shapes += [length if length == 1 else names.get(length, length) for length in t.shape]
        shapes += (t.dtype, t.requires_grad)
    return CallSize(positions, attended, tuple(shapes))


def _detached(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        # A copy that is no leaf, so that the call may write to it.
        return value.detach().requires_grad_(value.requires_grad).clone()
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        return {key: _detached(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_detached(item) for item in value)
    from transformers import Cache

    if not isinstance(value, Cache):
        return value
    # Tensors with a history cannot be deep-copied, so the copy gets detached ones.
    states = [t for layer in value.layers for t in vars(layer).values()]
    memo = {id(t): t.detach().clone() for t in states if isinstance(t, torch.Tensor)}
    return copy.deepcopy(value, memo)
