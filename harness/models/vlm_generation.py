"""Answers of a vision-language model, token by token.

Each prompt is read once, however many answers are sampled to it: they continue copies of its keys
and values. A row leaves the batch when it has ended, so padding is all that is computed in excess.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steelyard.harness.core.errors import NonFiniteOutput
from steelyard.harness.models.backbone import Batch

if TYPE_CHECKING:
    from steelyard.harness.models.vlm import Vlm

OnPass = Callable[[Sequence[int], bool], None]
"""Called before each pass of the decoder with the number of tokens that the last token of each row
attends to, itself included, and with True if the rows are prompts, False if they are one token."""


def ignore_pass(attended: Sequence[int], prompts: bool) -> None: ...


class ReadPrompts:
    """Prompts that the decoder has read, with their keys and values, to be continued."""

    def __init__(self, model: "Vlm", batch: Batch, on_pass: OnPass = ignore_pass) -> None:
        from transformers import DynamicCache

        self._model, self._on_pass = model, on_pass
        latents = model.encode(batch)
        layout = model.layout(latents).packed().trimmed()
        self._attended = layout.visible
        self._lengths: list[int] = self._attended.sum(1).tolist()
        on_pass(self._lengths, True)
        # Without the configuration, which would drop what is outside a layer's sliding window:
        # continuations are removed again.
        self._cache = DynamicCache()
        self.last = model.read(latents, layout, self._attended, cache=self._cache)[:, -1]
        """States [B, D] of the last token of each row."""
        longer = torch.nn.functional.pad(self._attended, (0, 1), value=True)
        self._next = layout.positions(model.base.model, longer)[..., -1:]

    def repeat(self, times: int) -> None:
        """Repeat each row, for several continuations."""
        rows = torch.arange(len(self.last), device=self.last.device).repeat_interleave(times)
        self.select(rows.tolist())

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self.last.device)
        self._cache.batch_select_indices(index)
        self._attended, self.last = self._attended[index], self.last[index]
        self._next = self._next[..., index, :]
        self._lengths = [self._lengths[row] for row in rows]

    def append(self, tokens: Tensor) -> Tensor:
        """Return the states [B, N, D] of further tokens [B, N] of each row."""
        model, count = self._model, tokens.shape[1]
        self._lengths = [length + count for length in self._lengths]
        self._on_pass(self._lengths, False)
        added = torch.ones_like(tokens, dtype=torch.bool)
        self._attended = torch.cat([self._attended, added], 1)
        positions = self._next + torch.arange(count, device=tokens.device)
        self._next = self._next + count
        embedded = model.base.get_input_embeddings()(tokens)
        return model.run_decoder(embedded, self._attended, positions, self._cache)

    def remove(self, count: int) -> None:
        """Remove the last tokens of each row."""
        if count:
            self._cache.crop(-count)
            self._attended, self._next = self._attended[:, :-count], self._next - count
            self._lengths = [length - count for length in self._lengths]


def sample_answers(
    model: "Vlm",
    batch: Batch,
    max_tokens: int,
    temperature: float | None,
    samples: int,
    on_pass: OnPass,
) -> list[list[int]]:
    """Return ``samples`` token rows for each prompt in turn, each up to and with an end token.

    Greedy without a temperature. Of the checkpoint's own settings, such as a penalty on
    repetition, only its end tokens are used.
    """
    head = model.base.get_output_embeddings()
    prompts = ReadPrompts(model, batch, on_pass)
    logits = head(prompts.last).repeat_interleave(samples, 0)
    if samples > 1:
        prompts.repeat(samples)
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    rows = list(range(len(answers)))
    for length in range(1, max_tokens + 1):
        # The largest suffices: it is NaN where any is.
        finite = logits.amax(1).isfinite().tolist()
        if not all(finite):
            failed = (row for row, is_finite in zip(rows, finite, strict=True) if not is_finite)
            raise NonFiniteOutput([row // samples for row in failed])
        tokens = _draw(logits.float(), model.prompts.image_ids, temperature)
        drawn = tokens.tolist()
        for row, token in zip(rows, drawn, strict=True):
            answers[row].append(token)
        going = [index for index, token in enumerate(drawn) if token not in model.eos_ids]
        if not going or length == max_tokens:
            break
        if len(going) < len(rows):
            prompts.select(going)
            rows, tokens = [rows[index] for index in going], tokens[going]
        logits = head(prompts.append(tokens[:, None])[:, -1])
    return answers


def _draw(logits: Tensor, excluded: Sequence[int], temperature: float | None) -> Tensor:
    """Return one token [B] for each row of logits [B, V], from torch's global generator."""
    logits[:, excluded] = -torch.inf  # they are no text
    if temperature is None:
        return logits.argmax(1)
    return torch.multinomial(torch.softmax(logits / temperature, 1), 1)[:, 0]


@torch.no_grad()
def sized_calls(model: "Vlm") -> list[tuple[int, dict[str, Any]]]:
    """Return lengths of a row of text with the decoder's arguments for it, to price its tokens."""
    from steelyard.harness.core.examples import Inputs

    batch = model.collate([Inputs(None, None, "?")])
    latents = model.encode(batch)
    layout, calls = model.layout(latents), []
    for further in (0, 16):
        attended = torch.nn.functional.pad(layout.visible, (0, further), value=True)
        embedded = latents.text.repeat(1, 1 + further, 1)[:, : attended.shape[1]]
        positions = layout.positions(model.base.model, attended)
        arguments = model.decoder_arguments(embedded, attended, positions)
        calls.append((attended.shape[1], arguments))
    return calls
