"""What one call of a module costs: measured by torch's counter, or predicted from other sizes."""

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.autograd.graph import Node
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
    """Of the pass back through this call to everything in it and before it that needs one."""


@dataclass(frozen=True, slots=True)
class CallSize:
    """How large a call is."""

    positions: int
    """Places worked on: rows times new tokens, or patches of all images."""
    attended: float
    """Places each of them attends to, itself included; the mean where images differ in size."""
    lead: "Tensor"
    """The tensor whose shape says so."""
    free: int
    """Its first dimensions that do."""
    names: Mapping[int, str]
    """Sizes of tensors that follow from the call's and so do not tell two kinds apart."""


class FlopCache:
    """Costs of the calls of any number of modules; each kind of call is measured a few times.

    Layers that work on every position alike cost a multiple of the positions, and attention a
    multiple of positions times attended ones, so calls of one kind cost

        positions x (a + b x attended)

    for every size. Three measured sizes give both coefficients and a check. A kind that does not
    fit is measured at each new size, as is a size far from those seen.
    """

    def __init__(self) -> None:
        self.calibration = 0.0
        """FLOPs of the measuring passes."""
        self._known: dict[tuple[Any, ...], CallCost] = {}
        self._lines: dict[tuple[Any, ...], _Line] = {}
        self._parts: dict[int, _Parts] = {}

    def of(self, module: "nn.Module", args: Any, kwargs: Any) -> CallCost:
        """CallCost of this call in the module's present state, gradient mode and precision."""
        found = tensors((args, kwargs))
        extent = _extent(found, kwargs)
        kind = (*self._state(module), *_pattern(found, extent))
        size = (kind, extent.positions, extent.attended)
        known = self._known.get(size)
        if known is not None:
            return known
        line = self._lines.setdefault(kind, _Line())
        cost = line.predict(extent)
        if cost is None:
            cost = measure(module, args, kwargs)
            self.calibration += cost.forward + cost.backward
            line.add(extent, cost)
        self._known[size] = cost
        return cost

    def _state(self, module: "nn.Module") -> tuple[Any, ...]:
        import torch

        parts = self._parts.get(id(module))
        if parts is None:  # walking a module is slow
            inner = tuple(m for m in module.modules() if "gradient_checkpointing" in vars(m))
            parts = _Parts(module, tuple(module.parameters()), inner)
            self._parts[id(module)] = parts
        return (
            id(module),
            module.training,
            torch.is_grad_enabled(),
            tuple(map(NEEDS_GRADIENT, parts.parameters)),
            tuple([vars(inner)["gradient_checkpointing"] for inner in parts.recomputed]),
        )


@dataclass(frozen=True, slots=True)
class _Parts:
    module: "nn.Module"  # kept, so that its id is not given to another
    parameters: "tuple[nn.Parameter, ...]"
    recomputed: "tuple[nn.Module, ...]"
    """Layers that can forget their activations and compute them twice."""


class _Line:
    """CallCost a position as a straight line over attended positions, by least squares."""

    def __init__(self) -> None:
        self._points: list[tuple[float, CallCost]] = []
        self._straight = True
        self._mean = self._spread = 0.0
        self._forward = self._backward = (0.0, 0.0)

    def add(self, extent: CallSize, cost: CallCost) -> None:
        """Take in a measured call."""
        each = CallCost(cost.forward / extent.positions, cost.backward / extent.positions)
        self._points.append((extent.attended, each))
        xs = [x for x, _ in self._points]
        self._mean = sum(xs) / len(xs)
        self._spread = sum((x - self._mean) ** 2 for x in xs)
        self._forward = self._fit([cost.forward for _, cost in self._points])
        self._backward = self._fit([cost.backward for _, cost in self._points])
        self._straight = self._straight and all(
            abs(self._at(line, x) - value) <= TOLERANCE * value
            for x, point in self._points
            for line, value in ((self._forward, point.forward), (self._backward, point.backward))
        )

    def predict(self, extent: CallSize) -> CallCost | None:
        """CallCost of a call of this size, or None where it has to be measured."""
        needed = 3 if self._spread else 2
        away = (extent.attended - self._mean) ** 2
        if len(self._points) < needed or not self._straight or away > REACH * self._spread:
            return None
        forward, backward = (
            # Operations are whole numbers, and rounding gives the very one that is measured.
            float(round(extent.positions * self._at(line, extent.attended)))
            for line in (self._forward, self._backward)
        )
        return CallCost(forward, backward)

    def _fit(self, ys: list[float]) -> tuple[float, float]:
        """Height at the mean, and slope."""
        if not self._spread:
            return sum(ys) / len(ys), 0.0
        products = ((x - self._mean) * y for (x, _), y in zip(self._points, ys, strict=True))
        return sum(ys) / len(ys), sum(products) / self._spread

    def _at(self, line: tuple[float, float], attended: float) -> float:
        return line[0] + line[1] * (attended - self._mean)


