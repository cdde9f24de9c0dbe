"""Answers that a method samples, charged by their tokens whatever decodes them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch

from steelyard.harness.budget.meter import Meter
from steelyard.harness.models.backbone import Batch, evaluation_mode
from steelyard.harness.models.vlm import Vlm
from steelyard.harness.models.vlm_generation import OnPass, sized_calls


def continuations(
    backbone: Vlm,
    meter: Meter,
    batch: Batch,
    max_tokens: int,
    temperature: float | None = None,
    samples: int = 1,
) -> list[list[int]]:
    """Return ``backbone.continuations``, charged one pass over each prompt and no padding."""
    with _charged(backbone, meter) as on_pass:
        return backbone.continuations(batch, max_tokens, temperature, samples, on_pass)


def charge(
    backbone: Vlm, meter: Meter, batch: Batch, answers: Sequence[Sequence[Sequence[int]]]
) -> None:
    """Charge answers [prompt][sample][token] that another engine sampled to a batch's prompts.

    The images pass this model's tower, so that they cost what they cost in ``continuations``; the
    features of a frozen one are used by the training step again.
    """
    lengths: list[int] = batch.mask.sum(1).tolist()
    rows = [
        (length, len(answer))
        for length, group in zip(lengths, answers, strict=True)
        for answer in group
    ]
    with _charged(backbone, meter) as on_pass, torch.no_grad(), evaluation_mode(backbone):
        backbone.encode(batch)
        on_pass(lengths, True)
        for step in range(1, max(count for _, count in rows)):
            on_pass([length + step for length, count in rows if count > step], False)


def _charged(backbone: Vlm, meter: Meter) -> AbstractContextManager[OnPass]:
    decoder, head = backbone.language_model, backbone.base.get_output_embeddings()
    return meter.tokens.generation(decoder, head, partial(sized_calls, backbone))
