"""MCR: a multimodal competition regulariser built from a game between the two encoders.

Kontras, Strypsteen, Chatzichristos, Liang, Blaschko, De Vos: "Balancing Multimodal Training
Through Game-Theoretic Regularization", NeurIPS 2025, arXiv 2411.07335.

Loss, with latents z_m, contributions c_m to the fusion, own heads u_m and prediction y:

    L = CE(y) + unimodal (CE(u_image) + CE(u_text)) + MIPD term + contrastive L_con + ceb L_ceb

MIPD     J_m = E JSD(p(y | all), p(y | side m permuted within the batch)): what the prediction
         loses of side m. Encoder m descends  -mipd (grad J_m + k grad J_other),  k = -1 greedy
         (raise mine, lower the other's), 0 independent, +1 collaborative.
L_con    for every ordered pair (a, p) of the 2B normalised latents with the same label:
         -log( e^(s_ap/τ) / (e^(s_ap/τ) + Σ_n e^(s_an/τ)) ), n over latents of another label,
         averaged over all such pairs; other positives are not in the denominator.
L_ceb    mean squared error between [z_image; z_text] and a bias-free two-layer decoder of the
         detached logits: a conditional entropy bottleneck with unit-variance Gaussian decoder.

Defaults are those published for CREMA-D with ResNet-18: mipd 0.1, unimodal 0.01, contrastive 1,
ceb 0, 32 draws. Over the other sets mipd runs from 0.001 to 0.1 and unimodal from 0.001 to 1;
ceb is 1 for large pretrained encoders and 0 otherwise. The temperature 0.5 is the released
pipeline's. Published runs mostly start from pretrained sides (``pretrain``, charged here).

Where the paper or its code is silent or ambiguous, this file decides:
- The first encoder pass is reused; nothing is encoded twice. K permutations are drawn uniformly
  with fixed points and same-label partners kept, and both sides share them.
- The reference prediction is detached. This changes nothing in the greedy game.
- ``detach="contribution"``: player m is encoder m with its own half of the first fusion layer;
  ``"latent"``: the encoder alone. Everything shared (bias, later layers) and, with ``"latent"``,
  all of the head stay out of every game: they get no MIPD gradient.
- The term carries its gradient with value zero, as the greedy game's value is identically;
  J_image and J_text are logged instead.
- Multi-label: JSDs of Bernoulli variables, averaged over labels; in L_con two latents are
  positives if their items share a label or are one item.
- The decoder's hidden layer has the latents' width; it is trained together with the backbone.

On a vision-language model (ours; the paper has classifiers only):
- A side is the image's tokens after the projector, or the embeddings of the prompt's tokens. The
  prediction is the distribution over the vocabulary at each answer token, teacher-forced; JSDs are
  averaged over answer tokens. The fusion is the language model, so each draw costs two of its
  passes: one draw by default.
- ``players="sides"`` is the game as above, between projector and token embeddings, which leaves
  almost all weights out of it, and with frozen vision under LoRA every one: that is refused.
  ``players="whole"``, the default there, lets what both sides share take part: the language model
  descends -mipd (grad J_image + grad J_text), since each J is the own term of a player whose
  encoder it is, and the sides' tensors get the gradient of their game as before.
- ``unimodal`` reads each side alone by blanking the other: two more passes of the language model.
- ``contrastive``, ``ceb`` and ``pretrain`` need pooled latents or separate encoders: refused.

Known faults of the public code that are avoided: the regulariser was computed and logged but
not added to the two-side classification loss; configuration names selected no method at all;
boolean flags replaced the weights; permuted predictions lacked the bias of the reference; the
permuted latents came from a second encoder pass in evaluation mode.

Beating joint training says nothing about the game: compare with ``mipd=0``, the same run
without it (no permutation is drawn). In an additive head the greedy game can keep inflating the
contributions; their centred norms are logged.
"""

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from steelyard.harness.budget.meter import Meter
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import MODALITIES
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.models.backbone import Backbone, Batch, Latents, TwoTower
from steelyard.harness.training.fit import fit
from steelyard.harness.training.search import Choice, LogUniform, Space
from steelyard.harness.training.train_data import TrainData
from steelyard.methods import About
from steelyard.methods._shared.gradients import carry, gradient_at, parameters_held
from steelyard.methods._shared.permutation_game import Game, mipd, permutations
from steelyard.methods._shared.pretrain import pretrain_modalities

