"""Meter of the shared budget: counts every pass of a model and stops before overshooting.

    meter = Meter(Budget("S", flops=2e11), device, Audit(seed))
    handles = [meter.watch(module) for module in backbone.metered_modules]
    with meter, suppress(BudgetSpent):
        method.train(backbone, data, meter, config, seed)

Hooks on modules count calls. The cost of a call is measured by torch's ``FlopCounterMode`` on a
copy of the inputs for a few sizes of each kind of call (``flops.FlopCache``), because the counter
is too slow to leave on.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from steelyard.harness.budget.audit import Audit, BehindMeter
from steelyard.harness.budget.checkpoints import Checkpoints
from steelyard.harness.budget.flops import CallCost, FlopCache
from steelyard.harness.budget.graph import Call, edges, nodes, on_backward
from steelyard.harness.budget.step_log import StepLog
from steelyard.harness.budget.tokens import TokenLedger
from steelyard.harness.core import ranks
from steelyard.harness.core.environment import device_name, peak_bytes, reset_peak
from steelyard.harness.records.budget import Budget
from steelyard.harness.records.record import Ledger

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.autograd.graph import Node
    from torch.utils.hooks import RemovableHandle


SPREAD = 1.05
"""Cost of the costliest step of several ranks that has to be left, as a factor: inside a step none
of them can stop alone, and steps differ by their padding and by the length of their answers."""
STATE = (
    "steps", "_flops", "_seconds", "_prompts", "_answers", "_sums", "_history", "_latest", "_spent",
    "_fixed", "_fixed_seconds", "_spent_before", "_costliest_step", "_reserved",
)  # fmt: skip
"""Attributes that a checkpoint has."""
PRICED = -1
"""Name of the modules whose tokens are priced; watched ones count from 0."""


class BudgetSpent(Exception):
    """Raised before a pass that would overshoot the budget; the present weights are scored."""


class Meter(StepLog):
    """Counts executed FLOPs by phase, and raises BudgetSpent before they overshoot.

    Use it as a context manager around a method's training. Inside, ``with meter.phase("teacher")``
    charges passes to that phase; outside any, they go to ``forward`` and ``backward``. ``audit``
    compares windows of the run with torch's own counter.

    Each of several ``ranks`` has a meter of its own passes; the budget is that of all together, and
    they agree on the used fraction whenever it is read, which all do in the same places.
    """

    def __init__(self, budget: Budget, device: str, audit: Audit | None = None) -> None:
        super().__init__()
        self.budget = budget
        self.steps = 0
        self.on_progress: Callable[[float], None] = lambda fraction: None
        self._device = device
        self._flops: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._prompts = self._answers = 0
        self._phase = "train"
        self._since = 0.0
        self._spent = 0.0
        self._fixed = self._fixed_seconds = 0.0
        self._spent_before = 0.0
        self._costliest_step = 0.0
        self._reserved = 0.0  # backward passes of executed forward ones
        self._depth = 0  # of nested watched calls
        self._call: Call | None = None  # the outermost
        self._parts: list[Call] = []  # of it
        self._active = self._measuring = False
        self._watched: list[nn.Module] = []
        self._flop_cache = FlopCache()
        self.tokens = TokenLedger(self._measure_forward, self._pay)
        self.audit = audit or Audit()
        self.checkpoints = Checkpoints(self)

    def __enter__(self) -> "Meter":
        reset_peak(self._device)
        self._active, self._since = True, self._now()
        self.audit.begin()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(BehindMeter):  # the run reads the finding; here it would hide an exception
            self._post("backward", self.audit.end("the end"))
        self._tick()
        self._active = False

    @property
    def spent(self) -> float:
        """Executed FLOPs of all phases; methods can only read it."""
        return self._spent

    @property
    def seconds(self) -> float:
        """Seconds of all phases."""
        return sum(self._seconds.values()) + time.perf_counter() - self._since

    @property
    def fraction(self) -> float:
        """Used fraction of the budget, by the cap that is nearest: schedules follow it.

        Fixed costs are subtracted from used and total, or half of the schedule could be over
        before the method starts.
        """
        spent, _, elapsed = self._of_all_ranks()
        available = self.budget.flops - self._fixed
        fraction = (spent - self._fixed) / available if available else 1.0
        if self.budget.seconds is not None:
            seconds = self.budget.seconds - self._fixed_seconds
            elapsed -= self._fixed_seconds
            fraction = max(fraction, elapsed / seconds if seconds > 0 else 1.0)
        if self.budget.items is not None:
            fraction = max(fraction, self._prompts / self.budget.items)
        return fraction

    @property
    def calibration(self) -> float:
        """FLOPs of the measuring passes: the harness's own overhead, which is not charged."""
        return self._flop_cache.calibration

    def watch(self, module: "nn.Module") -> "tuple[RemovableHandle, RemovableHandle]":
        """Count this module's calls from now on, and those of deep copies of it.

        A module inside a watched one is part of the outer call's cost. Watching it as well
        separates a backward pass that ends within the outer module from a complete one: layers
        before the part are charged only if the pass goes beyond it.

        Removing the handles ends it; methods do not get them.
        """
        outer = [watched for watched in self._watched if watched is not module]
        part = any(module is inner for watched in outer for inner in watched.modules())
        name = len(self._watched)  # also of copies, and in every attempt of a run
        self._watched.append(module)

        before = self._before_part if part else self._before
        after = self._after_part if part else self._after
        # Plain functions: deepcopy copies them by reference, so a copied module keeps posting to
        # this meter, whereas a bound method would be copied together with it.
        return (
            module.register_forward_pre_hook(lambda *call: before(name, *call), with_kwargs=True),
            module.register_forward_hook(
                lambda *call: after(call[-1]), with_kwargs=True, always_call=True
            ),
        )

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge FLOPs and seconds inside to the phase ``name``."""
        self._tick()
        outer, self._phase = self._phase, name
        try:
            yield
        finally:
            self._tick()
            self._phase = outer

    def charge(self, flops: float, seconds: float = 0.0) -> None:
        """Charge a fixed cost that was measured elsewhere, such as a feature cache's."""
        self._seconds[self._phase] += seconds
        self._fixed_seconds += seconds
        self._demand(flops)
        self._post("forward", flops)
        self.audit.prepay(flops)
        self._fixed += flops
        self._spent_before += flops  # no part of the next step

    def start_stage(self) -> None:
        """Exclude what was spent so far, such as mining, from the cost of the next step."""
        self._spent_before = self._spent

    def afford_step(self, prompts: int = 1) -> None:
        """Check the budget before a step, so that a run ends between two steps, on all ranks.

        Raises:
            BudgetSpent: these prompts, or the cost of the costliest step, would overshoot.
        """
        spent, reserved, elapsed = self._of_all_ranks()
        step = self._costliest_step if ranks.world() == 1 else self._costliest_step * SPREAD
        self._check(spent + reserved + step, elapsed, prompts)

    def step(self, prompts: int, answers: int | None = None) -> None:
        """Count one completed optimiser step over these prompts and their answers, one by default.

        A prompt is a question, or an example of a classifier. The data track counts prompts: a pair
        is one prompt with two answers, a group one prompt with as many answers as were sampled.

        Raises:
            BehindMeter: the audit saw passes that no watched module posted.
        """
        self.steps += 1
        with ranks.together():
            self._post("backward", self.audit.end(f"step {self.steps}"))
        cost = sum(ranks.gather(self._spent - self._spent_before))
        self._costliest_step = max(self._costliest_step, cost)
        self._spent_before = self._spent
        self._prompts += prompts
        self._answers += prompts if answers is None else answers
        self._reserved = 0.0  # a backward pass that was skipped will not come after the step
        fraction = self.fraction
        self.on_progress(min(1.0, fraction))
        self.audit.begin_if_due(fraction)

    def log(
        self, values: "Mapping[str, Tensor | float]", learning_rate: float | None = None
    ) -> None:
        """Log one step: means become the record's diagnostics."""
        numbers = ranks.mean_values({name: float(value) for name, value in values.items()})
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        row = self._add(numbers, {"step": self.steps + 1, "flops": self._spent, **rate})
        shares = {f"share/{name}": flops / self._spent for name, flops in self._flops.items()}
        self.on_log({**row, **shares})

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Charge no FLOPs inside: an earlier attempt of the run has paid for them."""
        active, self._active = self._active, False
        try:
            with self.audit.unseen():
                yield
        finally:
            self._active = active

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave the seconds inside out: they are the harness's own overhead."""
        self._tick()
        try:
            yield
        finally:
            self._since = self._now()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint has to have of the meter."""
        state = {name: getattr(self, name) for name in STATE}
        prices, audit = self._flop_cache.state_dict(), self.audit.state_dict()
        return {**state, "prices": prices, "audit": audit, "tokens": self.tokens.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue as the meter whose state this is; the phase is that of the caller."""
        for name in STATE:
            setattr(self, name, state[name])
        self._flops = defaultdict(float, self._flops)
        self._seconds = defaultdict(float, self._seconds)
        self._flop_cache.load_state_dict(state["prices"])
        self.audit.load_state_dict(state["audit"])
        self.tokens.load_state_dict(state["tokens"])

    def ledger(self, stopped: Literal["finished", "budget"]) -> Ledger:
        """Return the costs for the record."""
        return Ledger(
            flops=dict(sorted(self._flops.items())),
            seconds={name: round(value, 3) for name, value in sorted(self._seconds.items())},
            steps=self.steps,
            items=self._prompts,
            answers=self._answers,
            peak_bytes=peak_bytes(self._device) or self.audit.peak_bytes,
            device=device_name(self._device),
            limit_flops=self.budget.flops if self.budget.flops < math.inf else None,
            limit_seconds=self.budget.seconds,
            limit_items=self.budget.items,
            stopped=stopped,
            audited=self.audit.windows,
            unposted=round(self.audit.worst, 4),
            generation=self.tokens.counts,
        )

    def _before(self, name: int, module: "nn.Module", args: Any, kwargs: Any) -> None:
        import torch

        # Torch calls the after-hook also if this one raises, so the depth always returns to zero.
        self._depth += 1
        if not self._active or self._depth > 1:
            return
        self._call, self._parts = None, []
        if torch._C._functorch.peek_interpreter_stack() is not None:
            # Under torch.func no copy of the call can be measured; torch's counter sees the call.
            self.audit.count_exactly(in_backward=False)
            return
        paid = self.tokens.is_paid(module, args, kwargs)
        self.audit.enter_call(paid=paid)
        if paid:
            return
        cost = self._cost(name, module, args, kwargs)
        self._demand(cost.forward + cost.backward)
        self._post("forward", cost.forward)
        self._reserved += cost.backward
        self._call = Call(module, cost, edges((args, kwargs)))

    def _after(self, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.audit.leave_call()
        if not self._active or self._depth > 0 or self._call is None:
            return
        # A pass that leaves the first part at its inputs goes through the rest of the module.
        entrance = self._parts[0].inputs if self._parts else []
        rest = self._call.cost.without([part.cost for part in self._parts])
        self._on_backward(entrance or nodes(output), self._call._replace(cost=rest))
        self._call, self._parts = None, []  # they hold the graph

    def _before_part(self, name: int, module: "nn.Module", args: Any, kwargs: Any) -> None:
        # A part that is called outside its outer module is a checkpoint being computed again: the
        # outer module's backward cost includes it.
        if self._active and self._depth and not self._measuring and self._call is not None:
            cost = self._cost(name, module, args, kwargs)
            self._parts.append(Call(module, cost, edges((args, kwargs))))

    def _after_part(self, output: Any) -> None:
        if self._active and self._depth and not self._measuring and self._parts:
            self._on_backward(nodes(output), self._parts[-1])

    def _on_backward(self, at: "list[Node]", call: "Call") -> None:
        """Charge this call's cost once per backward pass that goes through any of these nodes."""
        import torch

        cost = call.cost
        if not at or cost.backward <= 0:
            return

        def executed() -> None:
            if torch.is_grad_enabled():  # create_graph: gradients of gradients may follow
                self.audit.count_exactly(in_backward=True)
            self._reserved = max(0.0, self._reserved - cost.backward)
            self._post("backward", call.executed_backward())

        on_backward(at, executed)

    def _of_all_ranks(self) -> tuple[float, float, float]:
        """Return the spent and reserved FLOPs of all ranks, and the seconds of the slowest."""
        rows = ranks.gather((self._spent, self._reserved, self.seconds))
        spent, reserved, seconds = zip(*rows, strict=True)
        return sum(spent), sum(reserved), max(seconds)

    def _demand(self, flops: float) -> None:
        if ranks.world() == 1:  # inside a step a rank that stopped alone would be waited for
            self._check(self._spent + self._reserved + flops, self.seconds)

    def _check(self, total: float, elapsed: float, prompts: int = 1) -> None:
        over, caps = "", self.budget
        if total > caps.flops:
            over = f"{total:.3g} FLOPs needed"
        elif caps.seconds is not None and elapsed > caps.seconds:
            over = f"{elapsed:.3g} s used"
        elif caps.items is not None and self._prompts + prompts > caps.items:
            over = f"{self._prompts + prompts} items needed"
        if over:
            self.audit.begin()  # a method that continues nevertheless is audited
            raise BudgetSpent(f"{over}, the budget is {caps}")

    def _post(self, kind: str, flops: float, *, executed: bool = True) -> None:
        if self._active and flops:
            self._flops[kind if self._phase == "train" else self._phase] += flops
            self._spent += flops
            self.audit.post(flops, backward=kind == "backward", executed=executed)

    def _pay(self, flops: float) -> str:
        self._demand(flops)
        self._post("forward", flops, executed=False)
        return "forward" if self._phase == "train" else self._phase

    def _measure_forward(self, module: "nn.Module", args: Any, kwargs: Any) -> float:
        import torch

        with torch.no_grad():
            return self._cost(PRICED, module, args, kwargs).forward

    def _cost(self, name: int, module: "nn.Module", args: Any, kwargs: Any) -> CallCost:
        self._measuring = True
        try:
            with self.audit.unseen():
                return self._flop_cache.of(module, args, kwargs, name)
        finally:
            self._measuring = False

    def _tick(self) -> None:
        now = self._now()
        if self._active:
            self._seconds[self._phase] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()
