"""Permutation game of MCR: J of both modalities, and the gradient that each player gets."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from steelyard.harness.models.backbone import Context, Latents
from steelyard.methods._shared.divergences import jensen_shannon

Game = Literal["greedy", "independent", "collaborative"]
SIGN: dict[Game, float] = {"greedy": -1.0, "independent": 0.0, "collaborative": 1.0}


def permutations(draws: int, rows: int, generator: torch.Generator) -> Tensor:
    """Draw independent uniform permutations of the rows: [draws * rows] int64."""
    # The order of independent uniform keys is a uniform permutation.
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
    """Return J_image and J_text: mean JSD of the prediction and that with a modality permuted.

    With k = -1, 0, +1 for the greedy, independent and collaborative game,

        d(J_image + J_text) / d image  =  dJ_image / d image  +  k dJ_text / d image

    and the same with image and text exchanged. The paper writes this as four fused passes on
    separately detached copies, of which two pairs are equal in value. Here each term is evaluated
    once, and the gradient of the modality that is *not* permuted in it is multiplied by k. The
    reference is detached: in the greedy game its gradient cancels, in the others it would reach the
    wrong player.

    ``parts`` are contributions [B, ...], ``reference`` the ordinary logits, one row per decision,
    and ``order`` holds K permutations [K * B].
    """
    rows = len(parts.image)
    draws = len(order) // rows
    sign = SIGN[game]

    def permuted(part: Tensor) -> Tensor:
        return part.index_select(0, order)

    def scaled(part: Tensor) -> Tensor:
        # Exact in floating point for k in {-1, 0, 1}: same value, gradient times k.
        copies = [draws] + [1] * (part.dim() - 1)
        return (sign * part + (1.0 - sign) * part.detach()).repeat(copies)

    logits = fuse(
        Latents(
            image=torch.cat([permuted(parts.image), scaled(parts.image)]),
            text=torch.cat([scaled(parts.text), permuted(parts.text)]),
            context=None if parts.context is None else exchanged(parts.context, order, rows),
        )
    )
    logits = logits.view(2, draws, len(reference), -1)
    image, text = jensen_shannon(logits, reference.detach(), multi_label).mean(dim=(1, 2))
    return image, text


def exchanged(context: Context, order: Tensor, rows: int) -> Context:
    """Return the context of 2K copies of a batch: K with permuted images, then K with texts."""
    ordinary = torch.arange(rows, device=order.device).repeat(len(order) // rows)
    image, text = torch.cat([order, ordinary]), torch.cat([ordinary, order])
    return context.select(ordinary.repeat(2), image, text)