ABOUT = About(
    title="MCR",
    kind="objective",
    summary="Makes each encoder raise what the prediction would lose if its side were shuffled, "
    "and pulls the latents of equal labels together.",
    paper="Kontras et al., Balancing Multimodal Training Through Game-Theoretic Regularization, "
    "NeurIPS 2025, arXiv 2411.07335",
    backbones=("classifier", "vlm"),
    on_vlm={"draws": 1, "contrastive": 0.0, "players": "whole"},
)


@dataclass(frozen=True, slots=True)
class Config:
    """Weights of the terms and shape of the game."""

    game: Game = "greedy"
    mipd: float = 0.1
    """Weight of the permutation game; 0 leaves it out, below 0 players *lower* their J."""
    unimodal: float = 0.01
    contrastive: float = 1.0
    ceb: float = 0.0
    draws: int = 32
    """Permutations a step."""
    temperature: float = 0.5
    detach: Literal["contribution", "latent"] = "contribution"
    """Where a player ends."""
    players: Literal["sides", "whole"] = "sides"
    """Whether what the sides share stays out of the game or raises both J."""
    pretrain: float = 0.0
    """Share of the budget spent on training each side alone first."""

    def __post_init__(self) -> None:
        if not 0 <= self.pretrain < 1:
            raise UserError(f"pretrain={self.pretrain}: give a share of the budget in [0, 1).")
        if self.draws < 1:
            raise UserError(f"draws={self.draws}: give at least 1; mipd=0 leaves out the game.")
        if self.temperature <= 0:
            raise UserError(f"temperature={self.temperature}: give a positive number.")


SEARCH: Space = {
    # The authors' grids: 0.001 to 1 for the game, 0.001 to 1 for the heads.
    "mipd": LogUniform(0.001, 1.0),
    "unimodal": LogUniform(0.001, 1.0),
    # 1 everywhere in the paper; 0 leaves the term out.
    "contrastive": Choice((0.0, 1.0), on=("classifier",)),
}


def train(backbone: Backbone, data: TrainData, meter: Meter, config: Config, seed: int) -> None:
    """Train with the regularised loss until the budget is used.

    Raises:
        UserError: a term that a vision-language model has no tensors for.
    """
    if backbone.kind == "vlm":
        check_terms(config)
    elif config.pretrain > 0:
        towers = cast(TwoTower, backbone)
        pretrain_modalities(towers, data, meter, share=config.pretrain, seed=seed)
    generator = torch.Generator().manual_seed(seed_for(seed, "mcr", "permutations"))
    extra: list[nn.Module] = []
    if config.ceb > 0:
        extra.append(latent_decoder(backbone, data.classes, seed_for(seed, "mcr", "ceb")))
        meter.watch(extra[0])

    def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        latents = backbone.encode(batch)
        parts = backbone.contribute(latents)
        logits = backbone.fuse(parts)
        loss = backbone.loss(logits, batch).mean()
        values: dict[str, Tensor | float] = {"loss_task": loss.detach()}
        if config.mipd != 0:
            order = permutations(config.draws, len(latents.image), generator).to(logits.device)
            term, judged = game_term(backbone, latents, parts, logits, order, config)
            loss = loss + term
            values |= judged
        if config.unimodal > 0:
            loss = loss + config.unimodal * unimodal_loss(backbone, latents, batch)
        if config.contrastive > 0:
            pulled = contrastive_loss(latents, batch.targets, config.temperature)
            loss = loss + config.contrastive * pulled
            values["loss_contrastive"] = pulled.detach()
        for decoder in extra:
            rebuilt = reconstruction_loss(decoder, logits, latents)
            loss = loss + config.ceb * rebuilt
            values["loss_ceb"] = rebuilt.detach()
        if backbone.kind == "classifier":  # of a vlm, contributions are token embeddings
            values |= contribution_norms(parts)
        return loss, values

    fit(backbone, data, meter, step, seed=seed, extra=extra)


