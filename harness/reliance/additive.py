"""Additive part of a classifier: its logits without interaction of image and text.

Empirical multimodally-additive projection (Hessel and Lee, EMNLP 2020). Of the logits f(t, v) of N
items, e(t_i, v_i) = mean_j f(t_i, v_j) + mean_j f(t_j, v_i) - mean_jk f(t_j, v_k). If e is correct
as often as f, the model only adds up what both modalities say; the gap is what needs their
interaction. The encoders see each item once; the N x N pairs cost fusions only.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steelyard.harness.core.examples import Inputs
from steelyard.harness.models.backbone import Latents, evaluation_mode

if TYPE_CHECKING:
    from torch import Tensor

    from steelyard.harness.models.classifier import Classifier

CHUNK = 64
"""Number of items encoded, or rows of pairs fused, at a time."""


def additive_probabilities(backbone: "Classifier", inputs: Sequence[Inputs]) -> "Tensor":
    """Return class probabilities [N, C] of the projection of these N items."""
    import torch

    with torch.no_grad(), evaluation_mode(backbone):
        chunks = (inputs[start : start + CHUNK] for start in range(0, len(inputs), CHUNK))
        batches = map(backbone.collate, chunks)
        parts = [backbone.contribute(backbone.encode(batch)) for batch in batches]
        image = torch.cat([part.image for part in parts])
        text = torch.cat([part.text for part in parts])
        rows = []
        for start in range(0, len(image), CHUNK):
            chunk = image[start : start + CHUNK]
            pairs = Latents(chunk.repeat_interleave(len(text), dim=0), text.repeat(len(chunk), 1))
            rows.append(backbone.fuse(pairs).reshape(len(chunk), len(text), -1))
        return backbone.probabilities(projection(torch.cat(rows))).float().cpu()


def projection(logits: "Tensor") -> "Tensor":
    """Return the approximation [N, C] at the pairs (i, i), from logits of all pairs [N, N, C]."""
    by_row, by_column = logits.mean(dim=1), logits.mean(dim=0)
    return by_row + by_column - logits.mean(dim=(0, 1))
