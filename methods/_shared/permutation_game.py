"""The permutation game of MCR: both sides' conditional information, and who sees which gradient."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from steelyard.harness.models.backbone import Context, Latents
from steelyard.methods._shared.divergences import jensen_shannon

Game = Literal["greedy", "independent", "collaborative"]
SIGN: dict[Game, float] = {"greedy": -1.0, "independent": 0.0, "collaborative": 1.0}


def permutations(draws: int, rows: int, generator: torch.Generator) -> Tensor:
    """Independent uniform permutations of the rows, one after another: [draws * rows] int64."""
    keys = torch.rand(draws, rows, generator=generator, dtype=torch.float64)
    return keys.argsort(dim=1).flatten()


def mipd(
    fuse: Callable[[Latents], Tensor],
    parts: Latents,
    reference: Tensor,
    order: Tensor,
    game: Game,
    multi_label: bool,
) -> tuple[Tensor, Tensor]:
    """Mean JSD between the prediction and the one with a side permuted: scalars J_image, J_text.

    ``parts`` are contributions [B, ...], ``reference`` the ordinary logits, one row a decision, and
    ``order`` K permutations [K * B]. With k = -1, 0, +1 for the greedy, independent and
    collaborative game,

        d(J_image + J_text) / d image  =  dJ_image / d image  +  k dJ_text / d image

    and the mirror image for text. The paper writes this as four fused passes on separately
    detached copies, of which two pairs are equal in value. Here each term is evaluated once and
    the side that is *held* in it has its gradient multiplied by k. The reference is detached:
    under the greedy game its gradient cancels, in the others it would leak to the other player.
    """
    rows = len(parts.image)
    draws = len(order) // rows
    sign = SIGN[game]

    def permuted(part: Tensor) -> Tensor:
        return part.index_select(0, order)

    def held(part: Tensor) -> Tensor:
        # Exact in floating point for k in {-1, 0, 1}: same value, gradient times k.
        copies = [draws] + [1] * (part.dim() - 1)
        return (sign * part + (1.0 - sign) * part.detach()).repeat(copies)

    logits = fuse(
        Latents(
            image=torch.cat([permuted(parts.image), held(parts.image)]),
            text=torch.cat([held(parts.text), permuted(parts.text)]),
            context=None if parts.context is None else exchanged(parts.context, order, rows),
        )
    )
    logits = logits.view(2, draws, len(reference), -1)
    image, text = jensen_shannon(logits, reference.detach(), multi_label).mean(dim=(1, 2))
    return image, text


def exchanged(context: Context, order: Tensor, rows: int) -> Context:
    """Context of the 2K copies of a batch: K with the image side permuted, then K with the text."""
    each = torch.arange(rows, device=order.device).repeat(len(order) // rows)
    return context.select(each.repeat(2), torch.cat([order, each]), torch.cat([each, order]))