def check_terms(config: Config) -> None:
    """Refuse the terms that need pooled latents or separate encoders."""
    for name in ("contrastive", "ceb", "pretrain"):
        if asdict(config)[name] > 0:
            raise UserError(
                f"{name}={asdict(config)[name]}: a vision-language model has no pooled latents or "
                f"separate encoders for this term; leave {name}=0."
            )


def game_term(
    backbone: Backbone,
    latents: Latents,
    parts: Latents,
    logits: Tensor,
    order: Tensor,
    config: Config,
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Zero with the gradient of the MIPD term at the players, and both J to log.

    Raises:
        UserError: no player has a trainable parameter.
    """
    ends = parts if config.detach == "contribution" else latents
    modalities_only = config.players == "sides"
    if modalities_only and not any(ends.of(modality).requires_grad for modality in MODALITIES):
        raise UserError(
            "players='sides': nothing before the language model is trainable here; give "
            "players=whole, or train all weights (backbone option tune=full)."
        )
    # A classifier's head is cheap enough to leave the charge for its own gradient in.
    held = modalities_only and backbone.kind == "vlm"
    with parameters_held(backbone) if held else nullcontext():
        image, text = mipd(backbone.fuse, parts, logits, order, config.game, backbone.multi_label)
        judged: dict[str, Tensor | float] = {"J_image": image.detach(), "J_text": text.detach()}
        value = -config.mipd * (image + text)
        if not modalities_only:
            return value - value.detach(), judged
        gradient = gradient_at(value, ends)
    zero = torch.zeros((), dtype=logits.dtype, device=logits.device)
    return carry(zero, ends, gradient), judged


def unimodal_loss(backbone: Backbone, latents: Latents, batch: Batch) -> Tensor:
    """Sum of both sides' own task losses, means over the batch; scalar."""
    own = backbone.unimodal(latents)
    return backbone.loss(own.image, batch).mean() + backbone.loss(own.text, batch).mean()


def contrastive_loss(latents: Latents, targets: Tensor, temperature: float) -> Tensor:
    """L_con of two sides [B, D]; targets are classes [B] or 0/1 labels [B, C]; scalar."""
    both = nn.functional.normalize(torch.cat([latents.image, latents.text]), dim=1)
    similarity = both @ both.T / temperature
    same = same_label(targets).repeat(2, 2)
    own = torch.eye(len(both), dtype=torch.bool, device=both.device)
    # Finite, so that a batch with a single label has a defined gradient.
    excluded = torch.finfo(similarity.dtype).min
    negatives = similarity.masked_fill(same, excluded).logsumexp(dim=1, keepdim=True)
    each = nn.functional.softplus(negatives - similarity)
    positive = same & ~own
    return each.masked_fill(~positive, 0.0).sum() / positive.sum()


def same_label(targets: Tensor) -> Tensor:
    """Which items are positives of each other: [B, B] bool, true on the diagonal."""
    if targets.dim() == 1:
        return targets[:, None] == targets[None, :]
    own = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    return (targets @ targets.T > 0) | own


def reconstruction_loss(decoder: nn.Module, logits: Tensor, latents: Latents) -> Tensor:
    """L_ceb: how far both latents [B, D] are from a function of the prediction [B, C]; scalar."""
    both = torch.cat([latents.image, latents.text], dim=1)
    return nn.functional.mse_loss(decoder(logits.detach()), both)


def latent_decoder(backbone: Backbone, classes: int, seed: int) -> nn.Sequential:
    """Decoder from logits [B, C] to both latents [B, 2D], on the backbone's device and dtype."""
    width = backbone.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = nn.Sequential(
            nn.Linear(classes, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, 2 * width, bias=False),
        )
    return decoder.to(next(backbone.parameters()))


@torch.no_grad()
def contribution_norms(parts: Latents) -> dict[str, Tensor | float]:
    """Mean norm of each side's contributions about their batch mean, to log."""
    norms: dict[str, Tensor | float] = {}
    for modality in MODALITIES:
        part = parts.of(modality)
        norms[f"norm_{modality}"] = (part - part.mean(dim=0)).norm(dim=1).mean()
    return norms
