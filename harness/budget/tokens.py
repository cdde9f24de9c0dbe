"""Charge of sampled answers by their tokens, whatever engine decodes them and pads them how."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

from steelyard.harness.records.generation import Generation, total

if TYPE_CHECKING:
    from torch import nn

SizedCalls = Sequence[tuple[int, Mapping[str, Any]]]
"""Two lengths of a row of text, with a decoder's arguments for it."""


class TokenLedger:
    """Counts tokens by phase, and knows the calls that they have paid.

    ``measure`` returns the FLOPs of a forward pass, and is not charged. ``pay`` charges FLOPs, and
    returns the phase that has them.
    """

    def __init__(
        self,
        measure: Callable[["nn.Module", Any, Mapping[str, Any]], float],
        pay: Callable[[float], str],
    ) -> None:
        self._measure, self._pay = measure, pay
        self.counts: tuple[Generation, ...] = ()
        """Sums by phase and prices."""
        self._prices: dict[nn.Module, Generation] = {}
        self._paid: dict[nn.Module, tuple[int, ...]] = {}
        """Rows, and tokens of a row, of the next call of each module."""

    @contextmanager
    def generation(
        self, decoder: "nn.Module", head: "nn.Module", calls: Callable[[], SizedCalls]
    ) -> Iterator[Callable[[Sequence[int], bool], None]]:
        """Yield a function that charges a pass, before it is executed here or after it elsewhere.

        It gets the number of tokens that the last token of each row attends to, and True if the
        rows are prompts, False if they are one token each. The next calls of ``decoder`` and
        ``head``, if they are of this size, then cost nothing more, padding included.
        """
        if decoder not in self._prices:
            self._prices[decoder] = self._measured(decoder, head, calls())
        prices = self._prices[decoder]

        def on_pass(attended: Sequence[int], prompts: bool) -> None:
            phase = self._pay(prices.after(attended, prompts).flops)
            counts = replace(prices, phase=phase).after(attended, prompts)
            self.counts = total((*self.counts, counts))
            rows, width = len(attended), max(attended) if prompts else 1
            self._paid = {decoder: (rows, width), head: (rows,)}

        try:
            yield on_pass
        finally:
            self._paid = {}

    def is_paid(self, module: "nn.Module", args: Any, kwargs: Any) -> bool:
        """Say whether a call is the announced one; a larger one is charged as any other."""
        size = self._paid.pop(module, None)
        if size is None:
            return False
        lead = kwargs["inputs_embeds"] if len(size) == 2 else args[0]
        return tuple(lead.shape[:-1]) == size

    def state_dict(self) -> list[Any]:
        return [astuple(part) for part in self.counts]

    def load_state_dict(self, state: Sequence[Any]) -> None:
        self.counts = tuple(Generation(*part) for part in state)

    def _measured(self, decoder: "nn.Module", head: "nn.Module", calls: SizedCalls) -> Generation:
        """Return the prices, with counts of zero.

        A token costs the same in layers that work on every position alike, and a multiple of the
        tokens that it attends to in attention, so two lengths give both.
        """
        (short, first), (long, second) = calls
        low = self._measure(decoder, (), first) / short
        high = self._measure(decoder, (), second) / long
        slope = (high - low) / (long - short)
        one = self._measure(head, (first["inputs_embeds"][0, :1],), {})
        return Generation("", low - slope * short, slope, one)