def measure(module: "nn.Module", args: Any, kwargs: Any) -> CallCost:
    """FLOPs of one forward and one backward of this call, leaving no trace on the module.

    The pass is run on detached copies of the inputs (a key-value cache is copied too) with the
    random state and the buffers (batch-norm statistics) put back afterwards, and gradients are
    taken without touching ``.grad``. It is the harness's own overhead and is not charged.
    """
    import torch

    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    devices = {t.device for t in tensors((args, kwargs)) if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(d.index or 0 for d in devices)):
        args, kwargs = _detached(args), _detached(kwargs)
        with total_counter() as counter:
            output = module.forward(*args, **kwargs)
        forward = counter.get_total_flops()
        ends = [tensor for tensor in tensors(output) if tensor.grad_fn is not None]
        starts = _leaves(ends)
        backward = 0
        if starts:
            with total_counter() as counter:
                torch.autograd.grad(ends, starts, [torch.ones_like(t) for t in ends])
            backward = counter.get_total_flops()
    for name, buffer in module.named_buffers():
        buffer.copy_(buffers[name])
    return CallCost(float(forward), float(backward))


class _WholeCall:
    """Stands in for the tracker with which torch's counter tells the modules of a call apart.

    That one fails on checkpointed activations, and only the total is wanted.
    """

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self) -> None: ...


def total_counter() -> "FlopCounterMode":
    """Torch's counter without its table by module: slow, but the truth for what runs inside."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_attention_on_cpu())
    counter.mod_tracker = _WholeCall()  # type: ignore[assignment]
    return counter


@cache
def _attention_on_cpu() -> dict[Any, Any]:
    """Formulas of a CPU's fused attention, for which torch 2.14 has none and counts nothing.

    They are those that torch has for the same operation on a GPU, so that a budget means the same
    whatever the version.
    """
    import torch
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    once: Callable[..., int] = sdpa_flop_count
    back: Callable[..., int] = sdpa_backward_flop_count

    def forward(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return once(query, key, value)

    def backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
        return back(gradient, query, key, value)

    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }


def tensors(value: Any) -> "list[Tensor]":
    """All tensors in nested containers, in order."""
    import torch

    found: list[Tensor] = []
    _collect(value, torch.Tensor, found)
    return found


def _collect(value: Any, kind: "type[Tensor]", found: "list[Tensor]") -> None:
    # In order of how fast the checks are: this runs at every call of a watched module.
    if isinstance(value, kind):
        found.append(value)
    elif isinstance(value, PLAIN):
        return
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, kind, found)
    elif isinstance(value, (dict, Mapping)):
        for item in value.values():
            _collect(item, kind, found)


def _leaves(ends: "list[Tensor]") -> "list[Tensor]":
    """What a backward pass from here would give a gradient to.

    Parameters and inputs, and activations that checkpointing makes require one: those cost a
    backward pass even where no parameter learns.
    """
    import torch

    found: list[Tensor] = []
    seen: set[Node] = set()
    todo = [end.grad_fn for end in ends]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch._C._functions.AccumulateGrad):
            found.append(node.variable)
        todo += [earlier for earlier, _ in node.next_functions]
    return found


def _extent(found: "list[Tensor]", kwargs: Mapping[str, Any]) -> CallSize:
    """Size of a call: of a language model, of a vision tower, or of any layer on rows."""
    import torch

    grid = kwargs.get("grid_thw")
    if isinstance(grid, torch.Tensor):  # patches of images of unequal sizes in one row
        frames = [(t, h * w) for t, h, w in grid.tolist()]
        patches = sum(t * area for t, area in frames)
        attended = sum(t * area**2 for t, area in frames) / patches
        names = {patches: "patches", len(grid): "images"}
        return CallSize(patches, attended, found[0], 1, names)
    first = found[0]
    for name in ("input_ids", "inputs_embeds"):
        if kwargs.get(name) is not None:
            first = kwargs[name]
    rows, new, free = first.shape[0], 1, 1
    if first.dim() == 3 or (first.dim() == 2 and not first.is_floating_point()):
        new, free = first.shape[1], 2
    cache = kwargs.get("past_key_values")
    total = new if cache is None else new + int(cache.get_seq_length())
    return CallSize(
        rows * new, float(total), first, free, {total: "total", new: "new", rows: "rows"}
    )


def _pattern(found: "list[Tensor]", extent: CallSize) -> tuple[Any, ...]:
    """Type and shape of every tensor of a call, but for the sizes that say how large it is.

    In the leading tensor those are known by their place; elsewhere they are known by their value,
    so that a size that is equal by chance makes one kind more and does no harm.
    """
    lead, names = extent.lead, extent.names
    shapes: list[Any] = [lead.shape[extent.free :], lead.dim()]
    for t in found:
        if t is not lead:
            shapes += [size if size == 1 else names.get(size, size) for size in t.shape]
        shapes += (t.dtype, t.requires_grad)
    return tuple(shapes)


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

    return _copied(value) if isinstance(value, Cache) else value


def _copied(cache: Any) -> Any:
    """A key-value cache that can be written to; tensors with a history cannot be deep-copied."""
    import torch

    held = [t for layer in cache.layers for t in vars(layer).values()]
    return copy.deepcopy(
        cache, {id(t): t.detach().clone() for t in held if isinstance(t, torch.Tensor)}
    )
